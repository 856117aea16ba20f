import errno
import os
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import volumes
from segtune.data import names
from segtune.errors import InputError

EVERY = ("phase", "frame", "slice")


def test_a_pattern_tells_the_patient_and_what_else_it_names():
    found = names.parse(
        ["p10_ed_02_7", "p2_ES_11_3"], "(?P<patient>p[0-9]+)_(?P<phase>..)_(?P<frame>[0-9]+)_(?P<slice>[0-9]+)", EVERY
    )
    assert found == {"p2_ES_11_3": names.Name("p2", "ES", 11, 3), "p10_ed_02_7": names.Name("p10", "ED", 2, 7)}


def test_names_come_by_patient_phase_frame_slice_and_name_with_numbers_by_value():
    pattern = "(?P<patient>[a-z]+[0-9]+)_"
    assert [*names.parse(["p10_1", "p2_10", "p2_9", "p2_x"], pattern, EVERY)] == ["p2_9", "p2_10", "p2_x", "p10_1"]
    pattern = "(?P<patient>a)_(?P<slice>[0-9]+)_(?P<phase>E.)"
    assert [*names.parse(["a_2_ES", "a_10_ED", "a_1_ES", "a_2_ED"], pattern, EVERY)] == [
        "a_2_ED",
        "a_10_ED",
        "a_1_ES",
        "a_2_ES",
    ]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?P<patient>", r"data.patient=.*\bregular expression\b"),
        ("[", r"data.patient=\[: .*\bregular expression\b"),
        ("(?P<patient>a){99999999999}", r"data.patient=.*\bregular expression\b"),
        ("(a)", r"data.patient=\(a\): [^.]*\bgroup\b[^.]*\bpatient\b.*\"data.patient="),
        ("", r"data.patient=: [^.]*\bgroup\b[^.]*\bpatient\b"),
        ("(?P<patient>.)(?P<side>.)", r"data.patient=.*\bgroup side\b.* frame, patient, phase, slice\b"),
        ("(?P<patient>x)", r"data.patient=\S+: .*\bmatch\b.*\bp1_2\b"),
        ("(?P<patient>x?)", r"\bp1_2\b.*\bgroup patient\b.*''"),
        ("(?P<patient>x)?p", r"\bp1_2\b.*\bgroup patient\b.*\bNone\b"),
        ("(?P<patient>p)(?P<phase>1)", r"\bp1_2\b.*\bgroup phase\b.*'1'.*\bED\b.*\bES\b"),
        ("(?P<patient>p)(?P<frame>1_)", r"\bp1_2\b.*\bgroup frame\b.*'1_'.*\bnumber\b"),
        ("(?P<patient>p)1(?P<slice>_)", r"\bp1_2\b.*\bgroup slice\b.*'_'.*\bnumber\b"),
    ],
)
def test_a_pattern_that_cannot_be_is_refused_with_an_example(pattern, message):
    with pytest.raises(InputError, match=message):
        names.parse(["p1_2"], pattern, EVERY)


@pytest.mark.parametrize(
    "grouped",
    [
        ["patient001_frame01", "patient001_frame12", "patient002_frame01"],
        ["p01_ed", "p01_es"],
        ["sub-01_ses-1", "sub-01_ses-2"],
        ["A0S9V9_0", "A0S9V9_1"],
        ["anna_1", "anna_2", "bert_1"],
        ["anna/01", "anna/02"],
        ["7a", "7b"],
        ["case_1", "case_1_2"],
    ],
)
def test_names_that_look_grouped_are_refused_without_a_pattern(grouped):
    with pytest.raises(InputError, match=f"{grouped[0]} and {grouped[1]} .*\"data.patient='"):
        names.parse(grouped, None, EVERY)
    assert len(names.parse(grouped, "(?P<patient>.+)", EVERY)) == len(grouped)


@pytest.mark.parametrize(
    "single", [["la_003", "la_004", "la_010"], ["BRATS_001"], ["001", "002"], ["anna", "bert"], ["liver_0", "liver_10"], []]
)
def test_names_that_differ_in_one_number_alone_are_patients(single):
    assert [said.patient for said in names.parse(single, None, EVERY).values()] == single


def test_names_are_parsed_in_another_thread_too():
    found = []
    thread = threading.Thread(target=lambda: found.append(names.parse(["a_1"], "(?P<patient>a)", EVERY)))
    thread.start()
    thread.join()
    assert found == [{"a_1": names.Name("a", None, None, None)}]


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=20), st.lists(st.text(alphabet="ab01_/-", min_size=1, max_size=8), max_size=4, unique=True))
def test_any_text_as_a_pattern_works_or_is_refused(pattern, there):
    for given_ in (pattern, f"(?P<patient>{pattern})", None):
        message = volumes.said(lambda chosen=given_: names.parse(there, chosen, EVERY))
        assert message is None or "data.patient=" in message


