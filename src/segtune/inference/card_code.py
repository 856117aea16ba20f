"""The Python code in a model card that uses model.onnx without segtune; card_code.py.j2 holds its text."""

from collections.abc import Mapping
from typing import Any

from segtune.data import readers
from segtune.inference.markdown import Markdown, rendered

NORMALIZED = {  # data.normalize -> in words, and as code
    "zscore": (
        "(intensity - mean) / standard deviation over the image's own pixels",
        "(seen - seen.mean(dtype=np.float64)) / (seen.std(dtype=np.float64) or 1)",
    ),
    "divide255": ("intensity / 255", "seen / 255"),
}


def code(result: Mapping[str, Any]) -> str:
    """Code that gives one image's mask with numpy and onnxruntime alone, by the run's own steps. A test runs it.

    No text of the run enters it: what is inserted is a number, or stands in this program.
    """
    config = result["config"]["data"]
    spacing_mm = config.get("spacing_mm")
    low, _ = result["data"].get("pixel_mm") or (1, 1)
    values = {
        "source": Markdown(readers.of(config).image_code or "grey values"),
        "size": int(config["size"]),
        "pixel_mm": f"{float(low):.4g}",
        "spacing_mm": None if spacing_mm is None else float(spacing_mm),
        "crops": bool(config.get("larger")),
        "normalized": Markdown(NORMALIZED[config["normalize"]][1]),
    }
    return rendered("card_code.py.j2", values)
