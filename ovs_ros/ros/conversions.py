"""From messages to arrays: images, depth, calibration and poses.

For encodings of 8 bits the results equal cv_bridge's to the bit.
"""

import math
from copy import copy
from typing import Any

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.geometry.camera_model import COEFFICIENTS, UPRIGHT, CameraModel
from ovs_ros.geometry.points import Intrinsics
from ovs_ros.runtime.image_size import MAX_MEGAPIXELS
from ovs_ros.runtime.images import decode
from ovs_ros.runtime.quoting import quoted
from ovs_ros.transports import PLUGINS, republish

# encoding of 8 bits -> (channels, OpenCV's way to RGB; None: already RGB). OpenCV's Bayer codes name the
# second row's pixels, so they differ from the encodings' letters. 8UC3 and 8UC4 do not name an order: as in
# OpenCV, blue is first.
_EIGHT_BIT: dict[str, tuple[int, int | None]] = {
    "rgb8": (3, None),
    "bgr8": (3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, cv2.COLOR_YUV2RGB_YUY2),
}
# encoding of 16 bits -> the same with 8. 16UC1 is depth (REP 118).
_SIXTEEN_BIT = {name.replace("8", "16"): name for name in _EIGHT_BIT if "8" in name and name != "8UC1"}
# A plane of Y, then one of U and V in turn -> (rows of bytes for two rows of pixels, OpenCV's way to RGB).
_TWO_PLANES: dict[str, tuple[int, int | None]] = {
    "nv12": (3, cv2.COLOR_YUV2RGB_NV12),
    "nv21": (3, cv2.COLOR_YUV2RGB_NV21),
    "nv24": (6, None),
}
IMAGE_ENCODINGS = (*_EIGHT_BIT, *_SIXTEEN_BIT, *_TWO_PLANES)
# Y, U, V of 16 to 235 and 16 to 240 to RGB of 0 to 255 (ITU-R BT.601), as OpenCV has it for nv12.
_BT_601 = np.array([[1.164, 0, 1.596], [1.164, -0.391, -0.813], [1.164, 2.018, 0]])
_YUV_TO_RGB = np.column_stack((_BT_601, _BT_601 @ [-16, -128, -128]))  # (3, 4)
DEPTH_ENCODINGS = {
    "16UC1": ("u2", 0.001),
    "mono16": ("u2", 0.001),
    "16SC1": ("i2", 0.001),
    "32FC1": ("f4", 1.0),
    "64FC1": ("f8", 1.0),
}
"""encoding -> (NumPy's type, metres of 1)."""
_SENSOR_BITS = (8, 10, 12, 14, 16)


class ConversionError(ValueError):
    """A message that cannot be read: says what was expected, what came, and what to do."""


class BitDepth:
    """How many bits a camera uses of pixels of 16 bits: sensors give 10, 12 or 14 and leave the upper ones 0.

    Attributes:
        bits: 8, 10, 12, 14 or 16, from the highest value so far. It never falls: otherwise the brightness
            would change with each dark frame.
    """

    def __init__(self) -> None:
        self.bits = _SENSOR_BITS[0]

    def scaled(self, values: NDArray[np.uint16]) -> NDArray[np.uint8]:
        """Scale values of any shape (H, W) or (H, W, C) so that the highest of these bits becomes 255."""
        needed = int(values.max()).bit_length()
        self.bits = max(self.bits, next(bits for bits in _SENSOR_BITS if bits >= needed))
        return cv2.convertScaleAbs(values, alpha=255 / (2**self.bits - 1))


def image_to_rgb(message: Image, depth: BitDepth | None = None) -> NDArray[np.uint8]:
    """The image as (H, W, 3) uint8 RGB.

    An rgb8 message is not copied: the array shows its data, and rows may be padded.

    Args:
        message: the image.
        depth: the bits that the camera's earlier images used; it is updated. By default, each image is taken
            alone.

    Raises:
        ConversionError: an unknown encoding, depth, or step and data that do not fit size and encoding.
    """
    encoding = message.encoding
    _refuse_depth(encoding)
    if encoding in _TWO_PLANES:
        return _two_planes_to_rgb(message)
    if encoding not in IMAGE_ENCODINGS:
        raise ConversionError(
            f"expected an image encoded as one of {', '.join(IMAGE_ENCODINGS)}, got {quoted(encoding)}; "
            "convert it before, for example with image_proc"
        )
    channels, _ = _EIGHT_BIT[_SIXTEEN_BIT.get(encoding, encoding)]
    if channels == 2 and message.width % 2:
        raise ConversionError(
            f"expected an even width for the encoding {quoted(encoding)}, got {message.width}"
        )
    if encoding in _SIXTEEN_BIT:
        values = _values(message, "u2", channels).astype(np.uint16, copy=False)
        pixels = (depth or BitDepth()).scaled(values)
    else:
        pixels = _values(message, "u1", channels)
    if channels > 1:
        pixels = np.lib.stride_tricks.as_strided(
            pixels, (message.height, message.width, channels), (pixels.strides[0], channels, 1)
        )
    return _to_rgb(pixels, encoding)


