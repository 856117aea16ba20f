"""Cine images as a clinic has them: a DICOM file for each image, or Enhanced MR."""

import numpy as np

from conftest import write_dicom, write_enhanced

AXIAL = [1, 0, 0, 0, 1, 0]
SHARED = {"PixelMeasuresSequence": {"PixelSpacing": [0.7, 0.8]}, "PlaneOrientationSequence": {"ImageOrientationPatient": AXIAL}}


def write_heart(folder, *, slices=3, phases=2, gap=8.0, shape=(20, 16), names=None, **tags):
    """A cine of `phases` per slice, from the last slice to the first, its names counting the images in that order."""
    count = 0
    for index in reversed(range(slices)):
        for phase in range(phases):
            count += 1
            name = f"im{count}.dcm" if names is None else names(count)
            about = {
                "ImagePositionPatient": [0, 0, gap * index],
                "ImageOrientationPatient": AXIAL,
                "TriggerTime": 40 * phase,
                "InstanceNumber": 1000 - count,
                **tags,
            }
            write_dicom(folder / name, np.full(shape, 10 * index + phase), **about)


def write_enhanced_heart(path, *, slices=3, phases=4, first=0, groups=lambda index, phase: {}, value=None, **tags):
    """A frame for each slice and phase, the last phase first; groups: further ones, or others in place of them."""
    frames, of_frames = [], []
    for phase in reversed(range(phases)):
        for index in range(first, first + slices):
            frames.append(np.full((20, 16), 10 * index + phase if value is None else value(index, phase)))
            of_frames.append(
                {
                    "PlanePositionSequence": {"ImagePositionPatient": [0, 0, 8.0 * index]},
                    "CardiacSynchronizationSequence": {"NominalCardiacTriggerDelayTime": 40.0 * phase},
                    **groups(index, phase),
                }
            )
    write_enhanced(path, frames, of_frames, shared=tags.pop("shared", SHARED), **tags)
