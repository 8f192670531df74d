"""Text in pictures, in any script, whatever the version of OpenCV: 4 draws only ASCII.

ASCII is in Pillow's own font, other text in fonts of the system. A character that no font has is written as
its code point, as in `\\u673a`, so that different texts look different on every machine.
"""

import subprocess
from collections.abc import Iterator
from functools import cache, lru_cache
from itertools import groupby

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIZE = 13
"""Of the font, in pixels."""
HEIGHT = 20
"""Of a line, in pixels."""
_BASE = 15
_FONTS = ("DejaVuSans.ttf", "NotoSansCJK-Regular.ttc", "wqy-microhei.ttc", "Arial Unicode.ttf", "msyh.ttc")
"""Of Linux, macOS and Windows, for many scripts; Pillow knows where fonts are."""
_NO_CHARACTER = "\U0010ffff"


@lru_cache(maxsize=512)
def line_of_text(text: str, scale: int = 1) -> NDArray[np.uint8]:
    """A text's coverage of the pixels: (scale * HEIGHT, width) uint8, read-only; 255: wholly covered.

    Args:
        text: one line.
        scale: how many times as large as usual the letters are.
    """
    own = text.isascii()
    shown = "".join(c if c != "\\" and _font(c, own) else c.encode("unicode_escape").decode() for c in text)
    runs = [
        (font.font_variant(size=scale * SIZE), "".join(run))
        for font, run in groupby(shown, lambda c: _font(c, own))
        if font is not None
    ]
    lengths = [font.getlength(run) for font, run in runs]
    image = Image.new("L", (int(np.ceil(sum(lengths))) + 1, scale * HEIGHT))  # The last letter may hang over.
    draw = ImageDraw.Draw(image)
    for (font, run), left in zip(runs, np.cumsum([0.0, *lengths]), strict=False):
        draw.text((left, scale * _BASE), run, 255, font, anchor="ls")
    line = np.array(image)
    line.setflags(write=False)
    return line


@cache
def _font(character: str, own: bool) -> ImageFont.FreeTypeFont | None:
    """The first font with a character, Pillow's own before or after the common ones; None: there is none."""
    return next((font for font in _fonts(character, own) if _has(font, character)), None)


def _fonts(character: str, own: bool) -> Iterator[ImageFont.FreeTypeFont]:
    if own:
        yield _default()
    for place in _FONTS:
        if (font := _load(place, 0)) is not None:
            yield font
    yield _default()
    wanted = ["fc-match", "--format=%{index} %{file}", f"sans:charset={ord(character):x}"]
    try:
        found = subprocess.run(wanted, capture_output=True, check=True, timeout=30).stdout.decode()
        index, place = found.split(maxsplit=1)
    except (OSError, ValueError, subprocess.SubprocessError):
        return  # No fontconfig, or no font.
    if (font := _load(place, int(index) & 0xFFFF)) is not None:  # Above are the variants of a variable font.
        yield font


@cache
def _default() -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


@cache
def _load(place: str, index: int) -> ImageFont.FreeTypeFont | None:
    try:
        return ImageFont.truetype(place, SIZE, index)
    except OSError:
        return None


def _has(font: ImageFont.FreeTypeFont, character: str) -> bool:
    """Whether a font draws a character, and not the sign that stands for all it lacks."""
    if character == " ":
        return True
    # Without the shaping of scripts, which adds signs of its own around what is missing.
    plain = font.font_variant(layout_engine=ImageFont.Layout.BASIC)
    mask, sign = plain.getmask(character), plain.getmask(_NO_CHARACTER)
    return any(mask) and (mask.size != sign.size or list(mask) != list(sign))
