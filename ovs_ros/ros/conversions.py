"""From messages to arrays: images, depth, calibration and poses.

To the bit what cv_bridge gives for the same encodings: its checks, its OpenCV colour codes, its scaling of
16 bit.
"""

import math
import sys

import cv2
import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.geometry.points import Intrinsics

# encoding -> (bytes a pixel, channels, OpenCV's way to RGB; None: already RGB). OpenCV's Bayer codes name the
# second row's pixels, so they differ from the encodings' letters. What only says how many channels it has is
# taken in OpenCV's order, blue first.
_ENCODINGS: dict[str, tuple[int, int, int | None]] = {
    "rgb8": (3, 3, None),
    "bgr8": (3, 3, cv2.COLOR_BGR2RGB),
    "8UC3": (3, 3, cv2.COLOR_BGR2RGB),
    "rgba8": (4, 4, cv2.COLOR_RGBA2RGB),
    "bgra8": (4, 4, cv2.COLOR_BGRA2RGB),
    "8UC4": (4, 4, cv2.COLOR_BGRA2RGB),
    "mono8": (1, 1, cv2.COLOR_GRAY2RGB),
    "8UC1": (1, 1, cv2.COLOR_GRAY2RGB),
    "mono16": (2, 1, cv2.COLOR_GRAY2RGB),
    "16UC1": (2, 1, cv2.COLOR_GRAY2RGB),
    "bayer_rggb8": (1, 1, cv2.COLOR_BayerBG2RGB),
    "bayer_bggr8": (1, 1, cv2.COLOR_BayerRG2RGB),
    "bayer_gbrg8": (1, 1, cv2.COLOR_BayerGR2RGB),
    "bayer_grbg8": (1, 1, cv2.COLOR_BayerGB2RGB),
    "yuv422": (2, 2, cv2.COLOR_YUV2RGB_UYVY),
    "uyvy": (2, 2, cv2.COLOR_YUV2RGB_UYVY),
    "yuv422_yuy2": (2, 2, cv2.COLOR_YUV2RGB_YUY2),
    "yuyv": (2, 2, cv2.COLOR_YUV2RGB_YUY2),
}
_SIXTEEN_BIT = frozenset({"mono16", "16UC1"})
_BIG_ENDIAN_HOST = sys.byteorder == "big"


class ConversionError(ValueError):
    """A message that cannot be read: says what was expected, what came, and what to do."""


def image_to_rgb(message: Image) -> NDArray[np.uint8]:
    """The image as (H, W, 3) uint8 RGB.

    An rgb8 message is not copied: the array shows its data, and rows may be padded.

    Raises:
        ConversionError: an unknown encoding, or step and data that do not fit size and encoding.
    """
    encoding = message.encoding
    if encoding not in _ENCODINGS:
        raise ConversionError(
            f"expected an image encoded as one of {', '.join(_ENCODINGS)}, got '{encoding}'; "
            "convert it before, for example with image_proc"
        )
    pixel_bytes, channels, code = _ENCODINGS[encoding]
    pixels = _rows(message, pixel_bytes, encoding)  # (H, W * pixel_bytes)
    if code in (cv2.COLOR_YUV2RGB_UYVY, cv2.COLOR_YUV2RGB_YUY2) and message.width % 2:
        raise ConversionError(f"expected an even width for the encoding '{encoding}', got {message.width}")
    if encoding in _SIXTEEN_BIT:
        pixels = cv2.convertScaleAbs(_sixteen_bit(message, pixels), alpha=255 / 65535)
    elif channels > 1:
        pixels = np.lib.stride_tricks.as_strided(
            pixels,
            (message.height, message.width, channels),
            (pixels.strides[0], channels, 1),
        )
    if code is None:
        return pixels
    return cv2.cvtColor(pixels, code)


