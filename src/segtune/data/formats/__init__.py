"""File formats: DICOM, NIfTI, contours and masks of images. What a patient is, the readers beside this folder know."""
