"""What each of segtune's own readers states about itself: the structures in its data, its contour files, its images.

Every reader module ends with a constant READER. A module is imported only when its facts are asked for, and a user's own
reader never is: the configuration may come from a run folder that somebody else made.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from segtune.errors import InputError

NAMES = ("acdc", "folder", "nnunet", "phantom", "rvsc", "sunnybrook")  # conf/data, and the modules beside this one


class ContourFile(NamedTuple):
    """One contour file: image is the file of the image that it is drawn on, None if there is none."""

    patient: str
    frame: int
    target: str
    path: Path
    image: Path | None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The facts about a reader and its data; of a user's own reader only the name is known.

    Attributes:
        name: the reader's option: rvsc for segtune.data.rvsc.read.
        kind: the format of the data: "rvsc" for the phantom, the name for all others.
        targets: the values that data.target may have; empty where the data define the structures.
        same_structures: target -> kind of other data -> the name of the same structure in those data.
        image_code: Python code, for the model card, that gives the pixels of the image file `path`; empty if unknown.
        contour_files: lists the contour files of all targets below a root folder; None if the data have none.
        first_px: the coordinate of the centre of the first pixel in the contour files [pixels].
        sizes: the smallest and largest data.size in which the data can be made [pixels]; None for data that exist.
        is_synthetic: whether the images show no real patients.
    """

    name: str
    kind: str
    targets: tuple[str, ...] = ()
    same_structures: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    image_code: str = ""
    contour_files: Callable[[str], Iterator[ContourFile]] | None = None
    first_px: float = 0.0
    sizes: tuple[int, int] | None = None
    is_synthetic: bool = False


def of(data: Mapping[str, Any]) -> Reader:
    """The facts about the reader of this cfg.data, which data.reader._target_ names."""
    target = str(data["reader"]["_target_"])
    name = target.split(".")[-2:][0]
    if name not in NAMES or target != f"segtune.data.{name}.read":
        return Reader(name=name, kind=name)
    reader: Reader = importlib.import_module(f"segtune.data.{name}").READER
    return reader


def check_target(data: Mapping[str, Any]) -> None:
    """Raises: InputError if data.target is not a structure of the reader's data; data that name no reader pass."""
    targets = of(data).targets if data.get("reader") else ()
    if targets and data["target"] not in targets:
        raise InputError(f"data.target={data['target']}: must be one of {', '.join(targets)}.")
