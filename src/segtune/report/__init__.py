"""What a sweep proves. Reads results; imports no torch."""
