"""compressedDepth against an encoder that writes it as image_transport's does, number by number."""

import struct
import zlib
from array import array

import cv2
import numpy as np
import pytest
from fuzz import fuzz
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sensor_msgs.msg import CompressedImage

from ovs_ros.ros.compressed_depth import compressed_depth_to_metres
from ovs_ros.ros.conversions import ConversionError


def rvl(depth: np.ndarray) -> bytes:
    """The bytes of depth (H, W) uint16."""
    nibbles: list[int] = []

    def write(number: int) -> None:
        while True:
            low, number = number & 7, number >> 3
            nibbles.append(low | (8 if number else 0))
            if not number:
                return

    flat, at, previous = depth.ravel().tolist(), 0, 0
    while at < len(flat):
        run = next((i for i in range(at, len(flat)) if flat[i]), len(flat))
        write(run - at)
        end = next((i for i in range(run, len(flat)) if not flat[i]), len(flat))
        write(end - run)
        for value in flat[run:end]:
            delta = value - previous
            write(delta << 1 if delta >= 0 else (-delta << 1) - 1)
            previous = value
        at = end
    nibbles += [0] * (-len(nibbles) % 8)
    words = (int("".join(f"{n:x}" for n in nibbles[i : i + 8]), 16) for i in range(0, len(nibbles), 8))
    return struct.pack("<II", depth.shape[1], depth.shape[0]) + b"".join(struct.pack("<I", w) for w in words)


def png(depth: np.ndarray) -> bytes:
    return cv2.imencode(".png", depth)[1].tobytes()


CODECS = {"png": png, "rvl": rvl}


def message(data, form="16UC1; compressedDepth rvl", a=0.0, b=0.0):
    return CompressedImage(format=form, data=array("B", struct.pack("<iff", 0, a, b) + data))


DEPTH = arrays(
    np.uint16,
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    elements=st.one_of(st.just(0), st.integers(0, 65535), st.integers(1000, 1003)),
)


@given(DEPTH)
def test_rvl_gives_the_depth_again(depth):
    metres = compressed_depth_to_metres(message(rvl(depth)), depth.shape)
    assert metres.dtype == np.float32
    expected = np.where(depth == 0, np.nan, depth * np.float32(0.001))
    np.testing.assert_array_equal(metres, expected.astype(np.float32))


def test_rvl_of_an_image_with_many_runs():
    random = np.random.default_rng(1)
    depth = (random.integers(300, 6000, (48, 64)) * (random.random((48, 64)) < 0.5)).astype(np.uint16)
    metres = compressed_depth_to_metres(message(rvl(depth)), (48, 64))
    np.testing.assert_array_equal(np.nan_to_num(metres), depth * np.float32(0.001))


@pytest.mark.parametrize("form", ["16UC1; compressedDepth png", "16UC1; compressedDepth", "mono16", "16UC1"])
def test_png(form):
    depth = np.array([[0, 1, 1500], [65535, 2, 0]], np.uint16)
    metres = compressed_depth_to_metres(message(png(depth), form), (2, 3))
    np.testing.assert_allclose(metres, [[np.nan, 0.001, 1.5], [65.535, 0.002, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("codec", ["png", "rvl"])
def test_float_depth_comes_back_from_its_inverse(codec):
    metres = np.array([[0.5, 1.0, 2.0, 5.0, 9.5, np.nan]], np.float32)
    # As image_transport's defaults have it: quantisation 100, 10 m at most.
    a = 100.0 * 101.0
    b = 1.0 - a / 10.0
    quantised = np.nan_to_num(a / metres + b).astype(np.uint16)
    found = compressed_depth_to_metres(
        message(CODECS[codec](quantised), f"32FC1; compressedDepth {codec}", a, b), (1, 6)
    )
    np.testing.assert_allclose(found, metres, rtol=0.01)
    assert np.isnan(found[0, 5])


GOOD = np.full((2, 3), 1500, np.uint16)


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_header(width, height):
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("cloud", "text"),
    [
        (message(rvl(GOOD), "8UC1; compressedDepth rvl"), "16UC1, mono16, 32FC1 and png or rvl, got '8UC1"),
        (message(rvl(GOOD), "16UC1; compressedDepth h264"), "png or rvl, got '16UC1; compressedDepth h264'"),
        (message(rvl(GOOD), "rgb8; jpeg compressed bgr8"), "expected depth in a format like"),
        (CompressedImage(format="16UC1; compressedDepth rvl"), "a message of 0 bytes"),
        (message(b"\0\0\0\0"), "RVL, got no size"),
        (message(rvl(GOOD)[:8]), "expected 6 pixels of depth in RVL, got 0"),
        (message(rvl(GOOD)[:-4]), "expected 6 pixels of depth in RVL, got"),
        (message(rvl(GOOD)[:8] + b"\xff" * 40), "expected 6 pixels of depth in RVL, got"),
        (message(rvl(GOOD)[:8] + b"\xff" * 40 + b"\0" * 4), "a number that is too long"),
        (message(rvl(np.full((2, 4), 9, np.uint16))), "the image's 3x2 pixels, got 4x2"),
        (message(struct.pack("<II", 2**31, 2**31)), "got 2147483648x2147483648"),
        (message(png_header(30000, 30000), "16UC1; compressedDepth png"), "got 30000x30000"),
        (message(png(GOOD)[:60], "16UC1; compressedDepth png"), "cut or damaged|that OpenCV decodes"),
        (message(b"no picture at all", "16UC1; compressedDepth png"), "data that are no PNG"),
        (message(png(GOOD.astype(np.uint8)), "16UC1; compressedDepth png"), "16 bits and one channel, got 8"),
    ],
)
def test_what_cannot_be_decoded_says_why(cloud, text):
    with pytest.raises(ConversionError, match=text):
        compressed_depth_to_metres(cloud, (2, 3))


@pytest.mark.fault("arbitrary RVL (fuzzed)", "read, or refused with what was expected and what came")
@fuzz
@given(st.binary(max_size=200))
def test_no_data_whatever_raises_anything_else(data):
    try:
        metres = compressed_depth_to_metres(message(struct.pack("<II", 3, 2) + data), (2, 3))
    except ConversionError:
        return
    assert metres.shape == (2, 3)
