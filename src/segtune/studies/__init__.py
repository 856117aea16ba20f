"""Published studies whose claims a report can judge, from the named sweeps made for them or on request (claims=)."""
