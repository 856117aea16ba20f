"""Export the network of a run as ONNX and compare its outputs with PyTorch's."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import segtune
from segtune.errors import InputError, printable
from segtune.inference import card
from segtune.runs import layout

if TYPE_CHECKING:
    from torch import nn

    from segtune.inference.models import Trained

MODEL, CARD = "model.onnx", "model_card.md"
OPSET = 17  # released in 2022; current ONNX runtimes support it
TOLERANCE = 1e-4  # largest accepted difference between ONNX and PyTorch; rounding causes about 1e-6
SHAPES = ((1, 32, 32), (2, 48, 32), (5, 32, 64))  # (images, height, width) of the test batches
LARGEST_CHECKED = 512  # side [pixels] of the test image if the run's images are larger


class Agreement(NamedTuple):
    """The difference between the outputs of model.onnx and of PyTorch.

    difference: the largest difference of all probabilities and logits. For probabilities it is absolute, for logits it
    is relative to max(1, |logit|). NaN if an output is not finite. n: the number of test batches, each with a different
    image size. runtime: the version of onnxruntime.
    """

    difference: float
    n: int
    runtime: str


def checked(model: "Trained", path: Path) -> Agreement:
    """Write model.onnx and compare it with PyTorch. Raises: InputError if the export fails or the outputs differ too much."""
    try:
        write_onnx(model, path)
        data = model.config["data"]
        found = agreement(path, model.net, size=min(data["size"], LARGEST_CHECKED), factor=data.get("downsample") or 1)
    except Exception as error:
        if not type(error).__module__.startswith(("torch.onnx", "onnx")):
            raise
        why = f"its network cannot be exported as ONNX ({(str(error).splitlines() or [type(error).__name__])[0]})"
    else:
        if found.difference <= TOLERANCE:
            return found
        why = f"the outputs of ONNX and PyTorch differ by {found.difference:.1e}, but only {TOLERANCE:g} is allowed"
    raise InputError(f"run={model.folder}: {why}. Nothing was written. Try the library versions of constraints.txt.")


def agreement_text(found: Agreement) -> str:
    return (
        f"outputs differ from PyTorch by at most {found.difference:.1e} on random images of {found.n} sizes (onnxruntime "
        f"{found.runtime}; {TOLERANCE:g} is allowed)"
    )


def card_of(model: "Trained", checked: str) -> str:
    """Return the model card. Raises: InputError if the run's result, tables or status have values of a wrong type."""
    try:
        return card.page(model.folder, model.result, which=model.which, checked=checked)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{model.folder / layout.RESULT}, or a table in its folder, is damaged. Copy the run's folder again."
        ) from error


# ONNX


def write_onnx(model: "Trained", path: Path) -> None:
    """Write the network as ONNX.

    Input: image (batch, 1, height, width), float32, normalised; height and width are multiples of 16,
    or of 16 * data.downsample if the run downsamples. Outputs: probability and logits, of the same shape.
    """
    import onnx
    import torch

    factor = model.config["data"].get("downsample") or 1
    with warnings.catch_warnings():
        # PyTorch's newer exporter takes 30 times as long, and some of its versions fail on MONAI's networks. This exporter
        # warns that it is deprecated, and about each size that it treats as constant. agreement() tests several sizes instead.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.net,
            (torch.zeros(2, 1, 32 * factor, 48 * factor),),
            str(path),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 2: "height", 3: "width"} for name in ("image", "logits")},
            opset_version=OPSET,
            dynamo=False,
        )
    written = onnx.load(path)
    written.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["probability"]))
    shape = ("batch", 1, "height", "width")
    written.graph.output.insert(0, onnx.helper.make_tensor_value_info("probability", onnx.TensorProto.FLOAT, shape))
    written.doc_string = (
        f"Probability and logit that a pixel belongs to the structure ({plain(model.target)}). For research use only, not a "
        f"medical device. See {CARD}."
    )
    onnx.helper.set_model_props(written, {key: plain(value) for key, value in metadata(model).items()})
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, path)


def metadata(model: "Trained") -> dict[str, Any]:
    """Return the metadata for the ONNX file. Other programs need them to preprocess images for the model."""
    data = model.config["data"]
    return {
        "run_id": model.result["run_id"],
        "epoch": model.which,
        "target": model.target,
        **{key: data.get(key) for key in ("size", "normalize", "spacing_mm", "larger", "antialias", "downsample")},
        "threshold": 0.5,
        "segtune": segtune.__version__,
    }


def plain(value: Any) -> str:
    """Convert a value to printable text. Strings are kept, and other values are written as JSON.

    Characters that are invalid in UTF-8 are replaced by "?".
    """
    return printable((value if isinstance(value, str) else json.dumps(value)).encode(errors="replace").decode())


def agreement(path: Path, net: "nn.Module", *, size: int, factor: int = 1) -> Agreement:
    """Compare the ONNX file with the network on random images of several sizes (half of them smooth)."""
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random, differences = np.random.default_rng(0), []
    shapes = (*((n, height * factor, width * factor) for n, height, width in SHAPES), (1, size, size))
    for n, height, width in shapes:
        image = random.normal(size=(n, 1, height, width)).astype(np.float32)
        image[::2] = image[::2, :, ::16, ::16].repeat(16, axis=2).repeat(16, axis=3)
        with torch.inference_mode():
            expected = net(torch.from_numpy(image)).double()
        probability, logits = session.run(["probability", "logits"], {"image": image})
        differences += [
            np.abs(probability - torch.sigmoid(expected).numpy()).max(),
            (np.abs(logits - expected.numpy()) / np.maximum(1, np.abs(expected.numpy()))).max(),
        ]
    return Agreement(float(np.max(differences)), len(shapes), onnxruntime.__version__)
