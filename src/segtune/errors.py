"""The exceptions for what a user can put right, and how their messages are shown."""

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


class Interrupted(BaseException):
    """A signal asked this process to stop. Not an Exception: nothing between here and the sweep takes it for a failure."""

    def __init__(self, signal: int) -> None:
        super().__init__(signal)
        self.signal = signal
