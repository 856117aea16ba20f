"""Decide with evidence which loss, split, regulariser strength and batch size to train a segmentation network with."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtune.report.frames import Results

__version__ = "0.1.0"


def load(folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "Results":
    """Read the results of a sweep, or of several, as pandas tables: segtune.load("outputs/losses").runs, .patients, .history.

    help(segtune.report.frames.Results) explains their columns. Runs that are unfinished or damaged are left out with a warning,
    and listed in .left_out.

    Raises: segtune.errors.InputError if a folder is not the folder of a sweep.
    """
    from segtune.report import frames

    return frames.load(folders)
