"""A recording of a depth camera with known poses, as a folder of files.

For each frame `NNNN.color.jpg`, `NNNN.depth.png` (uint16 millimetres, 0 for none) and `NNNN.pose.txt` (4 x 4,
camera to world); for all of them `intrinsics.txt` (3 x 3, pixels). Depth is taken as registered to the image;
in 7-Scenes (Shotton et al., CVPR 2013) it is so only nearly.
"""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.reprojection import Sight
from ovs_ros.runtime.files import read_file
from ovs_ros.runtime.images import decode


class RgbdFolder:
    """The frames of such a folder, by name.

    Attributes:
        names: the part before `.color.jpg`, sorted.

    Raises:
        ValueError: the folder has no frame, or its calibration is no 3 x 3 matrix.
        OSError: the calibration cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.names = sorted(path.name.split(".")[0] for path in folder.glob("*.color.jpg"))
        if not self.names:
            raise ValueError(
                f"expected NNNN.color.jpg, NNNN.depth.png and NNNN.pose.txt in {folder}, got none"
            )
        self._camera = _matrix(folder / "intrinsics.txt", 3)

    def read(self, name: str) -> tuple[NDArray[np.uint8], Sight]:
        """One frame: its image (H, W, 3) uint8 RGB, and what was measured with it.

        Raises:
            ValueError: a file has other content than expected.
            OSError: a file cannot be read.
        """
        image = self._image(f"{name}.color.jpg", cv2.IMREAD_COLOR)
        depth = self._image(f"{name}.depth.png", cv2.IMREAD_UNCHANGED)
        if depth.dtype != np.uint16 or depth.shape != image.shape[:2]:
            raise ValueError(
                f"expected uint16 depth of shape {image.shape[:2]}, as the image has, in "
                f"{self._folder / name}.depth.png, got {depth.dtype} of shape {depth.shape}"
            )
        (fx, _, cx), (_, fy, cy), _ = self._camera.tolist()
        intrinsics = Intrinsics(fx, fy, cx, cy, depth.shape[1], depth.shape[0])
        metres = depth * np.float32(0.001)
        pose = _matrix(self._folder / f"{name}.pose.txt", 4)
        return cv2.cvtColor(image, cv2.COLOR_BGR2RGB), Sight(intrinsics, metres, pose)

    def _image(self, name: str, flag: int) -> NDArray:
        path = self._folder / name
        try:
            image = decode(read_file(path), flag)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        if image is None:
            raise ValueError(f"expected an image in {path}, got a file that cannot be read as one")
        return image


def _matrix(path: Path, size: int) -> NDArray[np.float64]:
    try:
        text = read_file(path, 4096).decode()
        return np.array(text.split(), np.float64).reshape(size, size)
    except ValueError as error:
        raise ValueError(f"expected {size} x {size} numbers in {path}, got something else") from error
