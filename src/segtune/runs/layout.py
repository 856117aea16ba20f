"""Names of the files of runs and sweeps, and columns of their tables."""

from segtune.runs.rows import CaseRow, PatientRow, SliceRow

HISTORY, SLICES, CASES, PATIENTS, PICTURES, IMAGES, RESULT, SWEEP, CURVES, SIDES = (
    *("history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz", "images.csv"),
    *("result.json", "sweep.json", "curves", "sides"),
)
AUGMENTED = "augmented"
STATUS, LOG, LOCK, JOBS = "status.json", "segtune.log", ".lock", "jobs.json"
PARTIAL = ".partial"  # suffix of files that are being written
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_data_loss", "train_penalty", "train_soft_dice", "train_dice"),
    *("val_loss", "val_data_loss", "val_bce", "val_focal", "val_dice_loss", "val_soft_dice", "val_dice", "seconds"),
)
SLICE_COLUMNS, CASE_COLUMNS, PATIENT_COLUMNS = (tuple(row.__annotations__) for row in (SliceRow, CaseRow, PatientRow))
TABLES = {SLICES: SLICE_COLUMNS, CASES: CASE_COLUMNS, PATIENTS: PATIENT_COLUMNS}  # the tables of scores and their columns
IMAGE_COLUMNS = ("patient", "side", "code")
# the files whose size and hash result.json lists
FILES = (HISTORY, *TABLES, PICTURES, IMAGES, f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}")
