"""Write values of a run as Markdown: text is escaped, and undefined numbers are written as "undefined", never as 0."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from segtune.errors import printable


class Markdown(str):
    """Text that is already Markdown. Templates escape all other values."""


def shown(value: Any) -> str:
    """Return the text that a template inserts for a value: escaped, unless it is already Markdown."""
    return value if isinstance(value, Markdown) else escaped(value)


def rendered(name: str, values: Mapping[str, Any]) -> str:
    """Render a template of this package. Values that are not already Markdown are escaped.

    Raises: LookupError if a value that the template needs is missing.
    """
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("segtune.inference", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=shown,
    )
    environment.filters |= {"number": number, "whole": whole}
    try:
        return environment.get_template(name).render(values)
    except jinja2.UndefinedError as error:
        raise LookupError(str(error)) from error


def number(value: Any, form: str, scale: float = 1) -> str:
    """Return scale * value as text in the given format.

    None, an empty string and values that are not finite become "undefined".
    """
    found = math.nan if value is None or value == "" else scale * float(value)
    return format(found, form) if math.isfinite(found) else "undefined"


def whole(value: Any) -> str:
    return number(value, ".0f")


def grid(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markdown:
    """Return a Markdown table. The cells must already be Markdown."""
    lines = [heads, ["---"] * len(heads), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines))


def fenced(text: str, language: str = "") -> Markdown:
    """Return a code block whose fence is longer than any run of backticks in the text, so the text cannot end the block."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = "\n".join(map(printable, text.rstrip().split("\n")))
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def escaped(value: Any) -> str:
    """Escape a value so that it is shown literally, on one line, and never read as Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(printable(str(value).replace("\n", " ")), quote=False))
