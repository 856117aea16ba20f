"""Readers and writers of file formats: DICOM, NIfTI, contour files and mask images.

This package knows nothing of patients. The readers of data sets, in the package above, assign files to patients.
"""
