"""Reader of data sets in the layout of nnU-Net (raw) or of the Medical Segmentation Decathlon (MSD).

    dataset.json                    the channels, the labels and, in older files, the cases
    imagesTr/CASE_0000.nii.gz       nnU-Net: one file per case and channel
    imagesTr/CASE.nii.gz            MSD: one file per case; several channels are along a fourth axis
    labelsTr/CASE.nii.gz            the labels

dataset.json defines the names of the labels and channels. In nnU-Net 2, a label is written as {"RV": 1} and a channel
as {"0": "MRI"}. In older files, a label is written as {"1": "RV"}. A label with several values, such as [1, 2], is the
union of these values. Paths in dataset.json are ignored, because files are found by their names. The files do not say
which cases belong to one patient, so the user sets data.patient (see names.parse). Each case is one volume of a
patient: a frame, a visit or a sequence.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from segtune.data import cases, names
from segtune.data.formats import label_images, nifti
from segtune.data.formats.files import is_lost, is_text, log_not_read
from segtune.data.readers import Reader
from segtune.data.slices import Slice, SliceSet, collected
from segtune.errors import InputError

IMAGES, LABELS = "imagesTr", "labelsTr"
MAX_JSON_BYTES = 2**22  # enough for 40,000 cases; the parsed content can be 25 times as large in memory
MAX_LABEL, MAX_CHANNELS, MAX_CASES = 65535, 64, 10**6
MAX_NAME, MOST_SHOWN = 100, 10  # characters of a label's, channel's or case's name; how many names a message lists
KNOWN = ("dataset.json", IMAGES, LABELS, "imagesTs", "labelsTs", "imagesVal", "labelsVal")  # the usual content of data.root


class About(NamedTuple):
    """The content of dataset.json.

    Attributes:
        labels: label name -> its values.
        channels: the names of the channels, in order.
        cases: the cases; None if they are not listed.
        n_cases: the number of cases; None if it is not given.
    """

    labels: dict[str, frozenset[int]]
    channels: list[str]
    cases: frozenset[str] | None
    n_cases: int | None


def read(
    root: str | os.PathLike[str],
    *,
    target: str | int,
    patient: str | None = None,
    channel: str | int | None = None,
    ed: Any = None,
    es: Any = None,
    slice_axis: int | None = None,
    empty: str = "keep",
) -> SliceSet:
    """Read all slices of all labelled cases.

    Patients are in natural order, and their cases are sorted by visit, phase, frame and name. The frame number is taken from
    the case's name if the pattern has a group `frame`; otherwise the cases of a patient are counted from 0.

    Args:
        root: the folder that contains dataset.json, imagesTr and labelsTr. Files outside it are not read.
        target: the name of a label, or its value.
        patient: regular expression for the case's name with a group `patient` and optional groups `visit`, `phase`, `frame`.
        channel: name or number of the channel; None: the only channel.
        ed, es: the end-diastolic and the end-systolic case of each visit. Set them if the names do not contain the
            phase. Each value is a frame's number, the rest of the name, a list of numbers and texts, "largest", or
            "smallest". See cases.arrange.
        slice_axis: the axis of the stored arrays that counts the slices; None: found by the rule in formats.axes.
        empty: "keep" to keep the slices that do not show the target, "drop" to remove them.
    Raises: InputError that names the file or key, for missing, damaged or contradictory data.
    """
    folder = names.opened(root)
    there = {path.name: path for path in names.entries(folder, folder)}
    for name in ("dataset.json", IMAGES, LABELS):
        if name not in there:
            raise InputError(
                f"data.root={root}: {name} is missing. Give the folder that contains dataset.json, {IMAGES} and {LABELS}."
            )
    about = read_json(there["dataset.json"])
    wanted = _wanted(about, target)
    chosen = _channel(about, channel)
    truths, images = (nifti.by_stem(names.entries(there[name], folder)) for name in (LABELS, IMAGES))
    left = [path for name, path in there.items() if name not in KNOWN and not is_text(path)]
    for name, taken in ((LABELS, truths), (IMAGES, images)):
        left += _not_taken(there[name], folder, taken)
    log_not_read(left, folder)
    _check_cases(there["dataset.json"], there[LABELS], about, truths.keys())
    files = _images(there[IMAGES], images, truths, len(about.channels), chosen)
    axis = nifti.slice_axes({path: n_along for path, _, n_along in files.values()}.items(), slice_axis)
    labels = label_images.Labels(frozenset({0}).union(*about.labels.values()), wanted, "dataset.json")

    parsed = names.parse(truths, patient, ("visit", "phase", "frame"))
    number = names.numbers(parsed)

    def slices(case: str) -> list[Slice]:
        path, along, n_along = files[case]
        return label_images.read_slices(
            path,
            truths[case],
            labels=labels,
            patient=parsed[case].patient,
            phase=parsed[case].phase,
            frame=number[case] if (frame := parsed[case].frame) is None else frame,
            channel=along,
            n_channels=n_along,
            slice_axis=axis[path],
        )

    volumes = {
        case: cases.Volume(one.patient, one.visit or "", one.phase, one.frame, cases.rest(case, one.patient))
        for case, one in parsed.items()
    }
    return collected(cases.arrange(volumes, slices, ed=ed, es=es), empty=empty)


def _not_taken(folder: Path, root: Path, taken: dict[str, Path]) -> list[Path]:
    """List the files in a folder that are not NIfTI. Raises: InputError if one of them may be an image or a label."""
    left = [path for path in names.entries(folder, root) if nifti.stem(path) is None]
    if lost := [path for path in left if is_lost(path, taken)]:
        what = "a label image" if folder.name == LABELS else "an image"
        more = f" It is the first of {len(lost)} such files." if len(lost) > 1 else ""
        raise InputError(
            f"{lost[0]}: only files that end in {' or '.join(nifti.ENDINGS)}, directly in {folder.name}, are read, so "
            f"this file would be ignored. If it is {what}, convert it to .nii.gz; if not, move it elsewhere.{more}"
        )
    return left


def read_json(path: Path) -> About:
    """Read dataset.json as written for nnU-Net 2, nnU-Net 1 or the MSD. Raises: InputError that names the file and the key."""
    content = names.content(path, MAX_JSON_BYTES)
    try:
        data = json.loads(content.decode("utf-8-sig"), object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}, line {error.lineno}: this is not valid JSON ({error.msg}). Correct it.") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be read as JSON ({str(error)[:80]}). Correct it.") from None
    if not isinstance(data, dict):
        raise InputError(f"{path}: the file must be a JSON object with keys like labels and channel_names. Correct it.")
    if "dataset" in data:
        raise InputError(
            f"{path}, key dataset: files in other folders are not read. Move them into {IMAGES} and {LABELS}, and remove the "
            "key."
        )
    ending = data.get("file_ending", ".nii.gz")
    if ending not in nifti.ENDINGS:
        raise InputError(
            f"{path}, key file_ending: {str(ending)[:40]!r} is not supported. Only files that end in "
            f"{' and '.join(nifti.ENDINGS)} are read. Convert the images, or use data=folder for pairs of PNG or TIFF "
            "files."
        )
    n_cases = data.get("numTraining")
    if not (n_cases is None or (_is_whole(n_cases) and 0 <= n_cases <= MAX_CASES)):
        raise InputError(f"{path}, key numTraining: {str(n_cases)[:40]!r} is not a number of cases. Correct it.")
    return About(_labels(path, data), _channels(path, data), _cases(path, data.get("training")), n_cases)


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key!r} is given twice")
        found[key] = value
    return found


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_name(value: Any) -> bool:
    """Return whether a value is a text that fits into one line of a message."""
    return isinstance(value, str) and value.isprintable() and len(value) <= MAX_NAME


def _listed(texts: Sequence[str]) -> str:
    return ", ".join(texts[:MOST_SHOWN]) + (f", ... ({len(texts)})" if len(texts) > MOST_SHOWN else "")


def _labels(path: Path, data: dict[str, Any]) -> dict[str, frozenset[int]]:
    given = data.get("labels")
    if not isinstance(given, dict) or not given:
        raise InputError(f'{path}, key labels: there is no label. Write "labels": {{"background": 0, "RV": 1}}.')
    labels: dict[str, frozenset[int]] = {}
    for key, value in given.items():
        name, values = (value, key) if isinstance(value, str) else (key, value)  # nnU-Net 1 and MSD; nnU-Net 2
        values = values if isinstance(values, list) else [values]
        if isinstance(value, str) and key.isascii() and key.isdigit() and len(key) < 9:
            values = [int(key)]
        if not (name and values and all(_is_whole(one) and 0 <= one <= MAX_LABEL for one in values)):
            raise InputError(
                f"{path}, key labels: {str(key)[:40]!r}: {str(value)[:40]!r} is not a label's name with its value. "
                f"A value is a whole number from 0 to {MAX_LABEL}. "
                'Write "labels": {"background": 0, "RV": 1}.'
            )
        if not _is_name(name):
            raise InputError(
                f"{path}, key labels: {name[:40]!r}: a name must have up to {MAX_NAME} visible characters. Rename the label."
            )
        name = names.normal(name)
        if name in labels:
            raise InputError(f"{path}, key labels: {name[:40]!r} is given twice. Give each label a different name.")
        labels[name] = frozenset(values)
    if "ignore" in labels:
        raise InputError(
            f"{path}, key labels: ignore: this label is not supported, because segtune trains on all pixels. "
            "Give these pixels another label, and remove the key ignore."
        )
    return labels


def _channels(path: Path, data: dict[str, Any]) -> list[str]:
    key = "channel_names" if "channel_names" in data else "modality"
    given = data.get(key)
    n = len(given) if isinstance(given, dict) else 0
    if not isinstance(given, dict) or not 1 <= n <= MAX_CHANNELS or {*given} != {str(index) for index in range(n)}:
        raise InputError(f'{path}, key {key}: must name the channels, counted from 0. Write "channel_names": {{"0": "MRI"}}.')
    found = [given[str(index)] for index in range(n)]
    if not all(_is_name(name) for name in found):
        raise InputError(
            f"{path}, key {key}: a channel's name must be a text of up to {MAX_NAME} visible characters. Write "
            '"channel_names": {"0": "MRI"}.'
        )
    return [names.normal(name) for name in found]


def _cases(path: Path, given: Any) -> frozenset[str] | None:
    """Return the cases that are listed under the key `training` in older files; None if there is no list.

    The cases are identified by the names of their label files.
    """
    if given is None:
        return None
    files = [entry.get("label") if isinstance(entry, dict) else entry for entry in given] if isinstance(given, list) else [None]
    found = [nifti.stem(Path(file)) if isinstance(file, str) and "\0" not in file else None for file in files]
    if not all(_is_name(name) for name in found):
        raise InputError(
            f'{path}, key training: must be a list like [{{"image": "./imagesTr/A.nii.gz", "label": "./labelsTr/A.nii.gz"}}].'
        )
    return frozenset(name for name in found if name)


def _wanted(about: About, target: str | int) -> frozenset[int]:
    values = about.labels.get(names.normal(str(target)))
    if values is None and str(target).isascii() and str(target).isdigit():
        values = next((one for one in about.labels.values() if one == {int(str(target)[:9])}), None)
    if values is None or 0 in values:
        known = _listed([name for name, one in about.labels.items() if 0 not in one])
        raise InputError(
            f"data.target={target}: dataset.json does not define this structure. It defines these structures: "
            f"{known or 'none'}."
        )
    return values


def _channel(about: About, channel: str | int | None) -> int:
    if channel is None and len(about.channels) == 1:
        return 0
    given = names.normal(str(channel))
    if channel is not None and about.channels.count(given) == 1:
        return about.channels.index(given)
    numbers = [str(index) for index in range(len(about.channels))]
    if channel is not None and given in numbers:
        return numbers.index(given)
    listed = _listed([f"{index} ({name})" for index, name in enumerate(about.channels)])
    what = "there are several channels" if channel is None else f"data.channel={channel}: there is no such channel"
    raise InputError(f"{what}. Choose data.channel: {listed}.")


def _check_cases(path: Path, folder: Path, about: About, there: Any) -> None:
    """Check that dataset.json and the label files have the same cases. Raises: InputError if they do not."""
    if not there:
        raise InputError(f"{folder}: there is no label image (like CASE.nii.gz) in it. Add the label images.")
    if about.cases is not None:
        for case in sorted(about.cases - there):
            raise InputError(
                f"{folder / case}.nii.gz: this file is missing, but {path.name} lists it (key training). Add the file or "
                "correct the list."
            )
        for case in sorted(there - about.cases):
            raise InputError(
                f"{folder / case}: {path.name} does not list this case (key training). Add it to the list, or move the file "
                "elsewhere."
            )
    if about.n_cases is not None and about.n_cases != len(there):
        raise InputError(
            f"{path}, key numTraining: {about.n_cases} cases are expected, but {folder.name} holds {len(there)}. "
            "Correct the number, or add or remove files."
        )


def _images(
    folder: Path, images: dict[str, Path], truths: dict[str, Path], n_channels: int, channel: int
) -> dict[str, tuple[Path, int, int]]:
    """Find the image of each case.

    Returns: case -> (the image file, the index of the chosen channel in this file, the number of channels of this
        file).
    """
    found: dict[str, tuple[Path, int, int]] = {}
    of_a_case: set[str] = set()
    for case in truths:
        one_each = f"{case}_{channel:04d}"
        of_a_case |= {case, *(f"{case}_{index:04d}" for index in range(n_channels))}
        if case in images and one_each in images:
            raise InputError(
                f"{images[case]} and {images[one_each]} are both images of case {case}. Move one of them elsewhere."
            )
        if case not in images and one_each not in images:
            raise InputError(
                f"{truths[case]}: there is no image {folder / one_each}.nii.gz (nnU-Net) or {case}.nii.gz (MSD). Add the image."
            )
        found[case] = (images[one_each], 0, 1) if one_each in images else (images[case], channel, n_channels)
    for name in sorted(images.keys() - of_a_case):
        raise InputError(
            f"{images[name]}: this image has no label image in {LABELS}, or its channel is not in dataset.json. Move it "
            "elsewhere."
        )
    return found


READER = Reader(name="nnunet", kind="nnunet", image_code=nifti.IMAGE_CODE)
