"""Names of the files of runs and sweeps, and columns of their tables."""

HISTORY, SLICES, CASES, PATIENTS, PICTURES, IMAGES, RESULT, SWEEP, CURVES, SIDES = (
    *("history.csv", "slices.csv", "cases.csv", "patients.csv", "pictures.npz", "images.csv"),
    *("result.json", "sweep.json", "curves", "sides"),
)
STATUS, LOG, LOCK, JOBS = "status.json", "segtune.log", ".lock", "jobs.json"
PARTIAL = ".partial"  # suffix of files that are being written
CHECKPOINTS, LAST, BEST = "checkpoints", "last.ckpt", "best.ckpt"
HISTORY_COLUMNS = (
    *("epoch", "lr", "train_loss", "train_data_loss", "train_penalty", "train_soft_dice", "train_dice"),
    *("val_loss", "val_data_loss", "val_bce", "val_focal", "val_dice_loss", "val_soft_dice", "val_dice", "seconds"),
)
SLICE_COLUMNS = (
    *("which", "patient", "phase", "volume", "slice_index", "frame", "soft_dice", "dice", "iou", "n_true", "n_pred"),
    *("n_overlap", "sensitivity", "precision", "hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_one_empty", "n_both_empty"),
)
CASE_COLUMNS = (
    *("which", "patient", "phase", "volume", "n_slices", "dice", "iou", "sensitivity", "precision"),
    *("hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_true", "n_pred", "n_overlap", "n_one_empty", "n_both_empty"),
    *("volume_true_ml", "volume_pred_ml", "volume_error_ml", "undefined"),
)
PATIENT_COLUMNS = (
    *("which", "patient", "n_cases", "dice", "iou", "sensitivity", "precision"),
    *("hd_mm", "hd95_mm", "assd_mm", "surface_dice", "n_one_empty", "n_both_empty"),
    *("stroke_volume_true_ml", "stroke_volume_pred_ml", "stroke_volume_error_ml"),
    *("ejection_fraction_true", "ejection_fraction_pred", "ejection_fraction_error", "undefined"),
)
TABLES = {SLICES: SLICE_COLUMNS, CASES: CASE_COLUMNS, PATIENTS: PATIENT_COLUMNS}  # the tables of scores and their columns
IMAGE_COLUMNS = ("patient", "side", "code")
# the files whose size and hash result.json lists
FILES = (HISTORY, *TABLES, PICTURES, IMAGES, f"{CHECKPOINTS}/{LAST}", f"{CHECKPOINTS}/{BEST}")
