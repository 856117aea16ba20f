"""Everything from patient files to tensors: readers of data sets, contours, checks and splits.

The package imports no configuration and no other package of segtune.
"""
