"""Depth images as image_transport's compressedDepth sends them: PNG, or RVL.

A message's data begin with 12 bytes: a number for the kind of quantisation, which is always inverse depth,
and two float32 A and B. Depth of whole millimetres follows as it is; depth of float32 metres as whole numbers
q = A / metres + B, rounded down, 0 for none. RVL: Wilson, Fast Lossless Depth Image Compression, ISS 2017.
"""

import struct

import cv2
import numpy as np
from numpy.typing import NDArray
from sensor_msgs.msg import CompressedImage

from ovs_ros.ros.conversions import ConversionError
from ovs_ros.runtime.quoting import quoted

COMPRESSED_DEPTH_ENCODINGS = ("16UC1", "mono16", "32FC1")
_CONFIG = struct.Struct("<iff")
_MOST_NIBBLES = 8
"""Of a number in RVL: enough to count 16 million pixels. Each has three bits and a sign that one follows."""

_DOUBLINGS = 4


def compressed_depth_to_metres(message: CompressedImage, size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth as (H, W) float32 metres, NaN where there is none.

    Args:
        message: with a format such as '16UC1; compressedDepth png' or '32FC1; compressedDepth rvl'.
        size: (H, W) that it has to have. It is checked before anything is decoded.

    Raises:
        ConversionError: another format, encoding or size, or data that cannot be decoded.
    """
    encoding, _, codec = (part.strip() for part in message.format.partition(";"))
    codec = codec.removeprefix("compressedDepth").strip() or "png"  # Old versions do not name it.
    if encoding not in COMPRESSED_DEPTH_ENCODINGS or codec not in ("png", "rvl"):
        raise ConversionError(
            "expected depth in a format like '16UC1; compressedDepth png', with one of the encodings "
            f"{', '.join(COMPRESSED_DEPTH_ENCODINGS)} and png or rvl, got {quoted(message.format)}"
        )
    data = bytes(message.data)
    if len(data) <= _CONFIG.size:
        raise ConversionError(f"expected compressed depth, got a message of {len(data)} bytes of data")
    _, a, b = _CONFIG.unpack_from(data)
    values = (_png if codec == "png" else _rvl)(data[_CONFIG.size :], size)
    if encoding != "32FC1":
        metres = values * np.float32(0.001)
        metres[values == 0] = np.nan
        return metres
    with np.errstate(divide="ignore", invalid="ignore"):
        metres = np.float32(a) / (values - np.float32(b))
    metres[(values == 0) | ~((metres > 0) & (metres < np.inf))] = np.nan
    return metres


def _png(data: bytes, size: tuple[int, int]) -> NDArray[np.uint16]:
    if data[:8] != b"\x89PNG\r\n\x1a\n" or len(data) < 26:
        raise ConversionError("expected compressed depth as PNG, got data that are no PNG")
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    _check_size(height, width, size)
    if (bits, color) != (16, 0):
        raise ConversionError(
            f"expected depth as a PNG of 16 bits and one channel, got {bits} bits and colour type {color}"
        )
    try:
        values = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise ConversionError(f"expected depth as a PNG that OpenCV decodes: {error.err}") from error
    if values is None or values.shape != size or values.dtype != np.uint16:
        raise ConversionError("expected depth as a PNG that OpenCV decodes, got one that is cut or damaged")
    return values


def _rvl(data: bytes, size: tuple[int, int]) -> NDArray[np.uint16]:
    if len(data) < 8:
        raise ConversionError("expected depth as RVL, got no size")
    width, height = struct.unpack_from("<II", data)
    _check_size(height, width, size)
    numbers = _numbers(data[8:])  # (n,)
    heads = _heads(numbers)
    zeros, others = numbers[heads], numbers[heads + 1]
    is_depth = np.ones(len(numbers), bool)
    is_depth[heads] = is_depth[heads + 1] = False
    found, pixels = int(others.sum()), height * width
    steps = numbers[is_depth][:found]
    if zeros.sum() + found != pixels or len(steps) != found:
        raise ConversionError(
            f"expected {pixels} pixels of depth in RVL, got {zeros.sum() + len(steps)}; was the message cut "
            "off on its way?"
        )
    # The sign is in the lowest bit. The encoder's depth has 16 bits and wraps around.
    depth = np.cumsum((steps >> 1) ^ -(steps & 1), dtype=np.int32) & 0xFFFF
    values = np.zeros(pixels, np.uint16)
    runs = np.stack((zeros, others), axis=1).reshape(-1)
    values[np.repeat(np.arange(len(runs)) % 2 == 1, runs)] = depth
    return values.reshape(size)


def _numbers(data: bytes) -> NDArray[np.int32]:
    """The numbers (n,) of an RVL stream: groups of nibbles, the lowest first. Up to 7 zeros fill its end."""
    words = np.frombuffer(data[: len(data) // 4 * 4], "<u4")
    both = words.astype(">u4").view(np.uint8)
    nibbles = np.stack((both >> 4, both & 15), axis=1).reshape(-1)
    ends = np.flatnonzero(nibbles < 8)
    starts = np.concatenate(([0], ends[:-1] + 1))[: len(ends)]
    lengths = ends - starts + 1
    if lengths.max(initial=0) > _MOST_NIBBLES:
        raise ConversionError("expected depth as RVL, got a number that is too long; is the message damaged?")
    numbers = (nibbles[starts] & 7).astype(np.int32)
    for place in range(1, lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > place)
        numbers[longer] |= (nibbles[starts[longer] + place] & 7).astype(np.int32) << 3 * place
    return numbers


def _heads(numbers: NDArray[np.int32]) -> NDArray[np.int32]:
    """Where runs begin: a count of zeros, a count of others, then so many others.

    Each run tells where the next one begins. Doubling how many runs a step skips lets Python go from every
    sixteenth run to the next alone; tables give those in between.
    """
    count = len(numbers)
    following = np.full(count + 1, count, np.int32)
    following[: count - 1] = np.minimum(np.arange(2, count + 1, dtype=np.int32) + numbers[1:], count)
    tables = [following]  # of 1, 2, 4, … runs
    for _ in range(_DOUBLINGS):
        tables.append(tables[-1][tables[-1]])
    found, at = [], 0
    while at < count:
        found.append(at)
        at = int(tables[-1][at])
    heads = np.array(found, np.int32)
    for table in tables[:-1]:
        heads = np.concatenate((heads, table[heads]))
    heads.sort()
    return heads[heads < count - 1]


def _check_size(height: int, width: int, size: tuple[int, int]) -> None:
    if (height, width) != size:
        raise ConversionError(
            f"expected depth of the image's {size[1]}x{size[0]} pixels, got {width}x{height}; register depth "
            "to the image"
        )
