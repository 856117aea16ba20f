"""A run's network as ONNX, checked against PyTorch."""

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
OPSET = 17  # of 2022: what runtimes of today have in common
TOLERANCE = 1e-4  # by which ONNX and PyTorch may differ; rounding makes some 1e-6
SHAPES = ((1, 32, 32), (2, 48, 32), (5, 32, 64))  # images, rows and columns of the check, beside one of the run's own size
LARGEST_CHECKED = 512  # pixels of its side; of a larger one the check takes this


class Agreement(NamedTuple):
    """How far model.onnx is from PyTorch.

    difference: the largest, of a probability, or of a logit in parts of that logit if it is above 1; NaN if an output is not
    finite. n: batches of images, each of a size of its own. runtime: onnxruntime's version.
    """

    difference: float
    n: int
    runtime: str


def checked(model: "Trained", path: Path) -> Agreement:
    """Write model.onnx. Raises: InputError if it does not do what the network does in PyTorch."""
    try:
        write_onnx(model, path)
        found = agreement(path, model.net, size=min(model.config["data"]["size"], LARGEST_CHECKED))
    except Exception as error:
        if not type(error).__module__.startswith(("torch.onnx", "onnx")):
            raise
        why = f"its network cannot be had as ONNX ({(str(error).splitlines() or [type(error).__name__])[0]})"
    else:
        if found.difference <= TOLERANCE:
            return found
        why = f"as ONNX, its network differs from PyTorch by {found.difference:.1e}, and {TOLERANCE:g} is allowed"
    raise InputError(f"run={model.folder}: {why}. Nothing is written. Try the versions of constraints.txt.")


def agreement_text(found: Agreement) -> str:
    return (
        f"differs from PyTorch by {found.difference:.1e} at most, on random images of {found.n} sizes (onnxruntime "
        f"{found.runtime}; {TOLERANCE:g} is allowed)"
    )


def card_of(model: "Trained", checked: str) -> str:
    """Raises: InputError for a result, a table or a status with values of a wrong kind."""
    try:
        return card.page(model.folder, model.result, which=model.which, checked=checked)
    except InputError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InputError(
            f"{model.folder / layout.RESULT}, or a table beside it, is damaged. Copy the run's folder again."
        ) from error


# ONNX


def write_onnx(model: "Trained", path: Path) -> None:
    """image (batch, 1, height, width) float32, normalised, sides multiples of 16, to probability and logits of that shape."""
    import onnx
    import torch

    with warnings.catch_warnings():
        # PyTorch's newer exporter takes 30 times as long, and some versions fail on MONAI's networks. This one is deprecated,
        # and tells of every size that it takes for constant: agreement() tries others.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model.net,
            (torch.zeros(2, 1, 32, 48),),
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
        f"probability that a pixel is of the structure ({plain(model.target)}), and its logits. For research use only, not a "
        f"medical device. See {CARD}."
    )
    onnx.helper.set_model_props(written, {key: plain(value) for key, value in metadata(model).items()})
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, path)


def metadata(model: "Trained") -> dict[str, Any]:
    """What a program needs to know to give it an image."""
    data = model.config["data"]
    return {
        "run_id": model.result["run_id"],
        "epoch": model.which,
        "target": model.target,
        **{key: data.get(key) for key in ("size", "normalize", "spacing_mm", "larger")},
        "threshold": 0.5,
        "segtune": segtune.__version__,
    }


def plain(value: Any) -> str:
    """As UTF-8, which not every string of JSON can be; what is no string as JSON."""
    return printable((value if isinstance(value, str) else json.dumps(value)).encode(errors="replace").decode())


def agreement(path: Path, net: "nn.Module", *, size: int) -> Agreement:
    """Run both on random images, some of them smooth, of several batch sizes and sides."""
    import numpy as np
    import onnxruntime
    import torch

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    random, differences = np.random.default_rng(0), []
    shapes = (*SHAPES, (1, size, size))
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
