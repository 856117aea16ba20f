"""python -m segtune.export run=outputs/runs/<id>: export the network of a finished run as ONNX, with a model card.

The outputs of model.onnx are compared with PyTorch's, and the output folder is created only if they agree. The command does
not need the training data.
"""

import dataclasses
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry, rules
from segtune.errors import InputError
from segtune.inference.export import CARD, MODEL, agreement_text, card_of, checked
from segtune.runs import expected, layout
from segtune.runs.files import new_folder
from segtune.runs.result import verify_files


def export(cfg: DictConfig) -> None:
    """Write model.onnx and the model card, and print their paths and how well ONNX and PyTorch agree."""
    rules.check({"outputs": cfg.outputs})
    if not isinstance(cfg.run, str | int):
        raise InputError("run=: give the folder of one run, like run=outputs/runs/0123456789ab.")
    if not isinstance(cfg.output, str | int | None):
        raise InputError(f"output={cfg.output}: give one new folder, like output=right_ventricle.")
    from segtune.inference import models

    model = models.load(str(cfg.run), which=str(cfg.which), trust=entry.plain(cfg)["trust"], tta=False)
    if cfg.chosen_from is not None:
        if model.result["data"]["patients"].get("val"):
            raise InputError("chosen_from=: this run has validation patients, so its card has its own scores. Leave it out.")
        told = expected.score(str(cfg.chosen_from), model.config, str(model.result["data"]["fingerprint"]))
        model = dataclasses.replace(model, result={**model.result, "expected": told})
    output = Path(str(cfg.output) if cfg.output is not None else Path(cfg.outputs) / "export" / model.result["run_id"])
    verify_files(model.folder, model.result, layout.TABLES)
    with new_folder(output.expanduser()) as folder:
        found = checked(model, folder / MODEL)
        (folder / CARD).write_bytes(card_of(model, agreement_text(found)).encode(errors="replace"))
    print(f"{output / MODEL}: {agreement_text(found)}\n{output / CARD}")


if __name__ == "__main__":
    entry.entry("export", export)
