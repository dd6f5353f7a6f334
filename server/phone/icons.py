"""The page's icon, drawn: a lesion under a lens."""

import io
from typing import Final

from PIL import Image, ImageDraw

GROUND: Final = "#16324f"
SKIN: Final = "#e9c4a8"
LESION: Final = "#7a4a32"
SPOT: Final = "#4a2a1e"
_FINE: Final = 4


def icon(side: int) -> bytes:
    """Return a PNG of `side` × `side` pixels; what counts is in the middle, so that any shape may be cut out."""
    full = side * _FINE
    image = Image.new("RGB", (full, full), GROUND)
    draw = ImageDraw.Draw(image)

    def disc(x: float, y: float, radius: float, colour: str) -> None:
        box = [full * (x - radius), full * (y - radius), full * (x + radius), full * (y + radius)]
        draw.ellipse(box, fill=colour)

    draw.line([full * 0.6, full * 0.6, full * 0.75, full * 0.75], fill=SKIN, width=full // 14)
    disc(0.46, 0.46, 0.25, "#ffffff")
    disc(0.46, 0.46, 0.21, SKIN)
    for x, y, radius in ((0.45, 0.46, 0.11), (0.50, 0.42, 0.08), (0.41, 0.50, 0.07)):
        disc(x, y, radius, LESION)
    disc(0.47, 0.44, 0.04, SPOT)
    buffer = io.BytesIO()
    image.resize((side, side), Image.Resampling.LANCZOS).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
