"""Functions that draw figures for training, calibration and reports. They take arrays and return matplotlib figures."""
