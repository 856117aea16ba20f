"""Format numbers for display. A dash stands for an undefined number."""

import math

DASH = "—"


def number(value: float | None, digits: int = 3) -> str:
    """Format a number with a fixed number of decimals, or with two significant digits if it would be rounded to zero."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:.{digits}f}" if abs(value) >= 10**-digits or value == 0 else f"{value:.2g}"


def fixed(value: float, digits: int) -> str:
    """Format a measurement with a fixed number of decimals, even if it is rounded to zero."""
    return f"{value:z.{digits}f}" if math.isfinite(value) else DASH  # z: no -0.0


def percent(value: float, digits: int = 0) -> str:
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else DASH


def short_percent(share: float) -> str:
    """Format a share as a percentage without trailing zeros: 0.2 -> 20 %, 0.125 -> 12.5 %."""
    return f"{100 * share:g} %"


def p_value(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return DASH
    return "<0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.3f}"
