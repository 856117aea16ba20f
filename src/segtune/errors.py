"""The exceptions for what a user can put right, and how messages are shown and name a command."""

import sys
from collections.abc import Sequence


class InputError(ValueError):
    """Bad input: the message names the file (and line) or the key, and the cure. It is shown without a traceback."""


class SummaryError(InputError):
    """An error that takes several lines to tell, each of which is one line whatever the names in it hold."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


class NotFiniteError(InputError):
    """Training left the finite numbers."""


def printable(line: str) -> str:
    """The line as a terminal or a page can show it: a file's name may hold anything."""
    return "".join(character if character.isprintable() else "?" for character in line)


def printable_lines(text: str) -> str:
    """A text of several lines as a terminal or a page can show it."""
    return "\n".join(map(printable, text.split("\n")))


COMMAND: list[str] = []  # the words of the command line, if it is that of the command `segtune` (segtune.cli)


def command_line() -> list[str]:
    """The words of the command that started this process, as it can be typed again."""
    return COMMAND or ["python", *sys.orig_argv[1:]]


def as_typed(command: str) -> str:
    """A command like "python -m segtune.status sweep=x" in the form in which the user started this process.

    If that was the command `segtune`: segtune status sweep=x, segtune train ... for one run, segtune sweep ... for -m.
    """
    rest = command.removeprefix("python -m segtune")
    if not COMMAND:
        return command
    if rest.startswith("."):
        return f"segtune {rest[1:]}"
    return f"segtune sweep{rest.removesuffix(' -m')}" if rest.endswith(" -m") else f"segtune train{rest}"


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an Exception: nothing between here and the sweep takes it for a failure."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
