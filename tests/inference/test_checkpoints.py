"""A checkpoint from elsewhere that would fill the memory is refused before PyTorch reads it."""

import io
import pickle
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pytest
import torch

from conftest import unsign
from segtune.errors import InputError
from segtune.inference import models
from segtune.runs import archive, layout

MOST_BYTES = 40e6  # that a refusal may take
FLOAT = b"ctorch\nFloatStorage\n"


def entries_of(path):
    with zipfile.ZipFile(path) as whole:
        return {entry.filename: whole.read(entry) for entry in whole.infolist()}


def packed(entries):
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as whole:
        for name, content in entries.items():
            whole.writestr(name, content)
    return made.getvalue()


def with_pickle(path, content):
    return packed(entries_of(path) | {"archive/data.pkl": content})


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value


def storage(n=1, key=b"0"):
    return b"(" + text(b"storage") + FLOAT + text(key) + text(b"cpu") + b"J" + struct.pack("<i", n) + b"tQ"


def tensor(size, stride, *, of=None):
    """Instructions for a tensor; size and stride are instructions for tuples."""
    hooks = b"ccollections\nOrderedDict\n)R"
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + (of or storage()) + b"K\x00" + size + stride + b"\x89" + hooks + b"tR"


def repeated(function, argument, n=100_000):
    """Call a function often, each time with the same large argument."""
    return b"\x80\x02" + function + b"q\x00" + argument + b"q\x01" + b"](" + b"h\x00h\x01R" * n + b"e."


LONG = b"(" + b"K\x01" * 50_000 + b"t"
PICKLES = {
    "a size of many numbers, again and again": repeated(b"ctorch\nSize\n", LONG + b"\x85"),
    "a short size too often": repeated(b"ctorch\nSize\n", b"K\x01\x85\x85"),
    "mappings made from a large one": repeated(b"ccollections\nOrderedDict\n", b"](" + b"K\x01K\x01\x86" * 50_000 + b"e\x85"),
    "attributes from a large mapping": b"\x80\x02ccollections\nOrderedDict\nq\x00}q\x01("
    + b"".join(text(b"%d" % n) + b"K\x01" for n in range(20_000))
    + b"u]("
    + b"h\x00)Rh\x01b" * 20_000
    + b"e.",
    "a tensor of many dimensions": b"\x80\x02" + tensor(LONG, LONG) + b".",
    "a tensor beyond its storage": b"\x80\x02" + tensor(b"J\x00\x00\x00\x7f\x85", b"K\x01\x85") + b".",
    "a storage beyond its entry": b"\x80\x02" + tensor(b"K\x01\x85", b"K\x01\x85", of=storage(2**31 - 1)) + b".",
    "a storage that is not there": b"\x80\x02" + tensor(b"K\x01\x85", b"K\x01\x85", of=storage(key=b"none")) + b".",
    "a call of bytearray": b"\x80\x02c__builtin__\nbytearray\nJ\x00\x00\x00\x7f\x85R.",
    "a key of nested tuples": b"\x80\x02}K\x01\x85q\x00" + b"h\x00h\x00\x86q\x00" * 100 + b"h\x00K\x01s.",
    "more bytes than a checkpoint has": b"\x80\x02(" + b"]" * 5_000_000 + b"t.",
    "the memory of a large index": b"\x80\x02K\x01r\xff\xff\xff\xff\x93.",
    "half a pickle": b"\x80\x02(K",
    "no mark": b"\x80\x02K\x01t.",
}


def legacy_head(path):
    """The format before the archives, which torch.load reads at the file's head, in front of a sound archive."""
    code = b"\x80\x02cbuiltins\nbytearray\nq\x00" + text(b"a" * 2**20) + b"\x85q\x01" + b"](" + b"h\x00h\x01R" * 4000 + b"e."
    head = [pickle.dumps(one, 2) for one in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True})]
    return b"".join([*head, code, pickle.dumps([], 2), path.read_bytes()])


def local(name, content, *, size, crc, method=0):
    head = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, method, 0, 0x21, crc, len(content), size, len(name), 0)
    return head + name.encode() + content


def listed(name, n_stored, start, *, size, crc, method=0):
    numbers = (0x02014B50, 20, 20, 0, method, 0, 0x21, crc, n_stored, size, len(name), 0, 0, 0, 0, 0, start)
    return struct.pack("<IHHHHHHIIIHHHHHII", *numbers) + name.encode()


