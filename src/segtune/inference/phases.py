"""Compute volumes and ejection fractions from predicted masks: the rows of volumes.csv and patients.csv."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from segtune.data import stacks
from segtune.data.unlabelled import Image
from segtune.metrics import volumes

Row = dict[str, Any]
Item = TypeVar("Item")
Key = TypeVar("Key")
VOLUME_COLUMNS = ("structure", "patient", "phase", "n_slices", "n_lacking", "volume_ml", "undefined")
PATIENT_COLUMNS = (
    *("structure", "patient", "n_phases", "ed_phase", "es_phase", "edv_ml", "esv_ml", "stroke_volume_ml", "ejection_fraction"),
    *("ed_es_by", "undefined"),
)


def volume_rows(predicted: Sequence[tuple[Image, Row]]) -> list[Row]:
    """Return the rows of volumes.csv, one per patient and phase.

    n_lacking is the number of the patient's slices without an image in this phase. These slices count as empty. This is
    correct if only images that show the structure were selected, as in the RVSC; otherwise the volume is too small.

    Args: predicted: each image and its row of slices.csv.
    """
    rows: list[Row] = []
    for patient, mine in grouped(predicted, lambda pair: pair[0].item.patient).items():
        n_slices = len({image.item.slice_index for image, _ in mine if not image.undefined})
        for (phase, _), pairs in grouped(mine, lambda pair: (pair[0].phase, pair[0].undefined)).items():
            pairs = sorted(pairs, key=lambda pair: pair[0].item.slice_index)
            discs = [volumes.Disc(item.slice_index, item.image.shape, item.spacing_mm, item.gap_mm) for (item, *_), _ in pairs]
            why = pairs[0][0].undefined or volumes.why_undefined(discs)
            spacing_mm, gap_mm = discs[0].spacing_mm, discs[0].gap_mm or math.nan
            n_pixels = (row["n_pixels"] for _, row in pairs)
            volume_ml = math.nan if why else volumes.volume_ml(n_pixels, spacing_mm=spacing_mm, gap_mm=gap_mm)
            n_lacking = 0 if pairs[0][0].undefined else n_slices - len(pairs)
            about = {"patient": patient, "phase": phase, "n_slices": len(pairs), "n_lacking": n_lacking}
            rows.append({**about, "volume_ml": volume_ml, "undefined": why})
    return rows


def patient_row(rows: Sequence[Row]) -> Row:
    """Return a patient's row of patients.csv: ED, ES and the volumes and ejection fraction derived from them.

    ED and ES are taken from Info.cfg. Without this file, they are the phases with the largest and the smallest predicted
    volume. If there are more than two phases, phases with missing slices are not considered. If the end-diastolic volume is
    0, because the structure was not found, the ejection fraction is undefined.

    Args: rows: the patient's rows of volumes.csv.
    """
    rows = [row for row in rows if row["undefined"] != stacks.OTHERWISE]
    of_phase = {row["phase"]: row for row in rows}
    defined = [row for row in rows if not row["undefined"] and (len(rows) == 2 or not row["n_lacking"])]
    defined.sort(key=lambda row: -row["volume_ml"])
    by, why = "", ""
    if told := {"ED", "ES"} & of_phase.keys():
        by = "Info.cfg"
        why = next((f"{phase} is missing" for phase in ("ED", "ES") if phase not in told), "")
        ed, es = (of_phase.get(phase, {}) for phase in ("ED", "ES"))
    elif len(defined) > 1:
        without = f" ({len(rows) - len(defined)} without all slices)" if len(defined) < len(rows) else ""
        lacking = "".join(
            f"; {row['n_lacking']} slices of phase {row['phase']} taken for empty"
            for row in rows
            if not without and row["n_lacking"]
        )
        by = f"largest and smallest predicted volume of {len(defined)} phases{without}{lacking}"
        ed, es = defined[0], defined[-1]
    else:
        ed, es, why = {}, {}, "a single phase" if len(rows) == 1 else "fewer than two phases with all slices"
        if all(row["undefined"] for row in rows):
            why = rows[0]["undefined"]
    why = next((f"{row['phase']}: {row['undefined']}" for row in (ed, es) if row.get("undefined")), why)
    edv_ml, esv_ml = (row.get("volume_ml", math.nan) for row in (ed, es))
    return {
        **{"patient": rows[0]["patient"], "n_phases": len(rows), "edv_ml": edv_ml, "esv_ml": esv_ml, "ed_es_by": by},
        **{"ed_phase": ed.get("phase", ""), "es_phase": es.get("phase", "")},
        "stroke_volume_ml": volumes.stroke_volume_ml(edv_ml, esv_ml),
        "ejection_fraction": volumes.ejection_fraction(edv_ml, esv_ml),
        "undefined": why or ("the end-diastolic volume is 0" if edv_ml == 0 else ""),
    }


def grouped(items: Iterable[Item], key: Callable[[Item], Key]) -> dict[Key, list[Item]]:
    """Group items by key, with the keys in order of first appearance."""
    found: dict[Key, list[Item]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
