"""The size that an image file claims in its header, read before anything is decoded.

A few hundred bytes can claim billions of pixels, and decoders make room for all of them. Of a file that names
several sizes (tiles, thumbnails) the largest counts. What is not understood has no size, and is not decoded.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

MAX_MEGAPIXELS = 50.0
"""Of an image that is decoded, unless somebody allows more."""
_MOST_STEPS = 65536
"""Segments of a JPEG or entries of a TIFF that are looked at."""
_NO_LENGTH = {0x01, *range(0xD0, 0xD8)}
_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_TIFF_SIZES = {256: 0, 257: 1, 322: 2, 323: 3}
"""Tag -> place of the image's width and height, then of a tile's."""
_TIFF_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_PNM = re.compile(rb"P[1-6](?:\s|#[^\r\n]*[\r\n])+(\d{1,10})(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})\s")


class ImageSize(NamedTuple):
    """What a header claims, in pixels."""

    width: int
    height: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.width * self.height / 1e6


def image_size(data: memoryview) -> ImageSize | None:
    """The size of a JPEG, PNG, WebP, TIFF, BMP, GIF, PNM, JPEG 2000 or AVIF; None: its header has none.

    Args:
        data: the whole file, as bytes.
    """
    head = bytes(data[:32])
    try:
        sizes = list(_sizes(data, head))
    except (struct.error, IndexError, OverflowError):  # It is cut off, or an offset leads far out.
        return None
    return max(sizes, key=lambda size: size.megapixels, default=None)


def _sizes(data: memoryview, head: bytes) -> Iterator[ImageSize]:
    if head.startswith(b"\xff\xd8\xff"):
        yield from _jpeg(data)
    elif head.startswith(b"\x89PNG\r\n\x1a\n") and head[12:16] == b"IHDR":
        yield ImageSize(*struct.unpack_from(">II", head, 16))
    elif head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        yield from _webp(head)
    elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        yield from _tiff(data, head)
    elif head.startswith(b"BM"):
        old = struct.unpack_from("<I", head, 14)[0] == 12
        width, height = struct.unpack_from("<HH" if old else "<ii", head, 18)
        yield ImageSize(abs(width), abs(height))
    elif head.startswith((b"GIF87a", b"GIF89a")):
        yield ImageSize(*struct.unpack_from("<HH", head, 6))
    elif head.startswith((b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")):
        for found in re.finditer(rb"\xff\x4f\xff\x51", data):
            yield ImageSize(*struct.unpack_from(">II", data, found.end() + 4))
    elif head[4:8] == b"ftyp":
        for found in re.finditer(rb"ispe", data):
            yield ImageSize(*struct.unpack_from(">II", data, found.end() + 4))
    elif found_pnm := _PNM.match(bytes(data[:65536])):
        yield ImageSize(int(found_pnm[1]), int(found_pnm[2]))


def _jpeg(data: memoryview) -> Iterator[ImageSize]:
    """The size in the first frame header, found as libjpeg finds it."""
    at = 2
    for _ in range(_MOST_STEPS):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
            continue
        marker = data[at + 1]
        if marker in _NO_LENGTH:
            at += 2
            continue
        if marker in _FRAMES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            yield ImageSize(width, height)
        if marker in _FRAMES or marker in (0xD8, 0xD9, 0xDA):  # The pixels begin, or the file ends.
            return
        at += 2 + struct.unpack_from(">H", data, at + 2)[0]


def _webp(head: bytes) -> Iterator[ImageSize]:
    kind = head[12:16]
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", head, 26)
        yield ImageSize(width & 0x3FFF, height & 0x3FFF)
    elif kind == b"VP8L":
        bits = struct.unpack_from("<I", head, 21)[0]
        yield ImageSize((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    elif kind == b"VP8X":
        yield ImageSize(*(int.from_bytes(head[at : at + 3], "little") + 1 for at in (24, 27)))


def _tiff(data: memoryview, head: bytes) -> Iterator[ImageSize]:
    """The size of the first image, and that of its tiles, for which the decoder makes room too."""
    order = "<" if head.startswith(b"II") else ">"
    big = 43 in head[2:4]
    start: int = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    count: int = struct.unpack_from(order + ("Q" if big else "H"), data, start)[0]
    start += 8 if big else 2
    entry = 20 if big else 12
    sizes = [0, 0, 0, 0]
    for at in range(start, start + min(count, _MOST_STEPS) * entry, entry):
        tag, kind = struct.unpack_from(order + "HH", data, at)
        if tag in _TIFF_SIZES:
            if kind not in _TIFF_TYPES:
                return
            value = struct.unpack_from(order + _TIFF_TYPES[kind], data, at + (12 if big else 8))[0]
            place = _TIFF_SIZES[tag]
            sizes[place] = max(sizes[place], value)  # Some readers take the first of two, some the last.
    if sizes[0] and sizes[1]:
        yield ImageSize(sizes[0], sizes[1])
        yield ImageSize(sizes[2], sizes[3])
