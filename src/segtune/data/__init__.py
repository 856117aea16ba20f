"""Patient files to tensors: readers, contours, splits. Knows no configuration and nothing of segtune above it."""
