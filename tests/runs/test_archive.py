import io
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import torch

from segtune.runs import archive

CHECKPOINT = {
    "epoch": 3,
    "state_dict": OrderedDict(weight=torch.arange(6.0).reshape(2, 3), count=torch.tensor(7)),
    "hyper_parameters": {"loss": {"_target_": "segtune.losses.bce"}, "betas": (0.9, 0.999), "names": ["a", None, True]},
    "optimizer_states": [{"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 1e-3, "params": [0, 1]}]}],
}


def saved(path, content=CHECKPOINT):
    torch.save(content, path)
    return path


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    found = torch.load(archive.checked(saved(tmp_path / "a.ckpt")), weights_only=True)
    assert torch.equal(found["state_dict"]["weight"], CHECKPOINT["state_dict"]["weight"])
    assert {k: v for k, v in found.items() if k in ("epoch", "hyper_parameters")} == {
        k: v for k, v in CHECKPOINT.items() if k in ("epoch", "hyper_parameters")
    }


def with_pickle(path, data):
    """A checkpoint with this pickle in place of its own."""
    source = saved(path.with_suffix(".good"))
    with zipfile.ZipFile(source) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as bad:
        for entry in good.infolist():
            bad.writestr(entry.filename, data if entry.filename.endswith("data.pkl") else good.read(entry))
    return path


LONG = b"(" + b"K\x01" * 50_000
PICKLES = {
    "a name that is none of torch's": b"\x80\x02cos\nsystem\n(X\x02\x00\x00\x00lstR.",
    "a name by way of the stack": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x02ls\x85R.",
    "a size of 50,000 dimensions, many times": b"\x80\x02" + LONG + b"tq\x00]" + b"ctorch\nSize\nh\x00\x85R" * 100 + b".",
    "a long tuple": b"\x80\x02" + LONG + b"t.",
    "a large list copied by each call": b"\x80\x02]q\x00" + LONG + b"e" + b"ccollections\nOrderedDict\nh\x00\x85R" * 100 + b".",
    "the same in a marked tuple": b"\x80\x02]q\x00" + LONG + b"e" + b"ccollections\nOrderedDict\n(h\x00q\x01tR" * 100 + b".",
    "arguments from the memo": b"\x80\x02]\x85q\x00ccollections\nOrderedDict\nh\x00R.",
}


@pytest.mark.parametrize("pickled", PICKLES.values(), ids=PICKLES)
def test_a_pickle_that_could_cost_more_than_its_size_is_refused(tmp_path, pickled):
    with pytest.raises((ValueError, TypeError, LookupError)):
        archive.checked(with_pickle(tmp_path / "a.ckpt", pickled))


def test_a_compressed_entry_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    with zipfile.ZipFile(saved(tmp_path / "good.ckpt")) as good, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bad:
        for entry in good.infolist():
            bad.writestr(entry.filename, good.read(entry))
    with pytest.raises(ValueError, match="compressed"):
        archive.checked(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", bytes(1000)])
def test_half_a_file_is_refused(tmp_path, content):
    path = tmp_path / "a.ckpt"
    path.write_bytes(content)
    with pytest.raises((ValueError, zipfile.BadZipFile)):
        archive.checked(path)


def test_checking_needs_no_torch():
    code = "import without_torch, segtune.runs.archive"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[1])


def test_the_copy_is_in_memory(tmp_path):
    assert isinstance(archive.checked(saved(tmp_path / "a.ckpt")), io.BytesIO)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt"]
