"""Validation rules for the keys of segtune's own options, such as loss.gamma.

Each rule belongs to the function, network or reader that an option calls, and applies only to options that call it. A
user's own option may therefore use keys such as weight, gamma or channels with any meaning.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

Rule = tuple[Callable[[Any], bool], str]  # a test of a value, and a description of valid values


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def whole(low: int, high: float = math.inf) -> Rule:
    span = f"from {low} to {high}" if high < math.inf else f"of at least {low}"
    return lambda v: isinstance(v, int) and not isinstance(v, bool) and low <= v <= high, f"a whole number {span}"


def real(low: float, high: float = math.inf, *, open_low: bool = False) -> Rule:
    words = f"{'above' if open_low else 'of at least'} {low:g}" + (f" and at most {high:g}" if high < math.inf else "")
    return (
        lambda v: is_number(v) and math.isfinite(v) and (low < v if open_low else low <= v) and v <= high,
        f"a number {words}",
    )


def wholes(low: int, high: float = math.inf, *, n: int | None = None) -> Rule:
    """Return the rule for a list of whole numbers: exactly n numbers or, without n, at least one."""
    fulfils, requirement = whole(low, high)
    words = requirement.removeprefix("a whole number ")
    return (
        lambda v: isinstance(v, list) and (len(v) == n if n else len(v) > 0) and all(map(fulfils, v)),
        f"a list of {f'{n} ' if n else ''}whole numbers {words}",
    )


def one_of(*names: str) -> Rule:
    return lambda v: v in names, f"one of {', '.join(names)}"


def which_volume() -> Rule:
    def is_one(v: Any) -> bool:
        return (isinstance(v, int) and not isinstance(v, bool) and v >= 0) or (isinstance(v, str) and bool(v.strip()))

    return (
        lambda v: is_one(v) or (isinstance(v, list) and bool(v) and all(map(is_one, v))),
        "a frame's number, the text that names a volume, a list of these, or largest or smallest",
    )


FOLDER = (
    lambda v: isinstance(v, str) and bool(v.strip()),
    "a folder. If the name of the folder is a number, put the name in quotes: data.root='\"5\"'",
)
EMPTY = one_of("keep", "drop")
DROPOUT = (lambda v: is_number(v) and 0 <= v < 1, "a number of at least 0 and below 1")
LEARNING_RATE = real(0, open_low=True)

PROBABILITY, FLAG = real(0, 1), (lambda v: isinstance(v, bool), "true or false")

OF_TARGET: dict[str, dict[str, Rule]] = {
    "segtune.losses.boundary": {"weight": real(0)},
    "segtune.losses.dice_focal": {"gamma": real(0), "alpha": real(0, 1)},
    "segtune.losses.focal": {"gamma": real(0), "alpha": real(0, 1)},
    "segtune.losses.focal_tversky": {"gamma": real(0), "alpha": real(0, 1), "beta": real(0, 1)},
    "segtune.losses.topk_bce": {"fraction": real(0, 1, open_low=True)},
    "segtune.losses.tversky": {"alpha": real(0, 1), "beta": real(0, 1)},
    "segtune.regularizers.l1l2": {"lambda_l1": real(0), "lambda_l2": real(0)},
    "segtune.nets.UNet": {
        "width": whole(1),
        "convolutions": whole(1),
        "dropout": DROPOUT,
        "bn_momentum": real(0, 1, open_low=True),
    },
    "segtune.nets.PlainUNet": {
        "width": whole(1),
        "convolutions": whole(1),
        "norm": one_of("batch", "instance"),
        "bn_momentum": real(0, 1, open_low=True),
    },
    "monai.networks.nets.BasicUNet": {"features": wholes(1, n=6), "norm": one_of("batch", "instance"), "dropout": DROPOUT},
    "monai.networks.nets.AttentionUnet": {"channels": wholes(2), "strides": wholes(1, 2), "dropout": DROPOUT},
    "torch.optim.Adam": {"lr": LEARNING_RATE, "eps": real(0, open_low=True)},
    "torch.optim.AdamW": {"lr": LEARNING_RATE, "eps": real(0, open_low=True)},
    "torch.optim.SGD": {"lr": LEARNING_RATE},
    "segtune.optimizers.keras_adam": {"lr": LEARNING_RATE, "eps": real(0, open_low=True)},
    "segtune.optimizers.adamw_on_weights": {"lr": LEARNING_RATE, "weight_decay": real(0)},
    "segtune.augment.augment": {
        "patch": (
            lambda v: v == "auto" or (isinstance(v, int) and not isinstance(v, bool) and v >= 16 and v % 16 == 0),
            "auto, null or a multiple of 16, because the network halves the size of the image four times",
        ),
        **dict.fromkeys(("p_geometry", "p_bias", "p_gamma", "p_contrast", "p_brightness", "p_noise"), PROBABILITY),
        **{"rotation_deg": real(0, 180), "scale": real(1, 4), "shear": real(0, 1), "shift": real(0, 0.5), "mirror": FLAG},
        **{"bias_sd": real(0, 2), "gamma": real(1, 10), "contrast": real(0, 1), "brightness": real(0), "noise_sd": real(0)},
    },
    "segtune.schedules.constant": {"warmup_steps": whole(0)},
    "torch.optim.lr_scheduler.StepLR": {"step_size": whole(1), "gamma": real(0, open_low=True)},
    "torch.optim.lr_scheduler.CosineAnnealingLR": {"T_max": whole(1), "warmup_steps": whole(0)},
    "segtune.data.acdc.read": {"root": FOLDER, "slice_axis": whole(0, 2), "empty": EMPTY},
    "segtune.data.folder.read": {
        "root": FOLDER,
        "gap_mm": real(0, open_low=True),
        "ed": which_volume(),
        "es": which_volume(),
        "empty": EMPTY,
    },
    "segtune.data.nnunet.read": {
        "root": FOLDER,
        "ed": which_volume(),
        "es": which_volume(),
        "slice_axis": whole(0, 2),
        "empty": EMPTY,
    },
    "segtune.data.phantom.read": {"seed": whole(0, 2**32 - 1), "n_patients": whole(2, 99), "masks": one_of("pil")},
    "segtune.data.rvsc.read": {"root": FOLDER, "masks": one_of("pil")},
    "segtune.data.sunnybrook.read": {"root": FOLDER, "masks": one_of("pil")},
}
NULLABLE = {
    "alpha",
    "masks",
    "gap_mm",
    "ed",
    "es",
    "slice_axis",
    "patch",
    "T_max",
    "warmup_steps",
}  # keys that may also be null


def of_group(group: str, values: Mapping[str, Any]) -> dict[str, Rule]:
    """Return the rules for the keys of a config group.

    The rules depend on the function, network or reader that is given as `_target_` in the values of the group.
    """
    named = {"data": values.get("reader"), "reg": values.get("penalty")}.get(group, values)
    return OF_TARGET.get(str((named or {}).get("_target_")), {})
