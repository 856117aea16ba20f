"""Format text for the terminal: durations, counted nouns and aligned tables."""

from collections.abc import Sequence

from segtune.errors import printable


def duration(seconds: float) -> str:
    """Format a duration in seconds: 89 becomes 89 s; 5,000 becomes 83 min; 7,000 becomes 1 h 57 min."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def count(n: int, noun: str) -> str:
    """Format a number with its noun: 1 run, 2 runs."""
    return f"{n} {noun}{'s' * (n != 1)}"


def table(rows: Sequence[Sequence[str]], *, numbers_from: int) -> list[str]:
    """Align rows of cells in columns and return the lines.

    Args:
        rows: the cells of each row. All rows must have the same length, except empty rows, which become empty lines.
        numbers_from: the index of the first right-aligned column. All later columns are also right-aligned, and all
            earlier columns are left-aligned.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    for column in range(max(map(len, rows))):
        grid.add_column(justify="right" if column >= numbers_from else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(printable(cell)) for cell in row))
    console = Console(width=sum(max(map(len, row), default=0) for row in zip(*filter(None, rows), strict=True)) * 2 + 100)
    with console.capture() as captured:
        console.print(grid)
    return [line.rstrip() for line in captured.get().splitlines()]
