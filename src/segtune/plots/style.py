"""What all figures share: colours, labels from the data, and the content of their files."""

import io
import warnings

from matplotlib import rc_context
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"  # Okabe and Ito's colours, safe for the colour-blind
LABEL_WIDTH = 40  # characters of a line above a panel


def shorten(name: str, width: int) -> str:
    """The name, without its middle if it has more characters than `width`."""
    return name if len(name) <= width else f"{name[: width // 2 - 1]} … {name[-(width // 2 - 2) :]}"


def text(name: str) -> str:
    """A name from the data, escaped so that matplotlib does not read it as a formula."""
    return name.replace("$", r"\$")


def rendered(figure: Figure) -> dict[str, bytes]:
    """The figure as the content of a .png (150 dpi) and a .svg file; the same figure gives the same bytes."""
    found = {}
    with rc_context({"svg.hashsalt": "segtune", "svg.fonttype": "path"}), warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", message="Glyph .* missing from"
        )  # a label in a script that the font lacks is drawn as boxes
        for suffix, metadata in ((".png", {"Software": None}), (".svg", {"Date": None})):
            content = io.BytesIO()
            figure.savefig(content, dpi=150, metadata=metadata, format=suffix[1:])
            found[suffix] = content.getvalue()
    return found
