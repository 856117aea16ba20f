"""Text of a run as Markdown: escaped, so that a name may hold anything; undefined numbers are called so, never 0."""

import html
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from segtune.errors import printable


class Markdown(str):
    """Text that is Markdown already; a template escapes all other values (see shown)."""


def shown(value: Any) -> str:
    """What a template writes for a value."""
    return value if isinstance(value, Markdown) else escaped(value)


def rendered(name: str, values: Mapping[str, Any]) -> str:
    """A template of this package, in which every value is escaped that is not Markdown already.

    Raises: LookupError for a value that the template needs and the run lacks.
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
    """As a person reads it; None, empty, and what is not finite as undefined."""
    found = math.nan if value is None or value == "" else scale * float(value)
    return format(found, form) if math.isfinite(found) else "undefined"


def whole(value: Any) -> str:
    return number(value, ".0f")


def grid(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> Markdown:
    """A table. Cells are Markdown already."""
    lines = [heads, ["---"] * len(heads), *rows]
    return Markdown("\n".join(f"| {' | '.join(map(str, cells))} |" for cells in lines))


def fenced(text: str, language: str = "") -> Markdown:
    """A block of code, behind a fence that the text cannot close."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    lines = "\n".join(map(printable, text.rstrip().split("\n")))
    return Markdown(f"{fence}{language}\n{lines}\n{fence}")


def escaped(value: Any) -> str:
    """Text as it is, neither Markdown nor HTML, on one line."""
    return re.sub(r"([\\`*_\[\]|~$])", r"\\\1", html.escape(printable(str(value).replace("\n", " ")), quote=False))
