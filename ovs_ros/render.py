"""Label images as people see them: colours, the image underneath, and what the colours mean."""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import UNKNOWN_COLOR, Vocabulary

LEGEND_WIDTH = 200
_TEXT = (235, 235, 235)
_GROUND = (24, 24, 24)


def colorize(labels: NDArray[np.integer], vocabulary: Vocabulary) -> NDArray[np.uint8]:
    """The categories' colours.

    Args:
        labels: (H, W) uint8 or uint16 ids.
        vocabulary: what they mean; ids that are not in it are shown as unknown.

    Returns:
        (H, W, 3) uint8 RGB.
    """
    counts = np.bincount(labels.ravel(), minlength=1)
    table = np.empty((len(counts), 4), np.uint8)
    table[:] = (*UNKNOWN_COLOR, 255)
    inside = vocabulary.ids < len(counts)
    present = np.flatnonzero(inside)[counts[vocabulary.ids[inside]] > 0]
    for column in present:
        category = vocabulary.categories[column]
        table[category.id, :3] = category.color
    # One 32 bit number a pixel is looked up several times faster than three bytes are.
    rgba = table.view(np.uint32)[:, 0].take(labels).view(np.uint8).reshape(*labels.shape, 4)
    rgb: NDArray[np.uint8] = cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB)
    return rgb


def overlay(
    image: NDArray[np.uint8], labels: NDArray[np.integer], vocabulary: Vocabulary, alpha: float = 0.5
) -> NDArray[np.uint8]:
    """The image with the categories' colours laid over it; unknown pixels stay as they are.

    Args:
        image: (H, W, 3) uint8 RGB.
        labels: (H, W) uint8 or uint16 ids.
        vocabulary: what they mean.
        alpha: in [0, 1], how much the colours cover.

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
    blended: NDArray[np.uint8] = cv2.addWeighted(image, 1 - alpha, colorize(labels, vocabulary), alpha, 0)
    unknown = (labels == vocabulary.unknown_id).view(np.uint8)
    cv2.copyTo(image, unknown, blended)
    return blended


def legend(segmentation: Segmentation, height: int, width: int = LEGEND_WIDTH) -> NDArray[np.uint8]:
    """A strip that names the colours in one frame, the largest share first.

    Args:
        segmentation: of the frame.
        height, width: of the strip in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    colors = {category.id: category.color for category in segmentation.vocabulary.categories}
    order = np.argsort(-segmentation.shares, kind="stable")
    rows = [
        (
            segmentation.selected_names[i],
            colors[int(segmentation.selected_ids[i])],
            float(segmentation.shares[i]),
        )
        for i in order
        if segmentation.shares[i] > 0
    ]
    if segmentation.unknown_share > 0:
        rows.append(("unknown", UNKNOWN_COLOR, segmentation.unknown_share))
    return legend_strip(rows, height, width)


def legend_strip(
    rows: Sequence[tuple[str, tuple[int, int, int], float]], height: int, width: int = LEGEND_WIDTH
) -> NDArray[np.uint8]:
    """A strip with a row for each (name, RGB, share of the pixels), in the order given.

    Names that are too long are squeezed.

    Args:
        rows: what does not fit into the height is counted in the last row.
        height, width: of the strip in pixels.

    Returns:
        (height, width, 3) uint8 RGB.
    """
    # Not above: the node, which imports this file too, needs no Pillow.
    from ovs_ros.runtime.lettering import HEIGHT, line_of_text

    def write(text: str, left: int, right: int) -> None:
        line = line_of_text(text)
        if line.shape[1] > right - left:
            line = cv2.resize(line, (right - left, HEIGHT), interpolation=cv2.INTER_AREA)
        place = strip[top : top + HEIGHT, left : left + line.shape[1]]
        share_of_text = line[: len(place), :, None] / np.float32(255)
        place[:] = np.rint(place + (np.array(_TEXT, np.float32) - place) * share_of_text)

    room = max(height // HEIGHT, 1)
    if len(rows) > room:
        rest = rows[room - 1 :]
        rows = [*rows[: room - 1], (f"{len(rest)} more", _GROUND, sum(share for _, _, share in rest))]
    strip = np.full((height, width, 3), _GROUND, np.uint8)
    for i, (name, color, share) in enumerate(rows):
        top = i * HEIGHT
        cv2.rectangle(strip, (4, top + 4), (16, top + 16), color, cv2.FILLED)
        write(f"{share:.0%}", 22, 56)
        write(name, 60, width - 4)
    return strip


def with_legend(picture: NDArray[np.uint8], segmentation: Segmentation) -> NDArray[np.uint8]:
    """A picture (H, W, 3) uint8 RGB with the frame's legend on its right: (H, W + LEGEND_WIDTH, 3)."""
    return np.hstack((picture, legend(segmentation, picture.shape[0])))