def compressed_to_rgb(
    message: CompressedImage, depth: BitDepth | None = None, max_megapixels: float = MAX_MEGAPIXELS
) -> NDArray[np.uint8]:
    """The decoded image as (H, W, 3) uint8 RGB; grey ones become RGB, transparency is dropped.

    A Bayer mosaic that was compressed as it is, as image_transport does it, is demosaiced. An orientation in
    EXIF is ignored: camera_info and depth belong to the sensor's pixels as they are.

    Args:
        message: the image.
        depth: as for `image_to_rgb`.
        max_megapixels: an image whose header claims more is not decoded.

    Raises:
        ConversionError: no data, data that is no image, too many pixels, an unknown mosaic, or a depth image.
    """
    if len(message.data) == 0:
        raise ConversionError("expected a compressed image, got a message without data")
    # image_transport writes the encoding before it was compressed first: '16UC1; png compressed '.
    encoding = message.format.partition(";")[0].strip()
    _refuse_depth(encoding)
    if (video := next((one for one in PLUGINS if one in message.format.lower()), None)) is not None:
        raise ConversionError(
            f"expected images that are compressed one by one, such as JPEG and PNG, got the format "
            f"{quoted(message.format)}; {republish(video)}"
        )
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        decoded = decode(message.data, flags, max_megapixels)
    except ValueError as error:
        raise ConversionError(str(error)) from error
    if decoded is None or decoded.dtype not in (np.uint8, np.uint16):
        raise ConversionError(
            "expected a compressed image of 8 or 16 bits that OpenCV decodes (JPEG, PNG, …), got "
            f"{len(message.data)} bytes of format {quoted(message.format)}; was it cut off on its way?"
        )
    if decoded.dtype == np.uint16:
        decoded = (depth or BitDepth()).scaled(decoded)
    if decoded.ndim == 3:
        return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)
    if not encoding.startswith("bayer_"):
        return cv2.cvtColor(decoded, cv2.COLOR_GRAY2RGB)
    if encoding not in IMAGE_ENCODINGS:
        raise ConversionError(
            f"expected a mosaic of 8 or 16 bits, got {quoted(encoding)} in the format "
            f"{quoted(message.format)}; publish compressed colour images instead, for example from image_proc"
        )
    return _to_rgb(decoded, encoding)


def depth_to_metres(message: Image) -> NDArray[np.float32]:
    """Depth as (H, W) float32 metres, NaN where there is none. Always a new array.

    Whole numbers are millimetres with 0 for none, fractions are metres, none where not finite (REP 118).
    Simulators and drivers write also 0 or -1 m for none.

    Raises:
        ConversionError: another encoding, or step and data that do not fit size and encoding.
    """
    if message.encoding not in DEPTH_ENCODINGS:
        raise ConversionError(
            "expected depth encoded as 16UC1, mono16 or 16SC1 (millimetres), or as 32FC1 or 64FC1 (metres), "
            f"got {quoted(message.encoding)}"
        )
    kind, unit = DEPTH_ENCODINGS[message.encoding]
    values = _values(message, kind)
    metres = np.multiply(values, np.float32(unit), dtype=np.float32)
    # NaN is not above 0 either.
    none = ~((metres > 0) & (metres < np.inf)) if values.dtype.kind == "f" else values <= 0
    np.putmask(metres, none, np.nan)
    return metres


def intrinsics_from(message: CameraInfo) -> Intrinsics:
    """The rectified camera of a calibration: its projection matrix P, or K where P is not filled in.

    Matrices, width and height belong to the full sensor. The image is its region of interest, reduced by
    binning (REP 104, as in image_geometry).

    Raises:
        ConversionError: an uncalibrated camera (all zeros), or values that are not finite.
    """
    p, k = message.p, message.k
    # NaN counts as filled in, and is refused below.
    return _intrinsics(message, *((p[0], p[5], p[2], p[6]) if p[0] != 0 else (k[0], k[4], k[2], k[5])))


def camera_model_from(message: CameraInfo) -> CameraModel:
    """The camera of a calibration as it takes its images: K, D and R, with region of interest and binning.

    Raises:
        ConversionError: an uncalibrated camera (all zeros), values that are not finite, or a distortion model
            that `CameraModel` does not have.
    """
    k, distortion = message.k, tuple(message.d)
    if k[0] == 0:
        return CameraModel(intrinsics_from(message))
    intrinsics = _intrinsics(message, k[0], k[4], k[2], k[5])
    # Drivers of cameras without distortion leave the model empty or call it none.
    plain = not any(distortion) and message.distortion_model not in COEFFICIENTS
    model = "plumb_bob" if plain else message.distortion_model
    try:
        return CameraModel(intrinsics, model, distortion, tuple(message.r) if any(message.r) else UPRIGHT)
    except ValueError as error:
        raise ConversionError(f"the camera_info cannot be used: {error}") from error


