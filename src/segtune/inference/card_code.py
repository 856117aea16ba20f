"""Generate the Python code in a model card that runs model.onnx without segtune. Its template is card_code.py.j2."""

from collections.abc import Mapping
from typing import Any

from segtune.data import readers
from segtune.inference.markdown import Markdown, rendered

NORMALIZED = {  # data.normalize -> description, Python code
    "zscore": (
        "(intensity - mean) / standard deviation, both computed over this image's pixels",
        "(seen - seen.mean(dtype=np.float64)) / (seen.std(dtype=np.float64) or 1)",
    ),
    "divide255": ("intensity / 255", "seen / 255"),
}


def code(result: Mapping[str, Any]) -> str:
    """Return Python code that preprocesses an image as in the run and predicts its mask.

    The code uses only numpy and onnxruntime.

    Only numbers from the run's result are inserted, never text, so an untrusted run cannot inject code.
    """
    config = result["config"]["data"]
    spacing_mm = config.get("spacing_mm")
    low, _ = result["data"].get("pixel_mm") or (1, 1)
    values = {
        "source": Markdown(readers.of(config).image_code or "grey values"),
        "size": int(config["size"]),
        "multiple": 16 * int(config.get("downsample") or 1),
        "pixel_mm": f"{float(low):.4g}",
        "spacing_mm": None if spacing_mm is None else float(spacing_mm),
        "antialias": bool(config.get("antialias")),
        "crops": bool(config.get("larger")),
        "normalized": Markdown(NORMALIZED[config["normalize"]][1]),
    }
    return rendered("card_code.py.j2", values)
