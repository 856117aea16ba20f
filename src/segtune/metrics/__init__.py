"""Metrics for segmentation masks: overlap, distances [mm] and volumes [ml], per slice, case and patient."""
