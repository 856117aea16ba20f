"""Identity, state and files of runs: the interface between training and reporting. It imports neither torch nor numpy."""
