"""Check a checkpoint that may come from somebody else before torch reads it, so that it can cost neither memory nor run code.

torch.load(weights_only=True) runs no code, but it trusts sizes, and it looks at other parts of a file than Python's zipfile
does. So the entries are checked here and handed to torch in an archive that is written anew.
"""

import io
import pickletools
import re
import zipfile
from pathlib import Path

from segtune.runs.files import open_regular

NAMES = re.compile(r"collections OrderedDict|torch \w+Storage|torch\._utils _rebuild_(tensor_v2|parameter)", re.ASCII)
NAMING = ("GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4")
MEMO = ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE")  # opcodes that remember the last value
TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
MOST_DIMENSIONS = 64  # items of a tuple; the shape of a tensor is one
MOST_BUILDS = 64  # objects that get attributes, each of which may copy a large dict


def checked(path: Path) -> io.BytesIO:
    """A checkpoint as torch.save writes it, copied entry by entry into an archive in memory.

    Raises: OSError; ValueError or zipfile.BadZipFile for anything that torch.save does not write.
    """
    with open_regular(path) as file:
        content = file.read()
    copy = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(copy, "w", zipfile.ZIP_STORED) as written:
        entries = archive.infolist()
        pickles = [entry for entry in entries if entry.filename.lower().endswith("data.pkl")]
        is_stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in entries)
        if not is_stored or sum(entry.file_size for entry in entries) > len(content) or len(pickles) != 1:
            raise ValueError("not as torch.save writes it")
        for entry in entries:
            data = archive.read(entry)
            if entry is pickles[0]:
                _check_pickle(data)
            written.writestr(entry.filename, data)
    copy.seek(0)
    return copy


def _check_pickle(data: bytes) -> None:
    """Raises: ValueError unless the pickle holds containers, numbers, texts and tensors, and costs no more than its own size.

    A call must have its tuple of arguments directly before it, and never one argument: OrderedDict would copy a large list in
    each of many calls.
    """
    marks: list[int] = []  # heights of the stack at which the current lists of items begin
    height, builds = 0, 0
    length: int | None = None  # of the tuple that the last opcode has made
    for code, argument, _ in pickletools.genops(data):
        name, before = code.name, code.stack_before
        if name in NAMING and not (name == "GLOBAL" and NAMES.fullmatch(str(argument))):
            raise ValueError(f"{argument} is no part of a checkpoint")
        if name == "REDUCE" and length in (None, 1):
            raise ValueError("a call that no checkpoint makes")
        builds += name == "BUILD"
        if name == "MARK":
            marks.append(height)
            continue
        if pickletools.markobject in before:
            start = marks.pop()
            n_items = height - start
            height = start - before.index(pickletools.markobject) + len(code.stack_after)
        else:
            n_items = TUPLES.get(name, 0)
            height += len(code.stack_after) - len(before)
        if name == "TUPLE" or name in TUPLES:
            length = n_items
        elif name not in MEMO:
            length = None
        if builds > MOST_BUILDS or (length or 0) > MOST_DIMENSIONS:
            raise ValueError("more than a checkpoint holds")
