"""Colours of names that are shown together: as different as their number allows.

Each name has a colour of its own (`Category.color`), but of six names five may be pink. Here a name that is
too near to another one gets another colour. The same set of names always gives the same colours.
"""

import colorsys
from collections.abc import Collection
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ovs_ros.vocabulary.category import Category, name_key

Color = tuple[int, int, int]


def _rgb(hue: float, saturation: float, value: float) -> Color:
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


_APART = 0.17
"""How far colours shall be apart in Oklab. Its lightness is halved, for a picture shines through."""
_PALETTE = tuple(
    _rgb(hue / 24, saturation, value)
    for saturation, value in ((0.95, 1.0), (0.5, 1.0), (0.95, 0.6))
    for hue in range(24)
)
_TO_CONES = np.array(
    ((0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
     (0.0883024619, 0.2817188376, 0.6299787005))
)  # fmt: skip
_TO_LAB = np.array(
    ((0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
     (0.0259040371, 0.7827717662, -0.8086757660))
)  # fmt: skip


def spaced_colors(names: Collection[str]) -> dict[str, Color]:
    """A colour for each name, in RGB from 0 to 255; a name keeps its own colour where that is free.

    Args:
        names: of what is shown together, in any order.
    """
    return dict(_spaced(tuple(sorted(names, key=name_key))))


@lru_cache(maxsize=64)
def _spaced(names: tuple[str, ...]) -> tuple[tuple[str, Color], ...]:
    apart = min(_APART, 0.5 / max(1, len(names)) ** 0.5)
    palette = _oklab(np.array(_PALETTE))
    colors = [Category(name, id=0).color for name in names]
    places = _oklab(np.array(colors).reshape(-1, 3))
    moved = []
    kept = np.zeros(len(names), bool)
    for i, place in enumerate(places):
        if (np.linalg.norm(places[kept] - place, axis=1) < apart).any():
            moved.append(i)
        else:
            kept[i] = True
    # How far each colour of the palette is from those that are taken: (72,).
    free = np.full(len(palette), np.inf)
    for place in places[kept]:
        free = np.minimum(free, np.linalg.norm(palette - place, axis=1))
    for i in moved:
        fits = np.where(free >= apart, np.linalg.norm(palette - places[i], axis=1), np.inf)
        best = int(fits.argmin() if np.isfinite(fits).any() else free.argmax())
        colors[i] = _PALETTE[best]
        free = np.minimum(free, np.linalg.norm(palette - palette[best], axis=1))
    return tuple(zip(names, colors, strict=True))


def _oklab(rgb: NDArray[np.integer]) -> NDArray[np.float64]:
    """(…, 3) RGB from 0 to 255 in Oklab (Ottosson 2020), its lightness halved."""
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    lab: NDArray[np.float64] = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    return lab * (0.5, 1, 1)
