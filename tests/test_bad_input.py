"""What no reader may do: wait at a pipe, follow a link out of the folder, fill the memory. One message of one line each."""

import gzip
import os
import re
import signal
import socket
import subprocess
import sys
import tracemalloc
from contextlib import contextmanager

import nibabel as nib
import numpy as np
import pytest

import layouts.acdc
import layouts.folder
import layouts.nnunet
import layouts.sunnybrook
import volumes
from conftest import write_patient
from segtune.data import acdc, nnunet, rvsc
from segtune.errors import InputError

READERS = {  # name -> what writes a data set, what reads it
    "acdc": (lambda root: layouts.acdc.write_patient(root, 1), lambda root: acdc.read(root, target="rv")),
    "nnunet": (layouts.nnunet.write, lambda root: nnunet.read(root, target="RV")),
    "folder": (layouts.folder.write, layouts.folder.read),
    "rvsc": (lambda root: write_patient(root, 9, [20, 22], n_frames=3), lambda root: rvsc.read(root, target="endocardium")),
    "sunnybrook": (lambda root: layouts.sunnybrook.write_patient(root, 1, [27, 40], [40]), layouts.sunnybrook.read),
}
P09 = "TrainingSet/patient09"
FILES = [  # one of each kind that a reader opens
    *[("acdc", f"patient001/{name}") for name in ("Info.cfg", "patient001_frame12.nii.gz", "patient001_frame01_gt.nii.gz")],
    *[("nnunet", name) for name in ("dataset.json", "imagesTr/la_010_0000.nii.gz", "labelsTr/la_003.nii.gz")],
    *[("folder", name) for name in ("images/b_1.png", "masks/a_2.png")],
    *[("rvsc", f"{P09}/{name}") for name in ("P09list.txt", "P09dicom/P09-0022.dcm")],
    ("rvsc", f"{P09}/P09contours-manual/P09-0022-icontour-manual.txt"),
    *[("sunnybrook", name) for name in ("link.csv", "dicoms/SCD0000101/40.dcm")],
    ("sunnybrook", "contourfiles/SC-HF-I-1/i-contours/IM-0001-0040-icontour-manual.txt"),
]


def a_socket(path):
    with socket.socket(socket.AF_UNIX) as one:
        os.chdir(path.parent)  # its address may be no longer than 108 bytes
        one.bind(path.name)


def large(path):
    """Three gigabytes that take no place on the disk: of zeros, after what was there."""
    with path.open("r+b" if path.exists() else "wb") as file:
        file.truncate(3 * 2**30)


DAMAGE = {
    "a pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "a socket": lambda path: (path.unlink(), a_socket(path)),
    "a link to itself": lambda path: (path.unlink(), path.symlink_to(path.name)),
    "a link out": lambda path: (path.unlink(), path.symlink_to("/etc/passwd")),
    "a link to an endless file": lambda path: (path.unlink(), path.symlink_to("/dev/zero")),
    "zeros without end": lambda path: (path.unlink(), large(path)),
    "zeros after its content": large,
}


class TooLongError(BaseException):
    """Not an Exception, which a reader might take for what is wrong with a file."""


@contextmanager
def in_time(seconds):
    """A reader that waits for ever fails its test."""

    def stop(*_):
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(call):
    """The message, and the memory [MB] that it took to find out."""
    tracemalloc.start()
    try:
        with pytest.raises(InputError) as caught, in_time(20):
            call()
        return str(caught.value), tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("reader", "name"), FILES)
def test_a_file_that_is_none_leads_elsewhere_or_never_ends_is_refused_by_name_at_once(tmp_path, reader, name, damage):
    write, read = READERS[reader]
    root = tmp_path / "data"
    write(root)
    DAMAGE[damage](root / name)
    message, megabytes = refused(lambda: read(root))
    assert str(root / name) in message
    assert message.isprintable()
    assert len(message) < 300 + len(str(root / name))
    assert megabytes < 20
    if damage.startswith("a link to an") or damage == "a link out":
        assert re.search(rf"\blink\b.*{root}", message)


@pytest.mark.parametrize("reader", READERS)
def test_the_root_itself_may_be_a_link_and_links_within_are_followed(tmp_path, reader):
    write, read = READERS[reader]
    write(tmp_path / "data")
    expected = read(tmp_path / "data").fingerprint()
    for _, name in (pair for pair in FILES if pair[0] == reader):
        path, store = tmp_path / "data" / name, tmp_path / "data" / ".git" / "annex" / name.replace("/", "-")
        store.parent.mkdir(parents=True, exist_ok=True)
        path.rename(store)
        path.symlink_to(os.path.relpath(store, path.parent))  # as git-annex stores files
    (tmp_path / "link").symlink_to("data")
    assert read(tmp_path / "link").fingerprint() == expected


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("root", ["~nobody-of-that-name/data", "x" * 5000, "/etc/passwd", "a\0b"])
def test_a_root_that_cannot_be_is_refused(reader, root):
    message, _ = refused(lambda: READERS[reader][1](root))
    assert message.startswith(f"data.root={root}: ")
    assert "such folder" in message


@pytest.mark.parametrize("reader", READERS)
def test_a_name_of_several_lines_is_refused_or_passed_over(tmp_path, reader):
    write, read = READERS[reader]
    write(tmp_path / "data")
    expected = read(tmp_path / "data").fingerprint()
    (tmp_path / "data" / "a\nsegtune: all is well").mkdir()
    if reader == "rvsc":  # which looks for files of its own names in any folder
        assert read(tmp_path / "data").fingerprint() == expected
    else:
        assert refused(lambda: read(tmp_path / "data"))[0].isprintable()


def command(*arguments):
    line = [sys.executable, "-W", "error", "-m", *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, env=os.environ, check=False)


@pytest.mark.slow
def test_the_command_ends_with_1_and_one_line_for_a_zip_bomb(tmp_path):
    write, _ = READERS["acdc"]
    write(tmp_path / "data")
    image = tmp_path / "data/patient001/patient001_frame01.nii.gz"
    with gzip.open(image, "wb", 1) as file:
        file.write(nib.Nifti1Image(volumes.pixels(1), np.eye(4)).to_bytes())
        for _ in range(256):
            file.write(bytes(2**20))
    for verb in ("segtune", "segtune.check"):
        done = command(verb, "data=acdc", f"data.root={tmp_path / 'data'}", "trainer.accelerator=cpu")
        assert done.returncode == 1
        assert re.match(rf"segtune: {image}: .*\bmore\b.*\b12 x 10 x 3 pixels\b", done.stderr.splitlines()[-1])


@pytest.mark.slow
def test_a_message_is_one_line_whatever_a_folder_is_called(tmp_path):
    write, _ = READERS["rvsc"]
    write(tmp_path / "data")
    patient = (tmp_path / "data" / P09).rename(tmp_path / "data" / "TrainingSet" / "\x1b[31m\nsegtune: all is well")
    (patient / "P09contours-manual" / "P09-0022-icontour-manual.txt").write_text("1 1\n")
    done = command("segtune", "data=rvsc", f"data.root={tmp_path / 'data'}", "trainer.accelerator=cpu")
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "\x1b" not in done.stderr
    assert done.stderr.startswith(
        f"segtune: {tmp_path}/data/TrainingSet/?[31m?segtune: all is well/P09contours-manual/P09-0022-ic"
    )
