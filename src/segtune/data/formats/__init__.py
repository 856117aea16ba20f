"""Readers and writers of file formats: DICOM, NIfTI, contour files and mask images.

This package reads single files. The readers in segtune.data assign files to patients.
"""
