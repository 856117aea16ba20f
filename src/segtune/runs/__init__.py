"""What a run is and what it leaves on disk: the seam between training and reporting. Imports neither torch nor numpy."""
