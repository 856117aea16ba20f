"""The columns of the score tables slices.csv, cases.csv and patients.csv, in this order, and their types.

NaN and empty cells mean that a value is undefined. The column `which` tells whether the "best" or the "last" epoch was
scored. The column `structure` contains the name of the segmented structure (data.target). Tables written by earlier
versions lack columns that were added later.
"""

from typing import TypedDict


class SliceRow(TypedDict, total=False):
    """The 2-D scores of one slice; distances in mm, counts in pixels."""

    which: str
    structure: str
    patient: str
    phase: str
    volume: str
    slice_index: int
    frame: int
    soft_dice: float
    dice: float
    iou: float
    n_true: int
    n_pred: int
    n_overlap: int
    sensitivity: float
    precision: float
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    n_one_empty: int
    n_both_empty: int


class CaseRow(TypedDict, total=False):
    """The 3-D scores of one case (all slices of one volume of a patient); distances in mm, volumes in ml."""

    which: str
    structure: str
    patient: str
    phase: str
    volume: str
    n_slices: int
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    n_true: int
    n_pred: int
    n_overlap: int
    n_one_empty: int
    n_both_empty: int
    volume_true_ml: float
    volume_pred_ml: float
    volume_error_ml: float
    undefined: str


class PatientRow(TypedDict, total=False):
    """The scores of one patient: means over its cases, stroke volume in ml, and ejection fraction (from 0 to 1)."""

    which: str
    structure: str
    patient: str
    n_cases: int
    dice: float
    iou: float
    sensitivity: float
    precision: float
    hd_mm: float
    hd95_mm: float
    assd_mm: float
    surface_dice: float
    n_one_empty: int
    n_both_empty: int
    stroke_volume_true_ml: float
    stroke_volume_pred_ml: float
    stroke_volume_error_ml: float
    ejection_fraction_true: float
    ejection_fraction_pred: float
    ejection_fraction_error: float
    undefined: str
