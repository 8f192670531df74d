"""Labels of another sensor's points, from the image that shows them.

A point gets the label of its pixel, whatever stands before it. A lidar that is mounted above the camera sees
over edges, and what it sees behind them gets the label of what stands before. Telling such points apart needs
a surface, and the lines of a lidar are too far apart for one.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.camera_model import CameraModel


def moved(points: NDArray[np.float32], motion: NDArray[np.float64]) -> NDArray[np.float32]:
    """Points (N, 3) float32 after a rigid motion (4, 4)."""
    # NumPy's product wakes BLAS's threads, which take turns with the model's for milliseconds.
    return cv2.transform(points[:, None], motion[:3]).reshape(-1, 3) if len(points) else points


def label_points(
    out: NDArray[np.void],
    points: NDArray[np.float32],
    camera: CameraModel,
    rgb: NDArray[np.uint8],
    labels: NDArray[np.uint8] | NDArray[np.uint16],
    confidence: NDArray[np.uint8],
    unknown: int,
) -> int:
    """Write the colour, label and confidence of each point.

    Points that are not finite, behind the camera or outside of its image are black and unknown, with a
    confidence of 0.

    Args:
        out: (N,) of dtype POINT or POINT_WITH_INTENSITY; its coordinates stay as they are.
        points: (N, 3) float32, metres in the camera's optical frame.
        camera: of the image.
        rgb: (H, W, 3) uint8.
        labels: (H, W) uint8 or uint16, C-contiguous.
        confidence: (H, W) uint8, C-contiguous.
        unknown: the label of pixels without a name.

    Returns:
        How many points the image shows.

    Raises:
        ValueError: the image has another size than the camera.
    """
    size = height, width = camera.intrinsics.height, camera.intrinsics.width
    for name, array in (("rgb", rgb), ("labels", labels), ("confidence", confidence)):
        if array.shape[:2] != size:
            raise ValueError(
                f"expected {name} of {width}x{height} pixels as the camera's calibration says, got "
                f"{array.shape[1]}x{array.shape[0]}"
            )
    columns, rows = np.rint(camera.project(points)).T
    seen = np.flatnonzero((columns >= 0) & (columns < width) & (rows >= 0) & (rows < height))  # NaN is not
    pixel = rows[seen].astype(np.intp) * width + columns[seen].astype(np.intp)
    red, green, blue = rgb.reshape(-1, 3)[pixel].astype(np.uint32).T
    for name, nowhere, there in (
        ("rgb", 0, red << 16 | green << 8 | blue),
        ("label", unknown, labels.reshape(-1)[pixel]),
        ("confidence", 0, confidence.reshape(-1)[pixel]),
    ):
        out[name] = nowhere
        out[name][seen] = there
    return len(seen)