def compressed_to_rgb(message: CompressedImage) -> NDArray[np.uint8]:
    """The decoded image as (H, W, 3) uint8 RGB; grey ones become RGB, transparency is dropped.

    Raises:
        ConversionError: no data, or data that is no image.
    """
    if len(message.data) == 0:
        raise ConversionError("expected a compressed image, got a message without data")
    try:
        decoded = cv2.imdecode(np.frombuffer(message.data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:
        raise ConversionError(f"expected a compressed image that OpenCV decodes: {error.err}") from error
    if decoded is None:
        raise ConversionError(
            "expected a compressed image that OpenCV decodes (JPEG, PNG, …), got "
            f"{len(message.data)} bytes of format '{message.format}'; was it cut off on its way?"
        )
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2RGB, dst=decoded)


def depth_to_metres(message: Image) -> NDArray[np.float32]:
    """Depth as (H, W) float32 metres, NaN where there is none. Always a new array.

    As REP 118 says: 16UC1 (or mono16) is millimetres with 0 for none, 32FC1 is metres, none where not finite.

    Raises:
        ConversionError: another encoding, or step and data that do not fit size and encoding.
    """
    if message.encoding in _SIXTEEN_BIT:
        raw = _sixteen_bit(message, _rows(message, 2, message.encoding))
        metres = raw * np.float32(0.001)
        metres[raw == 0] = np.nan
        return metres
    if message.encoding == "32FC1":
        rows = _rows(message, 4, message.encoding)
        floats = _as_values(rows, ">f4" if message.is_bigendian else "<f4")
        metres = np.array(floats, np.float32)
        metres[~np.isfinite(metres)] = np.nan
        return metres
    raise ConversionError(
        f"expected depth encoded as 16UC1 (millimetres) or 32FC1 (metres), got '{message.encoding}'"
    )


def intrinsics_from(message: CameraInfo) -> Intrinsics:
    """The rectified camera of a calibration: its projection matrix P, or K where P is not filled in.

    Raises:
        ConversionError: an uncalibrated camera (all zeros), or values that are not finite.
    """
    p, k = message.p, message.k
    # NaN counts as filled in, and is refused below.
    fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if p[0] != 0 else (k[0], k[4], k[2], k[5])
    try:
        return Intrinsics(fx, fy, cx, cy, message.width, message.height)
    except ValueError as error:
        raise ConversionError(f"the camera_info is of no use: {error}") from error


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


def _rows(message: Image, pixel_bytes: int, encoding: str) -> NDArray[np.uint8]:
    """The pixels' bytes (H, W * pixel_bytes) without row padding, as a view."""
    height, width, step = message.height, message.width, message.step
    if height == 0 or width == 0:
        raise ConversionError(f"expected an image with pixels, got one of {width}x{height}")
    if len(message.data) == 0:
        raise ConversionError(f"expected {width}x{height} pixels of '{encoding}', got a message without data")
    if step < width * pixel_bytes:
        raise ConversionError(
            f"expected a step of at least {width * pixel_bytes} bytes for {width} pixels of '{encoding}', "
            f"got {step}; the driver fills in the message wrongly"
        )
    if len(message.data) != height * step:
        raise ConversionError(
            f"expected {height * step} bytes of data for {height} rows of {step} bytes, "
            f"got {len(message.data)}; the driver fills in the message wrongly"
        )
    return np.frombuffer(message.data, np.uint8).reshape(height, step)[:, : width * pixel_bytes]


def _as_values(rows: NDArray[np.uint8], dtype: str) -> NDArray:
    """Rows of bytes (H, W * itemsize) as values (H, W), copied only if padding breaks the alignment."""
    if rows.strides[0] % np.dtype(dtype).itemsize:
        rows = np.ascontiguousarray(rows)
    return rows.view(dtype)


def _sixteen_bit(message: Image, rows: NDArray[np.uint8]) -> NDArray[np.uint16]:
    """Rows of bytes as (H, W) uint16 in this machine's byte order."""
    values = _as_values(rows, ">u2" if message.is_bigendian else "<u2")
    return values if bool(message.is_bigendian) == _BIG_ENDIAN_HOST else values.astype(np.uint16)
