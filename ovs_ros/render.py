"""Label images as people see them: colours, the image underneath, and what the colours mean."""

from collections.abc import Collection, Mapping, Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.labels import histogram
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.colors import Color, spaced_colors
from ovs_ros.vocabulary.vocabulary import UNKNOWN_COLOR, Vocabulary

LEGEND_WIDTH = 200
LEAST_SHARE = 0.005
"""Of the pixels: what has less is left out of legends."""
SPACED_TOGETHER = 24
"""Up to how many words all colours of a vocabulary are spaced, which keeps them from picture to picture. Of
more words, those that a picture shows are spaced."""
_TEXT = (235, 235, 235)
_GROUND = (24, 24, 24)
_LEAST_SIDE = 240
"""Smaller pictures are enlarged before text is written into and beside them, in pixels."""
_SIDE_A_SCALE = 600
"""Text is twice as large in pictures with twice this length of the short side, and so on."""
_NAMED_SHARE = 0.015
"""Of the picture: what has less gets no name."""
_SEARCHED_SIDE = 160
"""Places for names are searched on a grid with this long side."""


def colorize(
    labels: NDArray[np.integer], vocabulary: Vocabulary, colors: Mapping[str, Color] | None = None
) -> NDArray[np.uint8]:
    """The categories' colours.

    Args:
        labels: (H, W) uint8 or uint16 ids.
        vocabulary: what they mean; ids that are not in it are shown as unknown.
        colors: of the names; None: those that the names have in every picture.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    table = np.empty((65536 if labels.dtype.itemsize > 1 else 256, 4), np.uint8)
    table[:] = (*UNKNOWN_COLOR, 255)
    for column in _present(labels, vocabulary):
        category = vocabulary.categories[column]
        table[category.id, :3] = category.color if colors is None else colors[category.name]
    # One 32 bit number a pixel is looked up several times faster than three bytes are.
    rgba = table.view(np.uint32)[:, 0].take(labels).view(np.uint8).reshape(*labels.shape, 4)
    rgb: NDArray[np.uint8] = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    return rgb


def display_colors(names: Collection[str], shown: Collection[str]) -> dict[str, Color]:
    """The colours of `overlay`, by name.

    Args:
        names: of the vocabulary. Of up to SPACED_TOGETHER names all are spaced, of more those that are shown.
        shown: the names that have pixels.
    """
    return spaced_colors(names if len(names) <= SPACED_TOGETHER else shown)


def painted(
    image: NDArray[np.uint8], labels: NDArray[np.integer], vocabulary: Vocabulary
) -> NDArray[np.uint8]:
    """The colours of `overlay` alone, over all but the unknown pixels, which stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 or uint16 ids.
        vocabulary: what they mean.

    Returns:
        (H, W, 3) uint8 RGB, new.
    """
    shown = [vocabulary.names[column] for column in _present(labels, vocabulary)]
    colors = colorize(labels, vocabulary, display_colors(vocabulary.names, shown))
    cv2.copyTo(image, (labels == vocabulary.unknown_id).view(np.uint8), colors)
    return colors


def overlay(
    image: NDArray[np.uint8],
    labels: NDArray[np.integer],
    vocabulary: Vocabulary,
    alpha: float = 0.5,
    *,
    names: bool = True,
) -> NDArray[np.uint8]:
    """The image with colours laid over it, outlines between regions and names on large regions.

    Unknown pixels stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 or uint16 ids.
        vocabulary: what they mean.
        alpha: in [0, 1], how much the colours cover.
        names: write names on large regions.

    Returns:
        (H, W, 3) uint8 RGB, new.

    Raises:
        ValueError: image and labels differ in size, or alpha is out of range.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(
            f"expected an image of shape {(*labels.shape, 3)} for these labels, got {image.shape}"
        )
    if not 0 <= alpha <= 1:
        raise ValueError(f"expected alpha from 0 to 1, got {alpha}")
    blended: NDArray[np.uint8] = cv2.addWeighted(
        image, 1 - alpha, painted(image, labels, vocabulary), alpha, 0
    )
    unknown = (labels == vocabulary.unknown_id).view(np.uint8)
    cv2.copyTo(image, unknown, blended)
    scale = _scale(labels.shape)
    cv2.copyTo(cv2.convertScaleAbs(blended, alpha=0.25), _outlines(labels, scale) & (1 - unknown), blended)
    if names:
        _write_names(blended, labels, vocabulary, scale)
    return blended


