"""What the demonstration leaves behind: pictures, label images and labelled points."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ovs_ros.geometry.ply import write_ply
from ovs_ros.render import legend_strip
from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.vocabulary import UNKNOWN_COLOR

FRAME_MS = 200
"""How long the animation shows a frame."""
ANIMATION_WIDTH = 560
LEAST_SHARE = 0.005
"""Of the pixels: what would be 0% is left out of the legend."""


@dataclass(frozen=True, eq=False)
class Shot:
    """One frame to be shown.

    Attributes:
        labels: (H, W) uint8 or uint16.
        overlay: (H, W, 3) uint8, RGB.
        names: the M categories of the frame.
        shares: (M,) float32, their shares of the pixels.
        unknown_share: the share of the pixels without a name.
        version: the vocabulary's version.
    """

    labels: NDArray[np.integer[Any]]
    overlay: NDArray[np.uint8]
    names: tuple[str, ...]
    shares: NDArray[np.float32]
    unknown_share: float
    version: int


@dataclass(frozen=True)
class Gallery:
    """Saves a stream into a folder.

    Attributes:
        folder: made if it is not there; files of an earlier run are replaced.
        names: label -> name.
    """

    folder: Path
    names: Mapping[int, str]

    def save(self, shots: Sequence[Shot], clouds: Mapping[int, NDArray[np.void]]) -> list[Path]:
        """Write everything.

        Args:
            shots: frames in order, at least one.
            clouds: vocabulary version -> organised (H, W) points with x, y, z, rgb, label and confidence.

        Returns:
            The files, in the order of writing; of the overlay frames only their pattern.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        for old in self.folder.glob("overlay_*.jpg"):
            old.unlink()
        pictures = [self._picture(shot) for shot in shots]
        for index, picture in enumerate(pictures):
            self._write(self.folder / f"overlay_{index:03}.jpg", picture[..., ::-1])
        saved = [self.folder / "overlay_*.jpg", self._animate(pictures)]
        for version, shot in {shot.version: shot for shot in shots}.items():
            saved.append(self._write(self.folder / f"labels_v{version}.png", shot.labels))
        names = self.folder / "label_names.json"
        names.write_text(
            json.dumps({str(label): self.names[label] for label in sorted(self.names)}, indent=1)
        )
        saved.append(names)
        for version, cloud in sorted(clouds.items()):
            saved.append(self._write_cloud(self.folder / f"points_v{version}.ply", cloud))
        return saved

    def _picture(self, shot: Shot) -> NDArray[np.uint8]:
        shares = dict(zip(shot.names, map(float, shot.shares), strict=True))
        rows = [
            (name, Category(name, id=0).color, shares[name])
            for name in sorted(shares, key=lambda n: -shares[n])
        ]
        seen = [row for row in rows if row[2] >= LEAST_SHARE]
        if shot.unknown_share >= LEAST_SHARE:
            seen.append(("unknown", UNKNOWN_COLOR, shot.unknown_share))
        return np.hstack((shot.overlay, legend_strip(seen, len(shot.overlay))))

    def _animate(self, pictures: Sequence[NDArray[np.uint8]]) -> Path:
        path = self.folder / "stream.webp"
        height, width = pictures[0].shape[:2]
        size = (ANIMATION_WIDTH, round(height * ANIMATION_WIDTH / width))
        frames = [
            Image.fromarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA)) for picture in pictures
        ]
        frames[0].save(
            path, save_all=True, append_images=frames[1:], duration=FRAME_MS, loop=0, quality=60, method=3
        )
        return path

    def _write_cloud(self, path: Path, cloud: NDArray[np.void]) -> Path:
        xyz = np.stack([cloud["x"], cloud["y"], cloud["z"]], axis=-1)  # (H, W, 3)
        packed = np.ascontiguousarray(cloud["rgb"]).view(np.uint32)  # (H, W) 0x00RRGGBB
        rgb = np.stack([packed >> 16, packed >> 8, packed], axis=-1).astype(np.uint8)
        # Half the camera's colour, half the label's, so that any viewer shows the names' areas.
        colors = np.zeros((65536, 3), np.uint8)
        for label, name in self.names.items():
            colors[label] = Category(name, id=label).color
        rgb = rgb // 2 + colors[cloud["label"]] // 2
        write_ply(path, xyz, rgb, cloud["label"], cloud["confidence"], self.names)
        return path

    @staticmethod
    def _write(path: Path, image: NDArray[Any]) -> Path:
        if not cv2.imwrite(str(path), image):
            raise OSError(f"{path} could not be written")
        return path
