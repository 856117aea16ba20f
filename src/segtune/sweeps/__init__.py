"""Many runs: which ones, where they are executed, and how far they are."""
