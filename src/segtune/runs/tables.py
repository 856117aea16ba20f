"""Read and write the CSV tables of a run, and read its pictures: history.csv, slices.csv, pictures.npz and others."""

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
    import numpy as np  # its import takes 0.1 s, and only pictures need it
LARGEST_TABLE, LARGEST_PICTURES = 2**27, 2**28  # largest size of a table, and of the unpacked pictures [bytes]
LARGEST_SIDE = 2048  # largest side of a picture [pixels]
MOST_COLUMNS = 256  # largest number of columns of a table


def append_history(folder: Path, row: Mapping[str, float]) -> None:
    """Append the row of one epoch to history.csv. Its keys must be HISTORY_COLUMNS."""
    if set(row) != set(layout.HISTORY_COLUMNS):
        raise ValueError(f"history row: the keys {sorted(set(row) ^ set(layout.HISTORY_COLUMNS))} are missing or unknown")
    path = folder / layout.HISTORY
    text = csv_text(layout.HISTORY_COLUMNS, [row], header=not path.exists())
    check_owner(path)
    with naming(path), open_regular(path, "ab") as file:
        file.write(text.encode())


def cut_history(folder: Path, epochs: int) -> bool:
    """Remove all rows of history.csv that are later than the checkpoint from which the run resumes.

    Args: epochs: the number of epochs to keep.
    Returns: False if one of these epochs is missing. In this case, the file is not changed.
    """
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
    """Read the columns of history.csv. Raises: InputError if it is missing or damaged."""
    path = folder / layout.HISTORY
    rows = read_csv(path)
    try:
        return {column: [float(row[column]) for row in rows] for column in layout.HISTORY_COLUMNS}
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: damaged. Remove {folder / layout.RESULT} and start the run's command again.") from error


def read_table(folder: Path, name: str) -> list[dict[str, str]]:
    """Read the rows of a table as dicts. Raises: InputError if it is missing (runs of early versions only have slices.csv)."""
    return read_csv(folder / name)


def read_pictures(folder: Path) -> "dict[str, np.ndarray]":
    """Read the arrays of pictures.npz: {best,median,worst}_{image,true,pred,frame,patient}. Raises: InputError."""
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
        if pictures:  # a run without validation patients has none
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
    """Check that each patient has images and masks of the same shape and of valid types. Raises: KeyError or ValueError."""
    for which in ("best", "median", "worst"):
        image, true, predicted = (pictures[f"{which}_{part}"] for part in ("image", "true", "pred"))
        n, *sides = image.shape
        if not (image.shape == true.shape == predicted.shape and len(sides) == 2 and n == len(pictures[f"{which}_frame"]) > 0):
            raise ValueError(f"{which}: images, masks and frames do not match")
        if not (image.dtype.kind == "u" and true.dtype == predicted.dtype == bool and max(sides) <= LARGEST_SIDE):
            raise ValueError(f"{which}: images or masks have a wrong type or a side of more than {LARGEST_SIDE} pixels")


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]], *, header: bool = True) -> str:
    """Write rows as CSV text. Missing keys and None become empty cells, NaN becomes nan, formulas become text (safe_cell)."""
    lines = _Lines()
    writer: csv.DictWriter[str] = csv.DictWriter(lines, columns, lineterminator="\r\n", restval="")
    if header:
        writer.writerow({column: safe_cell(column) for column in columns})
    writer.writerows({column: safe_cell(value) for column, value in row.items()} for row in rows)
    return "".join(lines)


class _Lines(list[str]):
    """Collects the lines of a csv writer, and replaces \\r\\n at the end of each line by \\n.

    The writer itself must end lines with \\r\\n, so that it quotes texts that contain \\r or \\n.
    """

    def write(self, line: str) -> None:
        self.append(line.removesuffix("\r\n") + "\n")


# The beginning of a cell that a spreadsheet takes for a formula, with or without the ' that safe_cell adds. Some spreadsheets
# also accept full-width signs.
FORMULA = re.compile("'*([\\s\0\ufeff]*[=+\\-@\uff1d\uff0b\uff0d\uff20]|[\t\r\n])")
CONTROLS = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")  # a terminal would execute them, for example in `cat table.csv`
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|[+-]?(inf|nan)", re.IGNORECASE | re.ASCII)


def safe_cell(value: Any) -> Any:
    """Convert a value to a cell of a table. A ' is put before text that a spreadsheet would take for a formula.

    Numbers and texts that are numbers are not changed. Control characters are replaced by question marks.
    """
    if not isinstance(value, str):
        return value
    value = CONTROLS.sub("?", value)
    return f"'{value}" if FORMULA.match(value) and not NUMBER.fullmatch(value) else value


def _uncelled(value: Any) -> Any:
    """Undo safe_cell: return the original text of a cell."""
    return value[1:] if isinstance(value, str) and value.startswith("'") and FORMULA.match(value) else value


def read_csv(path: Path) -> list[dict[str, str]]:
    try:
        content = read_bytes(path, LARGEST_TABLE).decode()
        rows = csv.DictReader(io.StringIO(content, newline=""))
        if len(rows.fieldnames or ()) > MOST_COLUMNS:  # every row, however short, would get all columns
            raise ValueError(f"more than {MOST_COLUMNS} columns")
        return [{column: _uncelled(value) for column, value in row.items()} for row in rows]
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}). Has the run started?") from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"{path}: damaged ({error}). Start the run's command again.") from error
