"""Facts about segtune's own readers, such as the structures in their data and the location of contour files.

Every reader module ends with a constant READER that holds its facts. A module is imported only when its facts are needed. A
user's own reader is never imported here, because the configuration may come from a run folder that somebody else made.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from segtune.errors import InputError

NAMES = ("acdc", "folder", "nnunet", "phantom", "rvsc", "sunnybrook")  # the options in conf/data, and modules of this package


class ContourFile(NamedTuple):
    """One contour file. image: the file of the image on which the contour was drawn; None if it is missing."""

    patient: str
    frame: int
    target: str
    path: Path
    image: Path | None


@dataclass(frozen=True, kw_only=True)
class Reader:
    """The facts about a reader and its data. For a user's own reader, only the name is known.

    Attributes:
        name: the reader's option name, such as rvsc for segtune.data.rvsc.read.
        kind: the format of the data. It is "rvsc" for the phantom, and equal to the name for all other readers.
        targets: the values that data.target may have; empty if the data themselves define the structures.
        same_structures: target -> kind -> name. In data of this kind, the target's structure has this name.
        image_code: Python code for the model card. The code loads the pixels of the image file `path`. Empty if
            unknown.
        contour_files: function that lists the contour files of all targets below a root folder; None if the data have
            no contour files.
        first_px: coordinate of the first pixel's centre in the convention of the contour files [pixels].
        sizes: the smallest and the largest data.size that can be generated [pixels]; None if the data are not generated.
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
    """Return the facts about the reader that is set in data.reader._target_. Args: data: cfg.data."""
    target = str(data["reader"]["_target_"])
    name = target.split(".")[-2:][0]
    if name not in NAMES or target != f"segtune.data.{name}.read":
        return Reader(name=name, kind=name)
    reader: Reader = importlib.import_module(f"segtune.data.{name}").READER
    return reader


def check_target(data: Mapping[str, Any]) -> None:
    """Check that data.target is a structure of the reader's data. Nothing is checked if data.reader is not set.

    Raises: InputError if there is no such structure.
    """
    targets = of(data).targets if data.get("reader") else ()
    if targets and data["target"] not in targets:
        raise InputError(f"data.target={data['target']}: must be one of {', '.join(targets)}.")
