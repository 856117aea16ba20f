"""Numbers as text for people; a dash stands for what is undefined."""

import math

DASH = "—"


def number(value: float | None, digits: int = 3) -> str:
    """Fixed digits, or two significant ones for what would be rounded to zero."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.2g}"


def fixed(value: float, digits: int) -> str:
    """A measurement with this many digits, however small."""
    return f"{value:z.{digits}f}" if math.isfinite(value) else DASH  # z: no -0.0


def percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else DASH


def short_percent(share: float) -> str:
    """A setting with the digits that it has: 0.2 -> 20 %, 0.125 -> 12.5 %."""
    return f"{100 * share:g} %"


def p_value(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return "<0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"