def two_directories(path):
    """An archive whose end names one directory by its place (of a compressed entry), and another stands before the end."""
    sound = entries_of(path)["archive/data.pkl"]
    content, compressor = bytes(3 * 10**7), zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb, crc = compressor.compress(content) + compressor.flush(), zlib.crc32(content)
    made = local("archive/data.pkl", bomb, size=len(content), crc=crc, method=8)
    first = len(made)
    made += listed("archive/data.pkl", len(bomb), 0, size=len(content), crc=crc, method=8)
    start = len(made)
    made += local("archive/data.pkl", sound, size=len(sound), crc=zlib.crc32(sound))
    shift = len(made) - first
    directory = listed("archive/data.pkl", len(sound), start - shift, size=len(sound), crc=zlib.crc32(sound))
    made += directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(directory), first, 0)
    assert zipfile.ZipFile(io.BytesIO(made)).read("archive/data.pkl") == sound
    return made


def lying_entry(path):
    """An entry that claims to be stored and to be larger than its bytes."""
    content = b"x" * 100
    made = local("archive/data.pkl", content, size=10**9, crc=zlib.crc32(content))
    directory = listed("archive/data.pkl", 100, 0, size=10**9, crc=zlib.crc32(content))
    return made + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(directory), len(made), 0)


def large_directory(path):
    """More entries than a checkpoint has."""
    entry = listed("archive/data/0", 0, 0, size=0, crc=0)
    directory = entry * (2**24 // len(entry))
    return b"PK\x03\x04" + directory + struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 9, 9, len(directory), 4, 0)


FILES = {
    "an older format before the archive": legacy_head,
    "two directories": two_directories,
    "an entry larger than its bytes": lying_entry,
    "a large directory": large_directory,
    "bytes before the archive": lambda path: b"PK\x03\x04" + path.read_bytes(),
    "bytes after the archive": lambda path: path.read_bytes() + b"\0",
    "two folders": lambda path: packed(entries_of(path) | {"other/data.pkl": b"\x80\x02N."}),
    "TorchScript": lambda path: packed(entries_of(path) | {"archive/constants.pkl": b"\x80\x02N."}),
    "nothing": lambda path: b"",
    "a start alone": lambda path: b"PK\x03\x04",
    **{name: lambda path, content=content: with_pickle(path, content) for name, content in PICKLES.items()},
}


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_file_that_would_fill_the_memory_is_refused_before_torch_reads_it(tiny_run, tmp_path, monkeypatch, make):
    folder = Path(shutil.copytree(tiny_run[0], tmp_path / tiny_run[0].name))
    unsign(folder)
    path = folder / layout.CHECKPOINTS / layout.LAST
    path.write_bytes(make(path))
    monkeypatch.setattr(torch, "load", lambda *given, **how: pytest.fail("torch.load was called"))
    with pytest.raises(InputError, match=r"last\.ckpt: damaged"):
        models.load(folder)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, LookupError, TypeError, struct.error, zipfile.BadZipFile)):
            archive.checked(path)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MOST_BYTES


def test_what_torch_reads_is_what_was_written(tiny_run, tmp_path):
    path = tiny_run[0] / layout.CHECKPOINTS / layout.LAST
    expected, found = (torch.load(file, weights_only=True) for file in (path, archive.checked(path)))
    assert found["hyper_parameters"] == expected["hyper_parameters"]
    assert all((found["state_dict"][name] == value).all() for name, value in expected["state_dict"].items())
    shared, types = torch.arange(6.0), (torch.bool, torch.bfloat16, torch.float16, torch.int64, torch.complex128)
    values = {
        **{str(kind): torch.ones(2, dtype=kind) for kind in types},
        **{"parameter": torch.nn.Parameter(shared), "view": shared.view(2, 3).T[1:], "none": torch.zeros(0, 3)},
        **{"scalar": torch.tensor(2.0), "size": shared.shape, "plain": [None, True, 2**70, -1, 0.5, (1, "a"), {1: {}}]},
    }
    torch.save(values, tmp_path / "values.ckpt")
    found = torch.load(archive.checked(tmp_path / "values.ckpt"), weights_only=True)
    assert found["plain"] == values["plain"]
    assert all((found[key] == value).all() for key, value in values.items() if isinstance(value, torch.Tensor))
