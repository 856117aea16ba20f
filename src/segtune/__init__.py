"""Which loss, split, regulariser strength and batch size to train a segmentation network with, decided with evidence."""

__version__ = "0.1.0"
