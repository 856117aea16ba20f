"""The exceptions for what a user can put right."""


class InputError(ValueError):
    """Bad input: the message names the file (and line) or the key, and the cure. It is shown without a traceback."""


class NotFiniteError(InputError):
    """Training left the finite numbers."""


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an Exception: nothing between here and the sweep takes it for a failure."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
