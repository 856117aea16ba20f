"""Plan, execute and monitor sweeps, which are sets of runs."""
