"""Functions and constants shared by all figures: colours, labels, and conversion to PNG and SVG."""

import io
import warnings

from matplotlib import rc_context
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito's palette for colour-blind readers
LABEL_WIDTH = 40  # maximal number of characters per line of a panel's title


def shorten(name: str, width: int) -> str:
    """Return the name, with its middle replaced by an ellipsis if it is longer than `width` characters."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]} … {name[-(width // 2 - 2) :]}"


def text(name: str) -> str:
    """Escape dollar signs in a name, so that matplotlib does not interpret it as a formula."""
    return name.replace("$", r"\$")


def rendered(figure: Figure) -> dict[str, bytes]:
    """Return the contents of a PNG (150 dpi) and an SVG file: {".png": bytes, ".svg": bytes}.

    The same figure always gives the same bytes.
    """
    found = {}
    with rc_context({"svg.hashsalt": "segtune", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # characters that the font lacks are drawn as boxes
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, dpi=150, metadata=metadata, format=suffix[1:])
            found[suffix] = content.getvalue()
    return found
