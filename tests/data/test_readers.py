"""What readers state about themselves, and that nothing is imported for a reader of somebody else's."""

import subprocess
import sys
from pathlib import Path

import pytest

from segtune.data import readers
from segtune.errors import InputError

CONF = Path(__file__).resolve().parents[2] / "conf" / "data"


def cfg_data(reader, **settings):
    return {"reader": {"_target_": reader}, **settings}


def test_every_data_option_is_a_reader_that_knows_its_name():
    assert sorted(path.stem for path in CONF.glob("*.yaml")) == sorted(readers.NAMES)
    for name in readers.NAMES:
        assert readers.of(cfg_data(f"segtune.data.{name}.read")).name == name


@pytest.mark.parametrize("target", ["this.read", "mylab.rvsc.read", "segtune.data.rvsc.read.read", "read", "", None, ["x"]])
def test_nothing_is_known_of_a_foreign_reader_nor_imported_for_it(target, monkeypatch):
    monkeypatch.setattr(readers.importlib, "import_module", lambda name: pytest.fail(f"imports {name}"))
    reader = readers.of(cfg_data(target, target="anything"))
    assert reader == readers.Reader(name=reader.name, kind=reader.name)
    readers.check_target(cfg_data(target, target="anything"))


@pytest.mark.parametrize("name", readers.NAMES)
def test_the_same_structure_elsewhere_is_one_that_the_other_data_have_and_call_the_same_back(name):
    one = readers.of(cfg_data(f"segtune.data.{name}.read"))
    for structure, elsewhere in one.same_structures.items():
        assert structure in one.targets
        for kind, there in elsewhere.items():
            other = readers.of(cfg_data(f"segtune.data.{kind}.read"))
            assert other.kind == kind
            assert there in other.targets
            assert other.same_structures[there][one.kind] == structure


def test_the_phantom_is_synthetic_data_in_the_format_of_rvsc():
    phantom, rvsc = (readers.of(cfg_data(f"segtune.data.{name}.read")) for name in ("phantom", "rvsc"))
    assert (phantom.kind, phantom.is_synthetic, phantom.sizes) == ("rvsc", True, (32, 512))
    assert (phantom.targets, phantom.same_structures, phantom.image_code) == (
        *(rvsc.targets, rvsc.same_structures, rvsc.image_code),
    )
    assert phantom.contour_files is None


@pytest.mark.parametrize(
    ("name", "target"), [("rvsc", "rv"), ("phantom", "heart"), ("acdc", "endocardium"), ("sunnybrook", None), ("acdc", 1)]
)
def test_a_structure_that_the_data_lack_is_refused(name, target):
    data = cfg_data(f"segtune.data.{name}.read", target=target)
    with pytest.raises(InputError, match=f"data.target={target}: .*{', '.join(readers.of(data).targets)}"):
        readers.check_target(data)


@pytest.mark.parametrize(
    "data",
    [
        *({}, {"reader": None}),
        *(cfg_data(f"segtune.data.{name}.read", target=2) for name in ("nnunet", "folder")),
        cfg_data("segtune.data.acdc.read", target="lv"),
    ],
)
def test_other_targets_pass(data):
    readers.check_target(data)


def test_readers_are_imported_only_when_one_is_asked_for():
    code = "import sys, segtune.data.readers as r; assert not {'numpy', 'pydicom', 'nibabel', 'torch'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)
