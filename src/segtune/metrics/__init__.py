"""Overlap, distances [mm] and volumes [ml] of masks, per slice, case and patient."""