def test_a_folder_s_entries_come_in_natural_order_without_hidden_ones(tmp_path):
    for name in ("p10", "p2", ".DS_Store", "._p2"):
        (tmp_path / name).touch()
    (tmp_path / "p3").symlink_to(tmp_path / "p2")
    assert [path.name for path in names.entries(tmp_path, tmp_path)] == ["p2", "p3", "p10"]


def test_links_out_pipes_and_names_that_cannot_be_shown_are_refused(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "a").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"data/a: .*\blink\b.*/data\b"):
        names.entries(folder, folder)
    (folder / "a").unlink()
    os.mkfifo(folder / "pipe")
    with pytest.raises(InputError, match="data/pipe: .*neither"):
        names.entries(folder, folder)
    (folder / "pipe").unlink()
    (folder / "a\nb").touch()
    with pytest.raises(InputError, match=r"/data: .*'a\\nb'"):
        names.entries(folder, folder)
    with pytest.raises(InputError, match=f"data/nowhere: .*{os.strerror(errno.ENOENT)}"):
        names.entries(folder / "nowhere", folder)


def test_a_file_that_cannot_be_opened_or_followed_is_refused_by_name(tmp_path, monkeypatch):
    path = tmp_path / "a"
    path.touch()
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may read anything
    with pytest.raises(InputError, match=f"/a: .*{os.strerror(errno.EACCES)}"):
        names.check_file(path)

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(os.path, "realpath", refuse)
    with pytest.raises(InputError, match=f"/a: .*{os.strerror(errno.EACCES)}"):
        names.entries(tmp_path, tmp_path)


VOLUMES, IMAGES = ("visit", "phase", "frame"), ("visit", "phase", "frame", "slice")


@pytest.mark.parametrize(
    ("there", "groups", "first"),
    [
        (["patient001_frame01", "patient001_frame12", "patient002_frame01"], VOLUMES, names.Name("patient001", None, 1, None)),
        (["patient001_Frame_04", "patient001_Frame_12"], VOLUMES, names.Name("patient001", None, 4, None)),
        (["patient001.frame01", "patient001.frame02"], VOLUMES, names.Name("patient001", None, 1, None)),
        (["P1-frame 3", "P1-frame 4"], VOLUMES, names.Name("P1", None, 3, None)),
        (["patient1_visit1", "patient1_visit2", "patient2_visit1"], VOLUMES, names.Name("patient1", None, None, None, "1")),
        (["sub-01_ses-1", "sub-01_ses-2"], VOLUMES, names.Name("sub-01", None, None, None, "1")),
        (["p01_ed", "p01_es"], VOLUMES, names.Name("p01", "ED", None, None)),
        (["p01_v1_ED", "p01_v1_ES", "p01_v2_ED"], VOLUMES, names.Name("p01", "ED", None, None, "1")),
        (["p1_v2_frame03_slice4", "p1_v2_frame03_slice5"], IMAGES, names.Name("p1", None, 3, 4, "2")),
        (["p1_v2_frame03_slice4", "p1_v2_frame05_slice5"], VOLUMES, names.Name("p1", None, 3, None, "2")),
        (["p01_ed_a", "p01_es_a", "p02_a"], VOLUMES, names.Name("p01", None, None, None)),
        (["patient_001_a", "patient_001_b", "patient_002_a"], VOLUMES, names.Name("patient_001", None, None, None)),
        (["A0S9V9_0", "A0S9V9_1"], VOLUMES, names.Name("A0S9V9", None, None, None)),
        (["p1_t1", "p1_t2"], VOLUMES, names.Name("p1", None, None, None)),
        (["anna/01", "anna/02"], IMAGES, names.Name("anna", None, None, None)),
        (["anna1", "anna2", "bert1"], VOLUMES, names.Name("anna", None, None, None)),
        (["7a", "7b"], VOLUMES, names.Name("7", None, None, None)),
    ],
)
def test_the_pattern_that_is_suggested_fits_the_names_that_are_there_with_the_groups_that_they_have(there, groups, first):
    message = volumes.said(lambda: names.parse(there, None, groups))
    suggested = message.partition("\"data.patient='")[2].partition("'")[0]
    found = names.parse(there, suggested, groups)
    assert found[there[0]] == first
    assert found[there[0]].patient == found[there[1]].patient


def test_a_visit_may_be_any_text():
    found = names.parse(["p1_base_2", "p1_V10_1", "p1_V9_1"], "(?P<patient>p1)_(?P<visit>[^_]+)_(?P<frame>.)", VOLUMES)
    assert [said.visit for said in found.values()] == ["V9", "V10", "base"]
    with pytest.raises(InputError, match=r"\bp1_ .*\bgroup visit\b.*''"):
        names.parse(["p1_"], "(?P<patient>p1)_(?P<visit>.*)", VOLUMES)
