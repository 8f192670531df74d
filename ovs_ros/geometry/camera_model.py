"""Where points lie in the image of a camera whose lens distorts.

The models of sensor_msgs/CameraInfo, as OpenCV has them: `plumb_bob` and `rational_polynomial` (radial and
tangential distortion), and `equidistant` (fisheye lenses; Kannala and Brandt, PAMI 2006). Their polynomials
fit the lens only within the image. Farther out they turn back, and points far to the side seem to lie in the
image's middle: such points count as not seen.
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache

import cv2
import numpy as np
from numpy.polynomial import Polynomial
from numpy.typing import NDArray

from ovs_ros.geometry.points import Intrinsics

COEFFICIENTS = {"plumb_bob": 5, "rational_polynomial": 8, "equidistant": 4}
"""How many coefficients a distortion model has: k1 k2 p1 p2 k3 k4 k5 k6, or k1 k2 k3 k4 of a fisheye lens."""
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
_Floats = NDArray[np.float32]
NEAREST = 1e-3
"""Metres from the camera. Nearer points are not seen."""


@dataclass(frozen=True)
class CameraModel:
    """A camera with its lens.

    Attributes:
        intrinsics: of the image.
        model: one of `COEFFICIENTS`.
        distortion: the model's coefficients; missing ones are 0.
        rotation: the rows of the (3, 3) matrix that turns points of the camera into those of the rectified
            one; not the identity for the cameras of a stereo pair.

    Raises:
        ValueError: an unknown model, more coefficients than it has, values that are not finite, or a matrix
            that is no rotation.
    """

    intrinsics: Intrinsics
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = ()
    rotation: tuple[float, ...] = UPRIGHT
    _limit: np.float32 = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.model not in COEFFICIENTS:
            raise ValueError(
                f"expected the distortion model to be one of {', '.join(COEFFICIENTS)}, got '{self.model}'; "
                "rectify the images before"
            )
        used = len(np.trim_zeros(np.asarray(self.distortion, np.float64), "b"))
        if used > COEFFICIENTS[self.model]:
            raise ValueError(
                f"expected at most {COEFFICIENTS[self.model]} coefficients of distortion for the model "
                f"'{self.model}', got {self.distortion}; rectify the images before"
            )
        if not all(map(math.isfinite, self.distortion)):
            raise ValueError(f"expected finite coefficients of distortion, got {self.distortion}")
        turn = np.clip(np.asarray(self.rotation, np.float64), -2, 2)  # Larger ones overflow, and are none.
        if turn.shape != (9,) or not np.allclose(
            turn.reshape(3, 3) @ turn.reshape(3, 3).T, np.eye(3), atol=1e-3
        ):
            raise ValueError(f"expected a rotation as 9 numbers, got {self.rotation}")
        object.__setattr__(
            self, "_limit", np.float32(min(_last_before_fold(self.model, self.distortion), 1e6))
        )

    @property
    def distorts(self) -> bool:
        """Whether the image differs from that of a pinhole camera with the same intrinsics."""
        return any(self.distortion) or self.model == "equidistant" or self.rotation != UPRIGHT

    def project(self, points: NDArray[np.float32]) -> NDArray[np.float32]:
        """The pixels of points; also beyond the image's edges.

        Args:
            points: (N, 3) float32, metres in the rectified camera's optical frame (x right, y down, z
                forward).

        Returns:
            (N, 2) float32 columns and rows, pixel centres at whole numbers. NaN for points that are not
            finite, behind the camera, or where the distortion model turns back.
        """
        if self.rotation != UPRIGHT:
            back = np.reshape(self.rotation, (3, 3)).T  # The inverse of a rotation is its transpose.
            points = cv2.transform(points[:, None], back).reshape(-1, 3) if len(points) else points
        x, y, z = points.T
        fisheye = self.model == "equidistant"
        with np.errstate(invalid="ignore", over="ignore"):  # NaN, infinite and huge coordinates
            square = x * x + y * y
            distance = square + z * z
            if fisheye:  # It may see more than half of the world.
                in_view = (np.arctan2(np.sqrt(square), z) < self._limit) & (distance > NEAREST**2)
            else:
                in_view = (square < (z * self._limit) ** 2) & (z > NEAREST)
            seen = np.flatnonzero(in_view & (distance < np.inf))
        x, y, z = x[seen], y[seen], z[seen]
        x, y = self._fisheye(x, y, z) if fisheye else self._distort(x / z, y / z)
        camera = self.intrinsics
        pixels = np.full((len(points), 2), np.nan, np.float32)
        pixels[seen, 0] = x * np.float32(camera.fx) + np.float32(camera.cx)
        pixels[seen, 1] = y * np.float32(camera.fy) + np.float32(camera.cy)
        return pixels

    def _fisheye(self, x: _Floats, y: _Floats, z: _Floats) -> tuple[_Floats, _Floats]:
        """Points (N,) on the image at a focal length of 1: their angle from the axis gives the radius."""
        radius = np.hypot(x, y)
        angle = np.arctan2(radius, z)
        scale = angle * _polynomial(self._coefficients(4), angle * angle)
        scale /= np.maximum(radius, np.float32(1e-12))  # On the axis, x and y are 0.
        return x * scale, y * scale

    def _distort(self, x: _Floats, y: _Floats) -> tuple[_Floats, _Floats]:
        """Points (N,) on the image at a focal length of 1, as the lens shifts them."""
        if not any(self.distortion):
            return x, y
        k1, k2, p1, p2, k3, k4, k5, k6 = self._coefficients(8)
        s = x * x + y * y
        scale = _polynomial((k1, k2, k3), s)
        if k4 or k5 or k6:
            scale /= _polynomial((k4, k5, k6), s)
        xy = 2 * x * y
        return (
            x * scale + (p1 * xy + p2 * (s + 2 * x * x)),
            y * scale + (p2 * xy + p1 * (s + 2 * y * y)),
        )

    def _coefficients(self, count: int) -> tuple[np.float32, ...]:
        return tuple(map(np.float32, _filled(self.distortion, count)))


def _filled(coefficients: tuple[float, ...], count: int) -> tuple[float, ...]:
    return (*coefficients, *(0.0,) * count)[:count]


@lru_cache(maxsize=64)
def _last_before_fold(model: str, distortion: tuple[float, ...]) -> float:
    """Where the distorted radius starts to fall: an angle for a fisheye lens, otherwise its tangent."""
    if model == "equidistant":
        k1, k2, k3, k4 = _filled(distortion, 4)
        angles = np.linspace(0, math.pi, 4096)
        # The derivative of t (1 + k1 t^2 + ... + k4 t^8).
        return _last_positive(angles, Polynomial([1, 3 * k1, 5 * k2, 7 * k3, 9 * k4])(angles**2))
    k1, k2, _, _, k3, k4, k5, k6 = _filled(distortion, 8)
    above, below = Polynomial([1, k1, k2, k3]), Polynomial([1, k4, k5, k6])
    s = Polynomial([0, 1])
    # The numerator of the derivative of r above(r^2) / below(r^2), in s = r^2.
    rising = (above + 2 * s * above.deriv()) * below - 2 * s * above * below.deriv()
    tangents = np.tan(np.linspace(0, math.pi / 2, 4096)[:-1])
    return _last_positive(tangents, np.minimum(rising(tangents**2), below(tangents**2)))


def _polynomial(coefficients: tuple[np.float32, ...], s: _Floats) -> _Floats:
    """1 + a s + b s^2 + ..."""
    total = np.zeros_like(s)
    for coefficient in reversed(coefficients):
        total += coefficient
        total *= s
    total += 1
    return total


def _last_positive(places: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """The last place before the values stop being above 0; infinity if they do not."""
    stopped = np.flatnonzero(~(values > 0))
    return float(places[max(stopped[0] - 1, 0)]) if len(stopped) else math.inf
