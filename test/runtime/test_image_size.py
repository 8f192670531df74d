"""What a header claims is read as decoders read it, and an image that claims too much is not decoded."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ovs_ros.runtime.image_size import MAX_MEGAPIXELS, image_size
from ovs_ros.runtime.images import decode, read_image

SUFFIXES = (".jpg", ".png", ".webp", ".tif", ".bmp", ".gif", ".ppm", ".pgm", ".jp2", ".avif")


def encoded(suffix, width=70, height=40):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    try:
        done, data = cv2.imencode(suffix, image[..., 0] if suffix == ".pgm" else image)
    except cv2.error:
        done = False
    if not done:
        pytest.skip(f"this OpenCV does not write {suffix}")
    return data.tobytes()


def jpeg(width, height):
    """A JPEG whose frame header claims any size: a decoder makes room for it."""
    data = bytearray(encoded(".jpg"))
    at = next(i for i in range(2, len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC1, 0xC2))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def png(width, height):
    data = bytearray(encoded(".png"))
    data[16:24] = struct.pack(">II", width, height)
    return bytes(data)


def with_exif(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "jpeg", exif=exif.tobytes())
    return buffer.getvalue()


def tiff(width, height, *, tile=None, big=False, order="<"):
    entries = [(256, width), (257, height)] + ([(322, tile), (323, tile)] if tile else [])
    mark = b"II" if order == "<" else b"MM"
    if big:
        head = mark + struct.pack(order + "HHHQ", 43, 8, 0, 16) + struct.pack(order + "Q", len(entries))
        body = b"".join(struct.pack(order + "HHQQ", tag, 16, 1, value) for tag, value in entries)
    else:
        head = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
        body = b"".join(struct.pack(order + "HHII", tag, 4, 1, value) for tag, value in entries)
    return head + body


BOMBS = {
    "jpeg": jpeg(65000, 65000),
    "png": png(2**31 - 1, 2**31 - 1),
    "webp": b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff\xff\xff" * 2 + bytes(8),
    "webp lossless": b"RIFF\x16\0\0\0WEBPVP8L\x0a\0\0\0\x2f" + b"\xff\xff\xff\xff" + bytes(8),
    "tiff": tiff(60000, 60000),
    "tiff of tiles": tiff(8, 8, tile=60000),
    "big tiff": tiff(2**40, 2**40, big=True),
    "tiff, big endian": tiff(60000, 60000, order=">"),
    "bmp": b"BM" + bytes(12) + struct.pack("<Iii", 40, 60000, -60000) + bytes(24),
    "gif": b"GIF89a" + struct.pack("<HH", 65535, 65535) + bytes(20),
    "pnm": b"P6 # a comment\n60000 60000\n255\n",
    "jpeg 2000": b"\xff\x4f\xff\x51\0\x29\0\0" + struct.pack(">II", 60000, 60000) + bytes(40),
    "avif": b"\0\0\0\x18ftypavif" + bytes(8) + b"ispe\0\0\0\0" + struct.pack(">II", 60000, 60000),
}


@pytest.fixture
def no_decoder(monkeypatch):
    def fail(*_):
        raise AssertionError("a decoder ran")

    monkeypatch.setattr(cv2, "imdecode", fail)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(("width", "height"), [(70, 40), (1, 300)])
def test_sizes_are_those_of_the_decoder(suffix, width, height):
    data = encoded(suffix, width, height)
    assert image_size(memoryview(data)) == (width, height)
    assert decode(data, cv2.IMREAD_COLOR).shape[:2] == (height, width)


def test_an_exif_header_before_the_frame_is_passed():
    assert image_size(memoryview(with_exif(encoded(".jpg")))) == (70, 40)


@pytest.mark.parametrize("kind", ["progressive", "lossy webp", "big tiff", "tiled"])
def test_other_forms(kind):
    picture = Image.fromarray(np.zeros((40, 70, 3), np.uint8))
    buffer = io.BytesIO()
    if kind == "progressive":
        picture.save(buffer, "jpeg", progressive=True)
    elif kind == "lossy webp":
        picture.save(buffer, "webp", quality=50, exif=b"Exif\0\0II*\0\x08\0\0\0\0\0")
    else:
        buffer.write(tiff(70, 40, big=kind == "big tiff", tile=16 if kind == "tiled" else None))
    assert image_size(memoryview(buffer.getvalue())) == (70, 40)


@pytest.mark.fault("decompression bombs", "refused by their header, before anything is decoded")
@pytest.mark.parametrize("name", BOMBS)
def test_what_claims_too_much_is_refused_before_it_is_decoded(name, no_decoder, tmp_path: Path):
    with pytest.raises(ValueError, match=r"at most 50 megapixels, got one that claims \d+ x \d+ pixels"):
        decode(BOMBS[name], cv2.IMREAD_COLOR)
    (tmp_path / "bomb.jpg").write_bytes(BOMBS[name])
    with pytest.raises(ValueError, match=r"bomb\.jpg: expected an image of at most 50 megapixels"):
        read_image(tmp_path / "bomb.jpg")


def test_the_limit_can_be_moved():
    data = encoded(".png", 200, 100)
    assert decode(data, cv2.IMREAD_COLOR, 0.02) is not None
    with pytest.raises(ValueError, match=r"at most 0\.019 megapixels, got one that claims 200 x 100"):
        decode(data, cv2.IMREAD_COLOR, 0.019)
    assert MAX_MEGAPIXELS == 50


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xd8\xff", b"\xff" * 200_000, b"II*\0\xff\xff\xff\xff", b"II+\0" + b"\xff" * 40, b"P6"],
)
def test_what_is_no_image_is_not_decoded(data, no_decoder):
    assert decode(data, cv2.IMREAD_COLOR) is None


@fuzz
@given(st.sampled_from(SUFFIXES[:6]), st.data())
def test_damaged_headers_are_decoded_within_the_limit_or_not_at_all(suffix, data):
    damaged = bytearray(encoded(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, min(len(damaged), 700) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(damaged)))]
    try:
        image = decode(bytes(damaged), cv2.IMREAD_COLOR, 0.01)
    except ValueError as error:
        assert "at most 0.01 megapixels" in str(error)
    else:
        assert image is None or image.shape[0] * image.shape[1] <= 10_000