def rectified_info(message: CameraInfo) -> CameraInfo:
    """The calibration of a camera's rectified images: without distortion, with the matrix P as K too."""
    p, k = list(message.p), message.k
    if p[0] == 0:
        p = [*k[0:3], 0.0, *k[3:6], 0.0, *k[6:9], 0.0]
    result = copy(message)
    result.distortion_model, result.d, result.r = "plumb_bob", [0.0] * 5, UPRIGHT
    result.k, result.p = [*p[0:3], *p[4:7], *p[8:11]], p
    return result


def _intrinsics(message: CameraInfo, fx: float, fy: float, cx: float, cy: float) -> Intrinsics:
    """Of the image, from those of the full sensor."""
    roi = message.roi
    across, down = max(message.binning_x, 1), max(message.binning_y, 1)
    try:
        return Intrinsics(
            fx / across,
            fy / down,
            (cx - roi.x_offset) / across,
            (cy - roi.y_offset) / down,
            (roi.width or message.width) // across,
            (roi.height or message.height) // down,
        )
    except ValueError as error:
        raise ConversionError(f"the camera_info cannot be used: {error}") from error


def pose_to_matrix(message: PoseStamped) -> NDArray[np.float64]:
    """A pose as a rigid motion (4, 4), from the posed frame to that of the message's header.

    Raises:
        ConversionError: values that are not finite, or a quaternion that is not of unit length.
    """
    position, turn = message.pose.position, message.pose.orientation
    x, y, z, w = turn.x, turn.y, turn.z, turn.w
    shift = (position.x, position.y, position.z)
    norm = math.sqrt(x * x + y * y + z * z + w * w)
    if not (all(map(math.isfinite, shift)) and abs(norm - 1) < 0.01):
        raise ConversionError(
            f"expected a pose with a finite position and a unit quaternion, got the position {shift} and the "
            f"quaternion {(x, y, z, w)}"
        )
    x, y, z, w = x / norm, y / norm, z / norm, w / norm
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w), shift[0]],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w), shift[1]],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y), shift[2]],
            [0, 0, 0, 1],
        ]
    )


def _refuse_depth(encoding: str) -> None:
    if encoding in DEPTH_ENCODINGS and encoding not in IMAGE_ENCODINGS:
        raise ConversionError(
            f"expected a picture, got {quoted(encoding)}, the encoding of depth; remap 'image' to the "
            "camera's colour or grey images, and 'depth' to this topic. Grey images of 16 bits are encoded "
            "as mono16"
        )


def _to_rgb(pixels: NDArray[np.uint8], encoding: str) -> NDArray[np.uint8]:
    """Pixels of 8 bits, (H, W) or (H, W, C), whose channels are those of the encoding."""
    _, code = _EIGHT_BIT[_SIXTEEN_BIT.get(encoding, encoding)]
    return pixels if code is None else cv2.cvtColor(pixels, code)


def _two_planes_to_rgb(message: Image) -> NDArray[np.uint8]:
    """An image of nv12, nv21 or nv24 as (H, W, 3) uint8 RGB."""
    encoding, height, width, step = message.encoding, message.height, message.width, message.step
    rows, code = _TWO_PLANES[encoding]
    if code is not None and (height % 2 or width % 2):
        raise ConversionError(
            f"expected an even size for the encoding {quoted(encoding)}, got {width}x{height}"
        )
    total = height * rows // 2
    if step * 2 == width * rows and len(message.data) == height * step:
        step = width  # Some drivers count the bytes of both planes in a row's step.
    data = _rows(message.data, encoding, total, width, step)
    if code is not None:
        return cv2.cvtColor(data[:, :width], code)
    both = data[height:].reshape(height, 2 * step)[:, : 2 * width]
    return cv2.transform(cv2.merge((data[:height, :width], both[:, 0::2], both[:, 1::2])), _YUV_TO_RGB)


def _values(message: Image, kind: str, channels: int = 1) -> NDArray[Any]:
    """The values of NumPy's type `kind`, (H, W * channels); copied only if padding breaks the alignment."""
    dtype = np.dtype(f"{'>' if message.is_bigendian else '<'}{kind}")
    row = message.width * channels * dtype.itemsize
    rows = _rows(message.data, message.encoding, message.height, row, message.step)[:, :row]
    return (np.ascontiguousarray(rows) if message.step % dtype.itemsize else rows).view(dtype)


def _rows(data: Any, encoding: str, rows: int, row: int, step: int) -> NDArray[np.uint8]:
    """Data as rows (rows, step), of which `row` bytes each are pixels, as a view."""
    if rows == 0 or row == 0:
        raise ConversionError("expected an image with pixels, got a width or a height of 0")
    if len(data) == 0:
        raise ConversionError(f"expected {rows} rows of {quoted(encoding)}, got a message without data")
    if step < row:
        raise ConversionError(
            f"expected a step of at least {row} bytes for a row of {quoted(encoding)}, got {step}; the "
            "driver fills in the message wrongly"
        )
    if len(data) != rows * step:
        raise ConversionError(
            f"expected {rows * step} bytes of data for {rows} rows of {step} bytes of {quoted(encoding)}, "
            f"got {len(data)}; the driver fills in the message wrongly"
        )
    return np.frombuffer(data, np.uint8).reshape(rows, step)
