"""List folders, open files safely, and parse names into patient, visit, phase, frame and slice.

Files outside the folder of the data are not read.
"""

import errno
import os
import re
import stat
import unicodedata
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from segtune.data.slices import Phase
from segtune.errors import InputError

EXAMPLES = (  # as typed on the command line, in quotes for the shell and for Hydra
    "\"data.patient='(?P<patient>[^_]+)_'\" (the name up to its first _) or \"data.patient='(?P<patient>.+)'\" (each name is a "
    "patient of its own)"
)
MARKS = {  # for each group: the prefix before it in a name, and the pattern of its value
    "visit": ("(?:visit|vis|v|session|ses|timepoint|tp|scan)[-_ ]?", "[0-9]+"),
    "phase": ("", "(?:ED|ES)(?![A-Z])"),
    "frame": ("(?:frame|fr|f|time|phase|ph)[-_ ]?", "[0-9]+"),
    "slice": ("(?:slice|sl|s|z)[-_ ]?", "[0-9]+"),
}
SEPARATORS = {"/": "/", "_": "_", "-": "-", ".": "[.]", " ": " "}  # in names -> in a regular expression
BEGINNINGS = (  # patterns for the patient: up to the first or last separator, up to the end or the start of the first number
    *(pattern for sep in SEPARATORS.values() for pattern in (f"(?P<patient>.+?){sep}", f"(?P<patient>.+){sep}")),
    *("(?P<patient>[^0-9]*[0-9]+)", "(?P<patient>[^0-9]+)"),
)
FORMS = {  # the expected form of each group, for messages
    **{"patient": "at least one visible character", "visit": "at least one visible character"},
    **{"phase": "ED or ES", "frame": "a number", "slice": "a number"},
}


class Name(NamedTuple):
    """The parts of one name. A part other than the patient is None if the pattern has no group for it."""

    patient: str
    phase: Phase | None
    frame: int | None
    slice: int | None
    visit: str | None = None


def opened(root: str | os.PathLike[str]) -> Path:
    """Return data.root as an existing folder. Raises: InputError if it does not exist."""
    try:
        folder = Path(root).expanduser()
        is_there = folder.is_dir()
    except (OSError, RuntimeError):  # a name that is too long, or the home folder of an unknown user
        is_there = False
    if not is_there:
        raise InputError(f"data.root={root}: there is no such folder. Correct data.root.")
    return folder


def content(path: Path, most_bytes: int) -> bytes:
    """Read a small file. Raises: InputError if the path is not a file, cannot be read, or is larger than most_bytes."""
    check_file(path, most_bytes)
    try:
        with path.open("rb") as file:
            return file.read(most_bytes)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Make it readable, or replace it with the original copy."
        ) from error


def check_file(path: Path, most_bytes: int | None = None) -> None:
    """Check that a path is a readable regular file of at most most_bytes.

    Other kinds of paths are refused because opening a pipe, for example, may block forever.

    Raises: InputError that names the path.
    """
    try:
        about = path.stat()
        if not os.access(path, os.R_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}). Make it readable, or replace it with the original copy."
        ) from error
    if not stat.S_ISREG(about.st_mode):
        raise InputError(f"{path}: cannot be read (it is not a file). Replace it with a file.")
    if most_bytes is not None and about.st_size > most_bytes:
        raise InputError(f"{path}: larger than {most_bytes / 2**20:g} MiB, the limit for this file. Check the file.")


def check_inside(path: Path, root: Path) -> None:
    """Check that a path does not lead out of root through a link. Raises: InputError if it does."""
    try:
        is_inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
    except OSError as error:  # for example a link that only its owner may follow
        raise InputError(f"{path}: cannot be read ({error.strerror}). Replace the link with a copy.") from error
    if not is_inside:
        raise InputError(f"{path}: this link leads out of {root}, and files outside are not read. Replace it with a copy.")