def picture(image: NDArray[np.uint8], segmentation: Segmentation, alpha: float = 0.5) -> NDArray[np.uint8]:
    """An overlay with a legend on its right; small images are enlarged, so that text can be read.

    Args:
        image: (H, W, 3) uint8 RGB.
        segmentation: of this image.
        alpha: as in `overlay`.

    Returns:
        (n H, n W + legend, 3) uint8 RGB for a whole n; the legend is at most half as wide as the image.
    """
    labels, vocabulary = segmentation.labels, segmentation.vocabulary
    times = -(-_LEAST_SIDE // min(labels.shape))
    if times > 1:
        size = times * labels.shape[1], times * labels.shape[0]
        image = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST)
    shares = dict(zip(segmentation.selected_names, segmentation.shares.tolist(), strict=True))
    rows = legend_rows(vocabulary.names, shares, segmentation.unknown_share)
    scale = _scale(labels.shape)
    width = min(scale * LEGEND_WIDTH, labels.shape[1] // 2)
    strip = legend_strip(rows, labels.shape[0], width, scale)
    return np.hstack((overlay(image, labels, vocabulary, alpha), strip))


def legend_rows(
    names: Collection[str], shares: Mapping[str, float], unknown_share: float
) -> list[tuple[str, Color, float]]:
    """The rows of a legend in the colours of `overlay`, the largest share first, and 'unknown' last.

    Shares that would be shown as 0% are left out.

    Args:
        names: of the vocabulary.
        shares: of the pixels, by name.
        unknown_share: of the pixels without a name.
    """
    colors = display_colors(names, [name for name, share in shares.items() if share > 0])
    rows = [
        (name, colors[name], share)
        for name, share in sorted(shares.items(), key=lambda item: -item[1])
        if share >= LEAST_SHARE
    ]
    return rows + [("unknown", UNKNOWN_COLOR, unknown_share)] * (unknown_share >= LEAST_SHARE)


def legend_strip(
    rows: Sequence[tuple[str, Color, float]], height: int, width: int = LEGEND_WIDTH, scale: int = 1
) -> NDArray[np.uint8]:
    """A strip with a row for each (name, RGB, share of the pixels), in the order given.

    Names that are too long are squeezed.

    Args:
        rows: what does not fit into the height is counted in the last row.
        height, width: of the strip in pixels.
        scale: how many times as large as usual the letters are.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    # Not above: the node, which imports this file too, needs no Pillow before it draws.
    from ovs_ros.runtime.lettering import HEIGHT, line_of_text

    line = scale * HEIGHT
    room = max(height // line, 1)
    if len(rows) > room:
        rest = rows[room - 1 :]
        rows = [*rows[: room - 1], (f"{len(rest)} more", _GROUND, sum(share for _, _, share in rest))]
    strip = np.full((height, width, 3), _GROUND, np.uint8)
    for i, (name, color, share) in enumerate(rows):
        top = i * line
        corners = (4 * scale, top + 4 * scale), (16 * scale, top + 16 * scale)
        cv2.rectangle(strip, *corners, color, cv2.FILLED)
        for text, left, right in ((f"{share:.0%}", 22, 56), (name, 60, width // scale - 4)):
            letters, room_for_it = line_of_text(text, scale), max(scale, scale * (right - left))
            if letters.shape[1] > room_for_it:
                letters = cv2.resize(letters, (room_for_it, line), interpolation=cv2.INTER_AREA)
            _draw(strip, letters, top, scale * left)
    return strip


def _draw(pixels: NDArray[np.uint8], letters: NDArray[np.uint8], top: int, left: int) -> None:
    """Draw letters into pixels, as far as they are inside."""
    place = pixels[top : top + letters.shape[0], left : left + letters.shape[1]]
    share = letters[: place.shape[0], : place.shape[1], None] / np.float32(255)
    place[:] = np.rint(place + (np.array(_TEXT, np.float32) - place) * share)


def _scale(shape: tuple[int, ...]) -> int:
    return max(1, round(min(shape[:2]) / _SIDE_A_SCALE))


def _present(labels: NDArray[np.integer], vocabulary: Vocabulary, least: float = 1) -> NDArray[np.intp]:
    """Which columns of the vocabulary have so many pixels."""
    counts = histogram(labels, 65536 if labels.dtype.itemsize > 1 else 256)
    inside = np.flatnonzero(vocabulary.ids < len(counts))
    return inside[counts[vocabulary.ids[inside]] >= least]


def _outlines(labels: NDArray[np.integer], scale: int) -> NDArray[np.uint8]:
    """(H, W) uint8, 1 where a pixel's right or lower neighbour has another label."""
    edges = np.zeros(labels.shape, np.uint8)
    edges[:, :-1] = labels[:, 1:] != labels[:, :-1]
    edges[:-1] |= labels[1:] != labels[:-1]
    return edges if scale == 1 else cv2.dilate(edges, np.ones((scale, scale), np.uint8))


def _write_names(
    pixels: NDArray[np.uint8], labels: NDArray[np.integer], vocabulary: Vocabulary, scale: int
) -> None:
    """Write each name once, in the middle of its widest region, if it is wide."""
    from ovs_ros.runtime.lettering import HEIGHT, line_of_text

    height, width = labels.shape
    step = max(1, max(height, width) // _SEARCHED_SIDE)
    coarse = np.ascontiguousarray(labels[step // 2 :: step, step // 2 :: step])
    free = np.ones((height, width), bool)
    for column in _present(coarse, vocabulary, _NAMED_SHARE * coarse.size):
        row, col, radius = _middle(coarse == vocabulary.ids[column])
        if 2 * radius * step < scale * HEIGHT * 0.75:
            continue
        letters = line_of_text(vocabulary.names[column], scale)
        top = min(max(row * step - scale * HEIGHT // 2, 0), height - scale * HEIGHT)
        left = min(max(col * step - letters.shape[1] // 2, 0), width - letters.shape[1])
        box = slice(max(top, 0), top + scale * HEIGHT), slice(max(left, 0), left + letters.shape[1])
        if top < 0 or left < 0 or not free[box].all():
            continue
        free[box] = False
        pixels[box] //= 2
        _draw(pixels, letters, top, left)


def _middle(mask: NDArray[np.bool_]) -> tuple[int, int, float]:
    """The row and column that lie deepest in a mask, and how deep."""
    bordered = cv2.copyMakeBorder(mask.view(np.uint8), 1, 1, 1, 1, cv2.BORDER_CONSTANT)
    _, deepest, _, (col, row) = cv2.minMaxLoc(cv2.distanceTransform(bordered, cv2.DIST_L2, 3))
    return row - 1, col - 1, deepest
