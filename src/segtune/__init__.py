"""Compare losses, data splits, regulariser strengths and batch sizes for training medical segmentation networks."""

__version__ = "0.1.0"
