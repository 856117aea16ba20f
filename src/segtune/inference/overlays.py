"""Draw predicted outlines on images, and arrange slices in montages."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from PIL import ImageDraw

from segtune.data.display import grey
from segtune.data.slices import Slice

SIDES = (512, 1024)  # limits on the longer side of a picture [pixels]; images in between keep their size
FINER = 2  # pictures are drawn larger by this factor and then reduced, for smooth lines
TILES, GAP = 20, 4  # largest number of slices in a montage, gap between them [pixels]
COLOUR, SHADE = "#ffd000", "#101010"


def overlay(item: Slice, lines: Sequence[NDArray[np.float64]], *, text: str = "") -> Picture.Image:
    """Draw outlines (N, 2) [pixels] on a slice.

    The picture is true to scale in mm. Its grey values range from the 1st percentile (black) to the 99th (white).
    """
    sides_mm = [n * mm for n, mm in zip(item.image.shape, item.spacing_mm, strict=True)]
    side = min(max(SIDES[0], max(sides_mm) / min(item.spacing_mm)), SIDES[1])
    height, width = (max(1, round(side * mm / max(sides_mm))) for mm in sides_mm)
    picture = (
        Picture.fromarray(grey(item.image)).resize((FINER * width, FINER * height), Picture.Resampling.BICUBIC).convert("RGB")
    )
    draw = ImageDraw.Draw(picture)
    scale = np.array(picture.size) / item.image.shape[::-1]
    for colour, thickness in ((SHADE, 6), (COLOUR, 4)):
        for line in lines:
            draw.line([tuple(point) for point in ((line + 0.5) * scale - 0.5).tolist()], colour, thickness, joint="curve")
    picture = picture.reduce(FINER)
    if text:
        ImageDraw.Draw(picture).text((6, 4), text, "white", stroke_width=1, stroke_fill="black")
    return picture


def montage(tiles: Sequence[Picture.Image]) -> Picture.Image:
    """Arrange pictures of the same size in a nearly square grid, row by row."""
    columns = math.ceil(math.sqrt(len(tiles)))
    width, height = (side + GAP for side in tiles[0].size)
    picture = Picture.new("RGB", (columns * width - GAP, math.ceil(len(tiles) / columns) * height - GAP), SHADE)
    for index, tile in enumerate(tiles):
        picture.paste(tile, (index % columns * width, index // columns * height))
    return picture
