"""The files of the demonstration: pictures, label images and labelled points."""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovs_ros.geometry.ply import write_ply
from ovs_ros.render import legend_rows, legend_strip
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.images import write_image
from ovs_ros.vocabulary.category import Category

FRAME_MS = 200
"""How long the animation shows a frame."""
ANIMATION_WIDTH = 560


def with_legend(
    overlay: NDArray[np.uint8], names: Collection[str], shares: Mapping[str, float], unknown_share: float
) -> NDArray[np.uint8]:
    """An overlay (H, W, 3) uint8 RGB with a legend beside it: names by their shares of the pixels.

    Args:
        overlay: of the node.
        names: of the vocabulary.
        shares: of the pixels, by name.
        unknown_share: of the pixels without a name.
    """
    rows = legend_rows(names, shares, unknown_share)
    return np.hstack((overlay, legend_strip(rows, len(overlay))))


def save(
    folder: Path,
    names: Mapping[int, str],
    pictures: Sequence[NDArray[np.uint8]],
    labels: Mapping[int, NDArray[np.integer[Any]]],
    clouds: Mapping[int, NDArray[np.void]],
) -> list[Path]:
    """Write a stream into a folder; pictures of an earlier run are removed.

    Args:
        folder: where to.
        names: label -> name.
        pictures: (H, W, 3) uint8 RGB each, in order, at least one.
        labels: vocabulary version -> label image (H, W).
        clouds: vocabulary version -> organised points (H, W) of dtype `geometry.points.POINT`.

    Returns:
        The files, in the order of writing; of the pictures only their pattern.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("overlay_*.jpg"):
        old.unlink()
    for index, picture in enumerate(pictures):
        write_image(folder / f"overlay_{index:03}.jpg", picture)
    _animate(folder / "stream.webp", pictures)
    for version, image in labels.items():
        write_image(folder / f"labels_v{version}.png", image)
    write_atomically(folder / "label_names.json", json.dumps(dict(sorted(names.items())), indent=1).encode())
    for version, cloud in clouds.items():
        _write_cloud(folder / f"points_v{version}.ply", cloud, names)
    return [
        folder / "overlay_*.jpg",
        folder / "stream.webp",
        *(folder / f"labels_v{version}.png" for version in labels),
        folder / "label_names.json",
        *(folder / f"points_v{version}.ply" for version in clouds),
    ]


def _animate(path: Path, pictures: Sequence[NDArray[np.uint8]]) -> None:
    height, width = pictures[0].shape[:2]
    size = (ANIMATION_WIDTH, round(height * ANIMATION_WIDTH / width))
    frames = [
        Image.fromarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)) for picture in pictures
    ]
    frames[0].save(
        path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=60, method=3
    )


def _write_cloud(path: Path, cloud: NDArray[np.void], names: Mapping[int, str]) -> None:
    xyz = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1)  # (H, W, 3)
    rgb = np.stack([cloud["rgb"] >> 16, cloud["rgb"] >> 8, cloud["rgb"]], axis=-1).astype(np.uint8)
    # Half the camera's colour, half the label's, so that any viewer shows the names' areas.
    colors = np.zeros((65536, 3), np.uint8)
    for label, name in names.items():
        colors[label] = Category(name, id=label).color
    write_ply(path, xyz, rgb // 2 + colors[cloud["label"]] // 2, cloud["label"], cloud["confidence"], names)
