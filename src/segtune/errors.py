"""Exceptions for errors that a user can fix, and functions that format messages and commands for printing."""

import sys
from collections.abc import Sequence


class InputError(ValueError):
    """Invalid input. The message names the file (and line) or the key, and says what to do. It is shown without a traceback."""


class SummaryError(InputError):
    """An error whose message has several lines. Each line is printed with `printable`, so a name cannot add a line break."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NotFiniteError(InputError):
    """The training or validation loss became NaN or infinite."""


def printable(line: str) -> str:
    """Replace unprintable characters with "?". For example, file names may contain control characters."""
    return "".join(character if character.isprintable() else "?" for character in line)


def printable_lines(text: str) -> str:
    """Replace unprintable characters with "?" in a text of several lines; line breaks are kept."""
    return "\n".join(map(printable, text.split("\n")))


COMMAND: list[str] = []  # the typed command line, if it is the command `segtune` (segtune.cli); otherwise empty


def command_line() -> list[str]:
    """Return the words of the command that started this process, in a form that can be typed again."""
    return COMMAND or ["python", *sys.orig_argv[1:]]


def as_typed(command: str) -> str:
    """Return a command in the form in which the user started this process: with `python -m` or with `segtune`.

    Args: command: a command like `python -m segtune.status sweep=x`.
    Returns: the same command, if the user started this process with `python -m`; otherwise `segtune status sweep=x`. In
        the second case, the command of a single run becomes `segtune train ...`, and a command that ends in -m becomes
        `segtune sweep ...`.
    """
    rest = command.removeprefix("python -m segtune")
    if not COMMAND:
        return command
    if rest.startswith("."):
        return f"segtune {rest[1:]}"
    return f"segtune sweep{rest.removesuffix(' -m')}" if rest.endswith(" -m") else f"segtune train{rest}"


class Interrupted(BaseException):
    """Raised when a signal asks this process to stop.

    It derives from BaseException, so that code that catches Exception does not treat the interruption as a failed run.
    """

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
