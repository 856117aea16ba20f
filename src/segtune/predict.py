"""python -m segtune.predict run=outputs/runs/ID input=folder output=folder: contours and masks of images without labels.

    contours/P09-0020-icontour-auto.txt   DICOM: the outline as the RVSC's files have it (i: endocardium, o: epicardium); none
                                          where nothing is predicted
    masks/P09-0020.png                    DICOM: what the outline encloses, 0 and 255
    masks/CASE.nii.gz                     NIfTI: the network's mask, 0 and 1, on the image's own grid, a film's with its frames
    overlays/                             to look at: a picture per DICOM image; one of all slices per NIfTI volume, or, if they
                                          are more than 20, a folder of such pages; a folder per film
    slices.csv  volumes.csv  patients.csv       pixels and mm^2; ml; EDV, ESV, stroke volume, ejection fraction
    about.json                            which runs, which epoch, which versions

An outline is that of the largest component, its holes filled; what was dropped and filled is counted, and all numbers of
DICOM images are of what the outline encloses. Masks of NIfTI volumes, and their numbers, are the network's: nothing is
dropped or filled, so that a ring stays one. Of a file's header no text is written anywhere. Needs none of the training data.
"""

import sys
from pathlib import Path

from omegaconf import DictConfig

from segtune.config import entry
from segtune.data import images
from segtune.errors import InputError, printable
from segtune.inference.images import (
    ABOUT,
    RESEARCH,
    SLICE_COLUMNS,
    VOLUMES,
    check_apart,
    describe,
    one_of_each_spacing,
    summary,
    write_images,
)
from segtune.inference.phases import PATIENT_COLUMNS, VOLUME_COLUMNS, grouped, patient_row, volume_rows
from segtune.runs import layout
from segtune.runs.files import json_text, new_folder
from segtune.runs.tables import csv_text


def predict(cfg: DictConfig) -> None:
    """Predict every image below cfg.input, write what the head of this file lists to cfg.output, print a summary.

    The folder appears whole or not at all. Raises: InputError for a run, an image or a folder that cannot be.
    """
    config = entry.plain(cfg)
    for key in ("input", "output"):
        if not isinstance(config[key], str | int):
            raise InputError(f"{key}={config[key]}: give a folder, like {key}={'scans' if key == 'input' else 'predicted'}.")
    source, output = (Path(str(config[key])).expanduser() for key in ("input", "output"))
    check_apart(source, output)
    found = images.find(source)
    from segtune.inference.models import load_all, warn_of_other_scale

    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    models = load_all(config["run"], **how)
    with new_folder(output) as folder:
        predicted = write_images(folder, models, found)
        of_volumes = volume_rows(predicted)
        of_patients = [patient_row(rows) for rows in grouped(of_volumes, lambda row: row["patient"]).values()]
        about = describe(models, found, predicted)
        tables = (
            (layout.SLICES, SLICE_COLUMNS, [row for _, row in predicted]),
            (VOLUMES, VOLUME_COLUMNS, of_volumes),
            (layout.PATIENTS, PATIENT_COLUMNS, of_patients),
        )
        for name, columns, rows in tables:
            (folder / name).write_text(csv_text(columns, rows), encoding="utf-8")
        (folder / ABOUT).write_bytes(json_text(about))
    warn_of_other_scale(models, one_of_each_spacing(image.item for image, _ in predicted))
    told = [*summary(found, about, of_volumes, of_patients), f"written to {output}", RESEARCH]
    print("\n".join(map(printable, told)))
    sys.stdout.flush()


if __name__ == "__main__":
    entry.entry("predict", predict)
