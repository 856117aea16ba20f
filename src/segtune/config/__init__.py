"""The command line and the configuration: overrides, validation rules, and errors in one sentence."""
