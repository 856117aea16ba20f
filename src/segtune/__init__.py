"""Find out by experiment which loss, split, regulariser strength and batch size suit a segmentation network."""

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segtune.report.frames import Results

__version__ = "0.1.0"


def load(folders: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "Results":
    """Read the results of one or more sweeps as pandas tables, as in segtune.load("outputs/losses").runs.

    The tables are .runs, .patients and .history.

    help(segtune.report.frames.Results) explains their columns. Unfinished and damaged runs are not in the tables. They
    are listed in .left_out, and a warning is logged.

    Raises: segtune.errors.InputError if a folder is not the folder of a sweep.
    """
    from segtune.report import frames

    return frames.load(folders)
