"""Where the demonstration camera's pictures come from."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, cycle
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.images import list_images, read_image

WIDTH, HEIGHT = 640, 480

# Middlebury 2014 "Motorcycle" at the quarter size that scikit-image ships, from its published calibration:
# focal length, principal point and the difference of the principal points in pixels, baseline in metres.
FOCAL, CENTRE_X, CENTRE_Y, DOFFS, BASELINE = 994.978, 311.193, 254.877, 31.086, 0.193001
MOTORCYCLE_PERIOD = 300
"""Frames after which the moving view of the stereo pair is back where it began."""


@dataclass(frozen=True)
class View:
    """One image, and what belongs to it.

    Attributes:
        image: (H, W, 3) uint8, RGB.
        depth: (H, W) uint16 millimetres with 0 for none, or float32 metres with NaN for none; None without.
        intrinsics: (3, 3) float64, the rectified camera matrix in pixels; None if it is not known.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.uint16] | NDArray[np.float32] | None = None
    intrinsics: NDArray[np.float64] | None = None


def open_source(source: str) -> Iterator[View]:
    """Views from what `source` names, without end: files start again.

    Args:
        source: "motorcycle"; the number of a webcam; a video file; a folder of images; or an RGB-D folder
            with NNNN.color.jpg, NNNN.depth.png (uint16 millimetres, 0 for none) and intrinsics.txt (3 x 3).

    Raises:
        ValueError: there is nothing to read. It is raised at once; damaged files raise it when they are due.
    """
    if source == "motorcycle":
        return motorcycle()
    if source.isdigit():
        return _capture(
            int(source),
            f"webcam {source} cannot be opened; `ls /dev/video*` shows which there are",
            f"webcam {source} gives no more frames; is it still plugged in?",
        )
    path = Path(source)
    if path.is_file():
        return _capture(
            source,
            f"{source} cannot be read as a video; a single image goes into a folder of its own",
            f"{source} opens as a video but holds no frame that can be decoded",
        )
    if path.is_dir():
        if (path / "intrinsics.txt").exists():
            return _rgbd(path)
        return (View(read_image(image)) for image in cycle(list_images(path)))
    raise ValueError(
        f"source {source!r} is neither 'motorcycle' nor the number of a webcam, and no such file or folder "
        "exists; name a video file, a folder of images, or an RGB-D folder with intrinsics.txt"
    )


def motorcycle_depth(disparity: NDArray[np.float32]) -> NDArray[np.float32]:
    """Depth along Z from the pair's disparity, Z = baseline * f / (d + doffs) (Scharstein et al., GCPR 2014).

    Args:
        disparity: (H, W) float32, pixels; not finite where it was not measured.

    Returns:
        (H, W) float32, metres; NaN where it was not measured.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = np.float32(BASELINE * FOCAL) / (disparity + np.float32(DOFFS))
    return np.where(np.isfinite(disparity), depth, np.float32(np.nan))


def crop_intrinsics(intrinsics: NDArray[np.float64], x: float, y: float, scale: float) -> NDArray[np.float64]:
    """The camera matrix after cropping at (x, y) and then scaling; pixel centres lie at whole numbers."""
    cropped = intrinsics.copy()
    cropped[:2] *= scale
    cropped[0, 2] = (intrinsics[0, 2] - x + 0.5) * scale - 0.5
    cropped[1, 2] = (intrinsics[1, 2] - y + 0.5) * scale - 0.5
    return cropped


def motorcycle() -> Iterator[View]:
    """A slowly moving and zooming 640 x 480 view of the Middlebury motorcycle, with its measured depth.

    Raises:
        ValueError: scikit-image, which carries the pair, is not installed.
    """
    try:
        from skimage.data import stereo_motorcycle
    except ImportError as error:
        raise ValueError(
            "the motorcycle pair comes with scikit-image, which is not installed: pip install '.[demo]'"
        ) from error
    image, _, disparity = stereo_motorcycle()
    depth = motorcycle_depth(disparity)
    intrinsics = np.array([[FOCAL, 0, CENTRE_X], [0, FOCAL, CENTRE_Y], [0, 0, 1]])
    return (motorcycle_view(image, depth, intrinsics, index) for index in count())


def motorcycle_view(
    image: NDArray[np.uint8], depth: NDArray[np.float32], intrinsics: NDArray[np.float64], index: int
) -> View:
    """The view of that index onto the whole picture (H, W, 3), its depth (H, W) and its camera (3, 3)."""
    full_height, full_width = depth.shape
    angle = 2 * math.pi * index / MOTORCYCLE_PERIOD
    height = round(full_height * (0.86 + 0.12 * math.cos(angle)))
    width = round(height * WIDTH / HEIGHT)
    x = round((full_width - width) * (0.5 - 0.5 * math.cos(angle)))
    y = round((full_height - height) * (0.5 + 0.5 * math.sin(angle)))
    window = (slice(y, y + height), slice(x, x + width))
    size = (WIDTH, HEIGHT)
    return View(
        cv2.resize(image[window], size, interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False),
        # Nearest: a mean across an edge would put points where nothing is. Exact: what lies under the middle
        # of a pixel, as in the image, and not under its corner.
        cv2.resize(depth[window], size, interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float32, copy=False),
        crop_intrinsics(intrinsics, x, y, HEIGHT / height),
    )


def _rgbd(folder: Path) -> Iterator[View]:
    text = (folder / "intrinsics.txt").read_text()
    numbers = re.split(r"[\s,]+", text.strip())
    try:
        intrinsics = np.array(numbers, dtype=np.float64).reshape(3, 3)
    except ValueError as error:
        raise ValueError(
            f"{folder}/intrinsics.txt must hold the nine numbers of a 3 x 3 camera matrix, not {text[:80]!r}"
        ) from error
    colors = sorted(folder.glob("*.color.*"))
    if not colors:
        raise ValueError(
            f"{folder} has intrinsics.txt but no NNNN.color.jpg; an RGB-D folder holds NNNN.color.jpg and "
            "NNNN.depth.png"
        )

    def view(color: Path) -> View:
        path = color.with_name(color.name.split(".color.")[0] + ".depth.png")
        depth = cv2.imread(str(path), cv2.IMREAD_UNCHANGED) if path.exists() else None
        if depth is not None and (depth.dtype != np.uint16 or depth.ndim != 2):
            raise ValueError(
                f"{path} must be one channel of 16 bits (millimetres), not {depth.dtype} {depth.shape}"
            )
        return View(
            read_image(color), None if depth is None else depth.astype(np.uint16, copy=False), intrinsics
        )

    return map(view, cycle(colors))


def _capture(source: str | int, unopened: str, ended: str) -> Iterator[View]:
    """What OpenCV captures from a video file, which starts again at its end, or from a webcam."""
    capture = cv2.VideoCapture(source)
    if not capture.isOpened():
        raise ValueError(unopened)
    if isinstance(source, int):
        capture.set(cv2.CAP_PROP_FRAME_WIDTH, WIDTH)
        capture.set(cv2.CAP_PROP_FRAME_HEIGHT, HEIGHT)

    def views() -> Iterator[View]:
        while True:
            ok, frame = capture.read()
            if not ok and isinstance(source, str):
                capture.open(source)
                ok, frame = capture.read()
            if not ok:
                raise ValueError(ended)
            yield View(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB).astype(np.uint8, copy=False))

    return views()
