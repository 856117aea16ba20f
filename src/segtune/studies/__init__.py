"""Published studies: their claims, judged by a report of their named sweeps or when asked."""
