#!/usr/bin/env python3
"""Make docs/images/everyday.webp: eight of scikit-image's pictures, segmented with everyday words.

    python scripts/everyday_pictures.py

It prints a row of a Markdown table for each picture: what was asked for and what was found.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

import ovs_ros
from ovs_ros.render import legend_rows, legend_strip
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.segmentation import Segmentation

PICTURES = {
    "coffee": (("cup", "saucer", "spoon", "table"), ("laptop",)),
    "astronaut": (("person", "flag", "helmet", "rocket"), ("dog",)),
    "chelsea": (("cat",), ("dog", "sofa")),
    "rocket": (("rocket", "tower", "sky"), ("car",)),
    "stereo_motorcycle": (("motorcycle", "bench", "box", "floor"), ("bicycle",)),
    "camera": (("person", "camera", "grass", "sky", "building"), ("car",)),
    "coins": (("coin",), ("button", "plate")),
    "page": (("paper",), ("screen", "window")),
}
"""Functions of skimage.data whose files are in its wheel -> words that are there, and words that are not.

The words were chosen by looking at the pictures alone, before any was segmented.
"""
CELL = (230, 300)
"""Height and width that a picture is fitted into."""
LEGEND = 150
"""Width of the legend beside it."""
COLUMNS = 2
QUALITY = 70
SHEET = Path(__file__).parents[1] / "docs" / "images" / "everyday.webp"


def read(name: str) -> NDArray[np.uint8]:
    """One of the pictures as (H, W, 3) uint8 RGB.

    Raises:
        SystemExit: scikit-image is not installed.
    """
    try:
        from skimage import data
    except ImportError:
        sys.exit("everyday_pictures: the pictures come with scikit-image: pip install '.[demo]'")
    picture = getattr(data, name)()
    if isinstance(picture, tuple):  # Left, right and disparity.
        picture = picture[0]
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2RGB) if picture.ndim == 2 else np.ascontiguousarray(picture)


def cell(image: NDArray[np.uint8], result: Segmentation) -> NDArray[np.uint8]:
    """A picture with names and legend, in the middle of (CELL[0], CELL[1] + LEGEND, 3) uint8 RGB."""
    height, width = image.shape[:2]
    scale = min(CELL[0] / height, CELL[1] / width)
    size = round(width * scale), round(height * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    labels = cv2.resize(result.labels, size, interpolation=cv2.INTER_NEAREST)
    drawn = np.full((*CELL, 3), 255, np.uint8)
    top, left = (CELL[0] - size[1]) // 2, (CELL[1] - size[0]) // 2
    overlay = ovs_ros.overlay(image, labels, result.vocabulary)
    drawn[top : top + size[1], left : left + size[0]] = overlay
    shares = dict(zip(result.selected_names, result.shares.tolist(), strict=True))
    rows = legend_rows(result.vocabulary.names, shares, result.unknown_share)
    return np.hstack((drawn, legend_strip(rows, CELL[0], LEGEND)))


def found(result: Segmentation) -> str:
    """Every word's share of the pixels and the mean confidence of these, the largest share first."""
    shares = dict(zip(result.selected_names, result.shares.tolist(), strict=True))
    said = []
    for category in sorted(result.vocabulary.categories, key=lambda one: -shares.get(one.name, 0)):
        confidence = result.confidence[result.labels == category.id]
        sure = f" ({confidence.mean() / 255:.2f})" if confidence.size else ""
        said.append(f"{category.name} {shares.get(category.name, 0):.0%}{sure}")
    return ", ".join([*said, f"unknown {result.unknown_share:.0%}"])


def make_sheet(segmenter: Segmenter) -> tuple[NDArray[np.uint8], list[str]]:
    """All pictures in rows of COLUMNS, (H, W, 3) uint8 RGB, and a row of a Markdown table for each."""
    cells, rows = [], []
    for name, (there, absent) in PICTURES.items():
        image = read(name)
        result = segmenter.segment(image, segmenter.embed(ovs_ros.Vocabulary.from_names([*there, *absent])))
        cells.append(cell(image, result))
        rows.append(f"| `{name}` | {', '.join(there)} | {', '.join(absent)} | {found(result)} |")
    lines = [np.hstack(cells[i : i + COLUMNS]) for i in range(0, len(cells), COLUMNS)]
    return np.vstack(lines), rows


def main(arguments: Sequence[str] | None = None) -> None:
    """Segment the pictures, write the sheet, and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="stream", help="stream or quality")
    parser.add_argument("--models", type=Path, help="another folder with the model's files")
    parser.add_argument("--output", "-o", type=Path, default=SHEET, help="the picture to write")
    given = parser.parse_args(arguments)
    sheet, rows = make_sheet(ovs_ros.load(given.model, models=given.models))
    Image.fromarray(sheet).save(given.output, quality=QUALITY, method=6)
    print("| picture | words that are there | words that are not | found: share of the pixels (confidence) |")
    print("|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