def entries(folder: Path, root: Path) -> list[Path]:
    """List the files and folders in a folder, in natural order, without hidden ones.

    Raises: InputError for a link that leads out of root, for a name that cannot be printed, and for an entry that is neither
        a file nor a folder.
    """
    try:
        found = sorted(
            (path for path in folder.iterdir() if not path.name.startswith(".")), key=lambda path: natural(path.name)
        )
    except OSError as error:
        raise InputError(f"{folder}: this folder cannot be read ({error.strerror}). Make it readable.") from error
    for path in found:
        if not path.name.isprintable():
            raise InputError(f"{folder}: the name {path.name!a} has characters that cannot be printed. Rename it.")
        check_inside(path, root)
        if not (path.is_file() or path.is_dir()):
            raise InputError(f"{path}: this is neither a file nor a folder. Move it elsewhere.")
    return found


def relative(folder: Path, root: Path) -> str:
    """A folder's path relative to root, with slashes; "." if root is the folder itself or a file."""
    return folder.relative_to(root if root.is_dir() else folder).as_posix()


def normal(text: str) -> str:
    """Convert a name to Unicode form NFC (composed letters), because macOS may store names in form NFD (decomposed)."""
    return unicodedata.normalize("NFC", text)


def natural(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts the numbers in names in numerical order: `p2` comes before `p10`."""
    parts: list[str | int] = [*re.split("([0-9]+)", name)]
    parts[1::2] = [int(digits) for digits in parts[1::2]]
    return parts, name


def parse(names: Iterable[str], pattern: str | None, groups: Collection[str]) -> dict[str, Name]:
    """Parse names by the user's regular expression (data.patient), which must match at the beginning of each name.

    Without a pattern, each name is a patient. Parsing without a pattern is refused if several names seem to belong to a
    single patient, because this patient could then be in both training and validation.

    Args: groups: the names of the groups that the pattern may have in addition to `patient`. Possible names are
        `visit`, `phase`, `frame` and `slice`.
    Returns: name -> Name. Patients are in natural order, and their names are sorted by visit, phase, frame, slice and name.
    Raises: InputError if the pattern is not a regular expression, has no group named `patient`, has an unknown group,
        or does not match a name.
    """
    names = list(names)
    if pattern is None:
        if alike := _look_grouped(names):
            raise InputError(
                f"{alike[0]} and {alike[1]} look like the same patient, who must not be in both training and "
                f"validation. Set which part of a name identifies the patient: {_suggested(names, alike, groups)}."
            )
        pattern = "(?P<patient>.+)"
    expression = _compiled(pattern, {"patient", *groups})
    found = {name: _parsed(name, expression) for name in names}

    def place(name: str) -> tuple[object, ...]:
        parsed = found[name]
        what = (natural(parsed.visit or ""), parsed.phase or "", parsed.frame or 0, parsed.slice or 0)
        return natural(parsed.patient), *what, natural(name)

    return {name: found[name] for name in sorted(names, key=place)}


def numbers(parsed: Mapping[str, Name]) -> dict[str, int]:
    """Return the position of each name among the names of its patient, counted from 0 in the given order."""
    count: dict[str, int] = {}
    found = {}
    for name, one in parsed.items():
        found[name] = count[one.patient] = count.get(one.patient, -1) + 1
    return found


def _compiled(pattern: str, groups: Collection[str]) -> re.Pattern[str]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's warnings about future syntax
            expression = re.compile(normal(str(pattern)))
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"data.patient={pattern}: not a regular expression ({error}). Write one like {EXAMPLES}.") from error
    if "patient" not in expression.groupindex:
        raise InputError(f"data.patient={pattern}: it has no group named patient. Write a pattern like {EXAMPLES}.")
    for name in sorted(expression.groupindex.keys() - groups):
        raise InputError(
            f"data.patient={pattern}: it has an unknown group {name}. The groups for these data are "
            f"{', '.join(sorted(groups))}."
        )
    return expression


def _parsed(name: str, expression: re.Pattern[str]) -> Name:
    match = expression.match(name)
    if not match:
        raise InputError(
            f"data.patient={expression.pattern}: the pattern does not match the name {name}. Change the pattern or the name."
        )
    parsed = match.groupdict()
    fits = {
        "patient": lambda text: bool(text.strip()),
        "visit": lambda text: bool(text.strip()),
        "phase": lambda text: text.upper() in ("ED", "ES"),
        "frame": lambda text: bool(re.fullmatch("[0-9]{1,9}", text)),
        "slice": lambda text: bool(re.fullmatch("[0-9]{1,9}", text)),
    }
    for group, text in parsed.items():
        if text is None or not fits[group](text):
            raise InputError(
                f"data.patient={expression.pattern}: in the name {name} the group {group} is {text!r}, not {FORMS[group]}. "
                "Change the pattern or the name."
            )
    return Name(
        patient=parsed["patient"],
        phase=cast(Phase, parsed["phase"].upper()) if "phase" in parsed else None,
        frame=int(parsed["frame"]) if "frame" in parsed else None,
        slice=int(parsed["slice"]) if "slice" in parsed else None,
        visit=parsed.get("visit"),
    )


def _suggested(names: Sequence[str], alike: tuple[str, str], groups: Collection[str]) -> str:
    """Suggest a pattern for data.patient that assigns the two similar names to one patient.

    Patterns with groups for visit, phase, frame or slice, and patterns that find several patients, are preferred.
    """
    found, marked = [], [*_marked(alike[0], groups)]
    for pattern in (*marked, *BEGINNINGS):
        matches = [re.match(pattern, name) for name in names]
        patients = {name: match["patient"] for name, match in zip(names, matches, strict=True) if match}
        if len(patients) == len(names) and patients[alike[0]] == patients[alike[1]]:
            found.append((pattern, patients))
    if not found:
        return EXAMPLES
    pattern, patients = next((one for one in found if one[0] in marked or len({*one[1].values()}) > 1), found[0])
    return (
        f"\"data.patient='{pattern}'\" (then {alike[0]} is of patient {patients[alike[0]]}), or "
        "\"data.patient='(?P<patient>.+)'\" (each name is a patient of its own)"
    )


def _marked(name: str, groups: Collection[str]) -> Iterator[str]:
    """Return patterns for the visit, phase, frame and slice in this name. Patterns with more groups come first."""
    marks = []
    for group in groups:
        before, value = MARKS[group]
        if match := re.search(f"(?<=[-_./ ]){before}({value})", name, re.IGNORECASE):
            marks.append((match.start(), match.start(1), match.end(), group))
    pattern, end, found = "(?P<patient>.+?)", 0, list[str]()
    for start, value_start, value_end, group in sorted(marks):
        if start <= end:  # two groups that begin at the same place
            continue
        between = ".*?" if end and start > end + 1 else ""
        literal = "".join(SEPARATORS.get(letter, letter) for letter in name[start - 1 : value_start])
        phases = "ED|ES" if name[value_start:value_end].isupper() else "ed|es"
        pattern += f"{between}{literal}(?P<{group}>{phases if group == 'phase' else MARKS[group][1]})"
        found.append(pattern)
        end = value_end
    return reversed(found)


def _look_grouped(names: Sequence[str]) -> tuple[str, str] | None:
    """Find two names that may belong to one patient; None if there are no such names. There are two cases:

    - Both names begin with the same text, which ends with a number or a folder. Examples: `p01_ed` and `p01_es`;
      `anna/1` and `anna/2`.
    - The two names differ only in the number at their end, and at least one other name begins with a different text.
      Example: `anna_1` and `anna_2`, if there is also a `bert_1`. If all names begin with the same text (`la_003`,
      `la_004`, `la_005`), the numbers are assumed to be patient numbers.
    """
    begin: dict[str, str] = {}
    for name in names:
        for match in re.finditer("[0-9]+|/", name):
            if begin.setdefault(name[: match.end()], name) != name:
                return begin[name[: match.end()]], name
    stems: dict[str, list[str]] = {}
    for name in names:
        stems.setdefault(re.sub("[0-9]+$", "", name), []).append(name)
    alike = next((stem for stem in stems.values() if len(stem) > 1), None)
    return (alike[0], alike[1]) if alike and len(stems) > 1 else None
