"""The one exception for what a user can put right."""


class InputError(ValueError):
    """Bad input: the message names the file (and line) or the key, and the cure. It is shown without a traceback."""
