"""Find the same points in two images by depth, camera poses and the pinhole model.

With the inverse depth d = 1 / z of a pixel (u, v), the rotation R and the translation t from one camera to
the other, and the camera matrices K and K', the pixel lies in the other image at

    (x, y, 1) ~ K' R K^-1 (u, v, 1) + d K' t

and d divided by the third component is the inverse depth that it should have there. A depth image that says
otherwise shows another point: something stands before it, or stood before it. (Hartley and Zisserman,
Multiple View Geometry, 2nd edition, sections 6.1 and 9.6.)
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.geometry.warp import NOWHERE, Warp

TOLERANCE = 0.05
"""By which share two inverse depths of one point may differ; the error of depth cameras at a few metres."""
_BEHIND = np.float32(1e-3)
_COARSE = 16
_REACH = 9


@dataclass(frozen=True, eq=False)
class Sight:
    """What a camera measured at one moment, and its pose.

    Attributes:
        intrinsics: of the depth image, and of the image that it is registered to.
        depth: (H, W) float32, metres along z; not finite or not above 0 where there is none.
        camera_to_world: (4, 4) float64, the rigid motion from the camera's optical frame (x right, y down,
            z forward) to a fixed frame.
        inverse_depth: (H, W) float32, 1 / metres, 0 where there is none.

    Raises:
        ValueError: the depth has another size than the camera, or the pose is not a rigid motion.
    """

    intrinsics: Intrinsics
    depth: NDArray[np.float32]
    camera_to_world: NDArray[np.float64]
    inverse_depth: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        height, width = self.intrinsics.height, self.intrinsics.width
        if self.depth.shape != (height, width):
            raise ValueError(
                f"expected depth of shape {(height, width)} as the camera's calibration says, "
                f"got {self.depth.shape}"
            )
        _check_rigid(self.camera_to_world)
        with np.errstate(divide="ignore"):
            inverse = np.reciprocal(self.depth)  # (H, W)
        measured = (inverse > 0) & (inverse < np.inf)
        # Where the mask is not set, a new array gets zeros.
        object.__setattr__(self, "inverse_depth", cv2.copyTo(inverse, measured.view(np.uint8)))


def reproject(now: Sight, before: Sight, tolerance: float = TOLERANCE, holes: bool = True) -> Warp:
    """Where the pixels of one sight were in an earlier one.

    Args:
        now, before: the two sights; their cameras may differ.
        tolerance: pixels whose inverse depths differ by more than this share show different points.
        holes: follow pixels without depth too, by the depth around them, and trust them where either sight
            has none. False: only pixels that both sights measured.
    """
    motion = np.linalg.inv(before.camera_to_world) @ now.camera_to_world  # (4, 4) from this camera to that
    there = _matrix(before.intrinsics)
    matrix = (there @ motion[:3, :3] @ np.linalg.inv(_matrix(now.intrinsics))).astype(np.float32)  # K' R K^-1
    shift = (there @ motion[:3, 3]).astype(np.float32)  # (3,) K' t
    rows = np.arange(now.intrinsics.height, dtype=np.float32)[:, None]  # (H, 1)
    columns = np.arange(now.intrinsics.width, dtype=np.float32)[None, :]  # (1, W)
    measured = now.inverse_depth
    inverse = _filled(measured) if holes else measured  # (H, W)

    def component(i: int) -> NDArray[np.float32]:
        out = inverse * shift[i]
        out += columns * matrix[i, 0] + (rows * matrix[i, 1] + matrix[i, 2])
        return out

    scale = component(2)
    # Points behind the earlier camera get places far outside its image.
    np.reciprocal(np.maximum(scale, _BEHIND, out=scale), out=scale)
    x, y = component(0), component(1)
    x *= scale
    y *= scale
    warp = Warp(x, y)
    found = warp.take(before.inverse_depth, 0)  # (H, W) measured
    scale *= inverse  # what it should be
    wrong = np.abs(found - scale)
    wrong -= np.multiply(scale, np.float32(tolerance), out=scale)
    hidden = wrong > 0
    if holes:
        hidden &= found > 0
        hidden &= measured > 0
    else:
        hidden |= found == 0
    # Adding is several times faster than writing through a mask.
    return Warp(x + hidden.astype(np.float32) * NOWHERE, y, x)


def _matrix(camera: Intrinsics) -> NDArray[np.float64]:
    return np.array([[camera.fx, 0, camera.cx], [0, camera.fy, camera.cy], [0, 0, 1]])


def _filled(inverse: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse depth (H, W) with the mean of what is around in its holes, 0 where nothing is near."""
    height, width = inverse.shape
    coarse = (max(width // _COARSE, 1), max(height // _COARSE, 1))
    hole = inverse == 0  # (H, W)
    known = cv2.resize((~hole).astype(np.float32), coarse, interpolation=cv2.INTER_AREA)
    total = cv2.resize(inverse, coarse, interpolation=cv2.INTER_AREA)
    known, total = (cv2.blur(values, (_REACH, _REACH)) for values in (known, total))
    around = cv2.resize(total / np.maximum(known, 1e-3), (width, height), interpolation=cv2.INTER_LINEAR)
    return cv2.copyTo(inverse, (~hole).view(np.uint8), around)


def _check_rigid(pose: NDArray[np.float64]) -> None:
    if not (
        pose.shape == (4, 4)
        and np.isfinite(pose).all()
        and np.allclose((turn := pose[:3, :3]) @ turn.T, np.eye(3), atol=1e-2)
        and np.linalg.det(turn) > 0
        and np.allclose(pose[3], (0, 0, 0, 1))
    ):
        raise ValueError(
            f"expected a pose as a (4, 4) matrix of a rotation and a translation, got {pose.tolist()}"
        )
