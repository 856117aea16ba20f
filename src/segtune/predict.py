"""python -m segtune.predict run=outputs/runs/ID input=folder output=folder: segment DICOM or NIfTI images without labels.

Files written to the output folder:

    contours/P09-0020-icontour-auto.txt   DICOM: the contour in the RVSC's file format (i: endocardium, o: epicardium).
                                          There is no file for an image with an empty prediction.
    masks/P09-0020.png                    DICOM: the mask of the pixels inside the contour, 0 and 255
    masks/CASE.nii.gz                     NIfTI: the predicted mask, 0 and 1, on the image's original grid, with all
                                          frames if the image is a film (4-D)
    overlays/                             pictures: one picture per DICOM image. A NIfTI volume has one picture
                                          that shows all slices. If it has more than 20 slices, it has a
                                          folder with several pictures. A film has one folder.
    slices.csv                            areas in pixels and mm^2
    volumes.csv                           volumes in ml
    patients.csv                          EDV, ESV, stroke volume, ejection fraction
    about.json                            the runs, epochs and software versions used

For DICOM images, only the largest connected component is kept and its holes are filled. The numbers of removed and filled
pixels are recorded, and all measurements refer to the area inside the contour. In NIfTI masks, holes are not filled,
because some structures, such as the myocardium, are rings. Only the largest 3-D component of each volume is kept if
score.largest_component=true is set, or if the run's own scores were computed with this setting. This applies to both
DICOM and NIfTI. No text from file headers is written to any file. The command does not need the training data.
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
    """Predict every image in cfg.input and its subfolders, and print a summary.

    The files listed in this module's docstring are written to cfg.output. If an error occurs, the output folder is not
    created. Raises: InputError for an invalid run, image or folder.
    """
    config = entry.plain(cfg)
    for key in ("input", "output"):
        if not isinstance(config[key], str | int):
            raise InputError(f"{key}={config[key]}: give a folder, like {key}={'scans' if key == 'input' else 'predicted'}.")
    source, output = (Path(str(config[key])).expanduser() for key in ("input", "output"))
    check_apart(source, output)
    found = images.find(source)
    from segtune.inference.ensembles import checked_score, keeps_largest_component, load_all
    from segtune.inference.models import warn_of_other_scale

    score = checked_score(config["score"])
    how = {key: config[key] for key in ("which", "accelerator", "trust")}
    models = load_all(config["run"], **how, tta=score["tta"])
    largest_component = keeps_largest_component(models, score["largest_component"])
    with new_folder(output) as folder:
        predicted = write_images(folder, models, found, largest_component=largest_component)
        of_volumes = volume_rows(predicted)
        of_patients = [patient_row(rows) for rows in grouped(of_volumes, lambda row: row["patient"]).values()]
        about = describe(models, found, predicted, largest_component=largest_component)
        tables = (
            (layout.SLICES, SLICE_COLUMNS, [row for _, row in predicted]),
            (VOLUMES, VOLUME_COLUMNS, of_volumes),
            (layout.PATIENTS, PATIENT_COLUMNS, of_patients),
        )
        for name, columns, rows in tables:
            text = csv_text(columns, ({"structure": models[0].target, **row} for row in rows))
            (folder / name).write_text(text, encoding="utf-8")
        (folder / ABOUT).write_bytes(json_text(about))
    warn_of_other_scale(models, one_of_each_spacing(image.item for image, _ in predicted))
    told = [*summary(found, about, of_volumes, of_patients), f"written to {output}", RESEARCH]
    print("\n".join(map(printable, told)))
    sys.stdout.flush()


if __name__ == "__main__":
    entry.entry("predict", predict)
