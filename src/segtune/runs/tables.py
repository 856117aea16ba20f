"""CSV tables and pictures of a run: history.csv, slices.csv, cases.csv, patients.csv, pictures.npz."""

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segtune.errors import InputError
from segtune.runs import layout
from segtune.runs.files import check_owner, naming, open_regular, read_bytes, write_atomically

if TYPE_CHECKING:
    import numpy as np  # its import takes a tenth of a second, which reading results can do without
LARGEST_TABLE, LARGEST_PICTURES = 2**27, 2**28  # the most bytes of a file that is read; of pictures: unpacked
LARGEST_SIDE = 2048  # pixels of a picture
MOST_COLUMNS = 256  # of a table


def append_history(folder: Path, row: Mapping[str, float]) -> None:
    """Append an epoch's row, with the keys HISTORY_COLUMNS, to history.csv."""
    if set(row) != set(layout.HISTORY_COLUMNS):
        raise ValueError(f"history row with {sorted(set(row) ^ set(layout.HISTORY_COLUMNS))} missing or unknown")
    path = folder / layout.HISTORY
    text = csv_text(layout.HISTORY_COLUMNS, [row], header=not path.exists())
    check_owner(path)
    with naming(path), open_regular(path, "ab") as file:
        file.write(text.encode())


def cut_history(folder: Path, epochs: int) -> bool:
    """Keep the first epochs of history.csv, up to the checkpoint from which a run resumes; False if one is missing."""
    try:
        rows = [row for row in read_csv(folder / layout.HISTORY) if None not in row.values()][:epochs]
        numbers = [[float(row[column]) for column in layout.HISTORY_COLUMNS] for row in rows]
    except (InputError, KeyError, ValueError):
        return False
    whole = [row[0] for row in numbers] == list(range(1, epochs + 1))
    if whole:
        write_atomically(folder / layout.HISTORY, csv_text(layout.HISTORY_COLUMNS, rows).encode())
    return whole


def read_history(folder: Path) -> dict[str, list[float]]:
    """The columns of history.csv, for the epochs so far."""
    path = folder / layout.HISTORY
    rows = read_csv(path)
    try:
        return {column: [float(row[column]) for row in rows] for column in layout.HISTORY_COLUMNS}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged. Remove {folder / layout.RESULT} and start the run's command again.") from error


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """The rows of a table as dicts. Raises: InputError if it is missing (runs of early versions have slices.csv only)."""
    return read_csv(folder / name)


def read_pictures(folder: Path) -> "dict[str, np.ndarray]":
    """The arrays of pictures.npz: {best,median,worst}_{image,true,pred,frame,patient}. Raises: InputError."""
    import numpy as np

    path = folder / layout.PICTURES
    try:
        with open_regular(path) as opened:
            with zipfile.ZipFile(opened) as archive:
                if sum(entry.file_size for entry in archive.infolist()) > LARGEST_PICTURES:
                    raise ValueError(f"more than {LARGEST_PICTURES >> 20} MB")
            opened.seek(0)
            with np.load(opened, allow_pickle=False) as file:
                pictures = dict(file)
        _check_pictures(pictures)
        return pictures
    except FileNotFoundError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
        MemoryError,
        RuntimeError,
        NotImplementedError,
        zipfile.BadZipFile,
    ) as error:
        raise InputError(f"{path}: damaged. Remove {folder / layout.RESULT} and start the run's command again.") from error


def _check_pictures(pictures: "Mapping[str, np.ndarray]") -> None:
    """Raises: KeyError or ValueError unless each patient has images and masks of one shape, which a run can have written."""
    for which in ("best", "median", "worst"):
        image, true, predicted = (pictures[f"{which}_{part}"] for part in ("image", "true", "pred"))
        n, *sides = image.shape
        if not (image.shape == true.shape == predicted.shape and len(sides) == 2 and n == len(pictures[f"{which}_frame"]) > 0):
            raise ValueError(f"{which}: images, masks and frames do not fit each other")
        if not (image.dtype.kind == "u" and true.dtype == predicted.dtype == bool and max(sides) <= LARGEST_SIDE):
            raise ValueError(f"{which}: no images and masks of at most {LARGEST_SIDE} pixels")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """The rows as CSV. A missing key or None becomes an empty cell, NaN becomes nan, and formulas become text (safe_cell)."""
    lines = _Lines()
    writer: csv.DictWriter[str] = csv.DictWriter(lines, columns, lineterminator="\r\n", restval="")
    if header:
        writer.writerow({column: safe_cell(column) for column in columns})
    writer.writerows({column: safe_cell(value) for column, value in row.items()} for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """Collects lines that end in \\n. The csv writer is given \\r\\n, so that it quotes texts that contain either character."""

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


# The beginning of a cell that a spreadsheet would compute, with or without the ' of safe_cell. Some accept full-width signs.
FORMULA = re.compile("'*([\\s\0\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
CONTROLS = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # they steer a terminal, as `cat` on a table does
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|nan)", re.IGNORECASE | re.ASCII)


def safe_cell(value: Any) -> Any:
    """A value as a cell of a table. A text that a spreadsheet would take for a formula is preceded by a '.

    Numbers, and texts that are numbers, stay as they are. Control characters become ?.
    """
    if not isinstance(value, str):
        return value
    value = CONTROLS.sub("?", value)
    return f"'{value}" if FORMULA.match(value) and not NUMBER.fullmatch(value) else value


def _uncelled(value: Any) -> Any:
    """The text that safe_cell has written as this."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


def read_csv(path: Path) -> list[dict[str, str]]:
    try:
        content = read_bytes(path, LARGEST_TABLE).decode()
        rows = csv.DictReader(io.StringIO(content, newline=""))
        if len(rows.fieldnames or ()) > MOST_COLUMNS:  # each row would have them all, however short it is
            raise ValueError(f"more than {MOST_COLUMNS} columns")
        return [{column: _uncelled(value) for column, value in row.items()} for row in rows]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Has the run started?") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}). Start the run's command again.") from error
