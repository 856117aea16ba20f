"""The command line and the configuration: overrides, validation rules, and error messages for users."""
