"""Exceptions for errors that a user can fix, and functions that make their messages safe to print."""

from collections.abc import Sequence


class InputError(ValueError):
    """Invalid input. The message names the file (and line) or the key, and the cure. It is shown without a traceback."""


class SummaryError(InputError):
    """An error whose message has several lines. Each line is printed with `printable`, so a name cannot add a line break."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NotFiniteError(InputError):
    """The training or validation loss became NaN or infinite."""


def printable(line: str) -> str:
    """Replace characters that cannot be printed by "?", because names of files may contain control characters."""
    return "".join(character if character.isprintable() else "?" for character in line)


def printable_lines(text: str) -> str:
    """Replace characters that cannot be printed by "?" in a text of several lines; line breaks are kept."""
    return "\n".join(map(printable, text.split("\n")))


class Interrupted(BaseException):
    """Raised when a signal asks this process to stop.

    It derives from BaseException, so that code that catches Exception does not treat the interruption as a failed run.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
