"""Conversions against arrays that cv_bridge's OpenCV calls give for the same bytes."""

from array import array

import cv2
import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped, Quaternion
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.ros.conversions import (
    ConversionError,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    intrinsics_from,
    pose_to_matrix,
)


def message(encoding, width, height, data, step=None, big=False):
    raw = bytes(data)
    return Image(
        encoding=encoding,
        width=width,
        height=height,
        step=len(raw) // height if step is None else step,
        is_bigendian=big,
        data=array("B", raw),
    )


RAMP = bytes(range(10, 34))  # 24 bytes


@pytest.mark.parametrize(
    ("encoding", "width", "expected"),
    [
        ("rgb8", 2, [[[10, 11, 12], [13, 14, 15]], [[16, 17, 18], [19, 20, 21]]]),
        ("bgr8", 2, [[[12, 11, 10], [15, 14, 13]], [[18, 17, 16], [21, 20, 19]]]),
        ("8UC3", 2, [[[12, 11, 10], [15, 14, 13]], [[18, 17, 16], [21, 20, 19]]]),
        ("rgba8", 1, [[[10, 11, 12]], [[14, 15, 16]]]),
        ("bgra8", 1, [[[12, 11, 10]], [[16, 15, 14]]]),
        ("8UC4", 1, [[[12, 11, 10]], [[16, 15, 14]]]),
        ("mono8", 2, [[[10, 10, 10], [11, 11, 11]], [[12, 12, 12], [13, 13, 13]]]),
        ("8UC1", 2, [[[10, 10, 10], [11, 11, 11]], [[12, 12, 12], [13, 13, 13]]]),
    ],
)
def test_plain_encodings(encoding, width, expected):
    channels = {"rgba8": 4, "bgra8": 4, "8UC4": 4, "mono8": 1, "8UC1": 1}.get(encoding, 3)
    rgb = image_to_rgb(message(encoding, width, 2, RAMP[: 2 * width * channels]))
    assert rgb.dtype == np.uint8
    assert rgb.tolist() == expected


MOSAIC = [[139, 74, 229, 241], [169, 65, 6, 160], [149, 106, 38, 175], [188, 205, 175, 229]]


@pytest.mark.parametrize(
    ("encoding", "upper_left", "lower_right"),
    [
        ("bayer_rggb8", [139, 89, 65], [38, 116, 165]),
        ("bayer_bggr8", [65, 89, 139], [165, 116, 38]),
        ("bayer_gbrg8", [88, 65, 90], [91, 38, 141]),
        ("bayer_grbg8", [90, 65, 88], [141, 38, 91]),
    ],
)
def test_bayer_mosaics(encoding, upper_left, lower_right):
    rgb = image_to_rgb(message(encoding, 4, 4, np.array(MOSAIC, np.uint8).tobytes()))
    # On so small an image each quarter repeats one inner pixel.
    assert rgb[:2, :2].tolist() == [[upper_left] * 2] * 2
    assert rgb[2:, 2:].tolist() == [[lower_right] * 2] * 2


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_a_mosaic_of_one_colour_gives_that_colour(encoding):
    color = {"r": 200, "g": 100, "b": 50}
    a, b, c, d = (color[letter] for letter in encoding[6:10])
    mosaic = np.tile(np.array([[a, b], [c, d]], np.uint8), (4, 4))
    rgb = image_to_rgb(message(encoding, 8, 8, mosaic.tobytes()))
    assert (rgb == [200, 100, 50]).all()


YUV = [98, 249, 10, 148, 95, 86, 147, 198, 66, 39, 106, 213, 171, 45, 167, 57]
UYVY_RGB = [
    [[83, 255, 211], [0, 255, 93], [112, 79, 15], [242, 209, 145]],
    [[0, 69, 0], [194, 255, 104], [96, 0, 121], [110, 0, 134]],
]
YUYV_RGB = [
    [[127, 32, 255], [32, 0, 244], [204, 51, 7], [255, 112, 68]],
    [[194, 24, 0], [240, 70, 0], [67, 255, 13], [62, 255, 8]],
]


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [("yuv422", UYVY_RGB), ("uyvy", UYVY_RGB), ("yuv422_yuy2", YUYV_RGB), ("yuyv", YUYV_RGB)],
)
def test_yuv422(encoding, expected):
    assert image_to_rgb(message(encoding, 4, 2, YUV)).tolist() == expected


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("encoding", ["mono16", "16UC1"])
def test_sixteen_bit_grey_is_scaled_to_eight(encoding, big):
    values = np.arange(65536).reshape(256, 256)
    rgb = image_to_rgb(message(encoding, 256, 256, values.astype(">u2" if big else "<u2").tobytes(), big=big))
    assert (rgb == np.rint(values / 257).astype(np.uint8)[:, :, None]).all()


def test_rgb8_is_not_copied():
    image = message("rgb8", 4, 2, RAMP)
    rgb = image_to_rgb(image)
    image.data[0] = 77
    assert rgb[0, 0, 0] == 77


@given(
    encoding=st.sampled_from(["rgb8", "bgr8", "rgba8", "mono8", "mono16", "bayer_rggb8", "yuv422"]),
    padding=st.integers(0, 9),
    big=st.booleans(),
    seed=st.integers(0, 99),
)
def test_row_padding_changes_nothing(encoding, padding, big, seed):
    size = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "mono8": 1, "mono16": 2, "bayer_rggb8": 1, "yuv422": 2}[
        encoding
    ]
    rows = np.random.default_rng(seed).integers(0, 256, (6, 8 * size + padding), dtype=np.uint8)
    padded = image_to_rgb(message(encoding, 8, 6, rows.tobytes(), big=big))
    plain = image_to_rgb(message(encoding, 8, 6, rows[:, : 8 * size].tobytes(), big=big))
    assert np.array_equal(padded, plain)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (message("rgb8", 2, 2, bytes(12), step=5), "step of at least 6 bytes"),
        (message("rgb8", 2, 2, bytes(11), step=6), "expected 12 bytes of data.*got 11"),
        (Image(encoding="rgb8", width=2, height=2, step=6), "without data"),
        (Image(encoding="rgb8"), "expected an image with pixels"),
        (message("jpeg2000", 2, 2, bytes(12)), "one of rgb8.*got 'jpeg2000'"),
        (message("", 2, 2, bytes(12)), "got ''"),
        (message("yuv422", 3, 1, bytes(6)), "even width"),
        (
            Image(encoding="rgb8", width=2**31, height=2, step=6, data=array("B", bytes(12))),
            "step of at least",
        ),
    ],
)
def test_images_that_cannot_be_read_say_why(image, text):
    with pytest.raises(ConversionError, match=text):
        image_to_rgb(image)


def test_a_png_comes_out_as_it_went_in():
    rgb = np.random.default_rng(1).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = cv2.imencode(".png", rgb[:, :, ::-1])[1].tobytes()
    assert np.array_equal(compressed_to_rgb(CompressedImage(format="png", data=array("B", data))), rgb)


def test_a_grey_jpeg_becomes_rgb():
    data = cv2.imencode(".jpg", np.full((8, 8), 99, np.uint8))[1].tobytes()
    rgb = compressed_to_rgb(CompressedImage(format="jpeg", data=array("B", data)))
    assert rgb.shape == (8, 8, 3)
    assert (rgb == 99).all()


@pytest.mark.parametrize(
    ("data", "text"), [(b"", "without data"), (b"no picture", "10 bytes of format 'jpeg'")]
)
def test_compressed_garbage_says_why(data, text):
    with pytest.raises(ConversionError, match=text):
        compressed_to_rgb(CompressedImage(format="jpeg", data=array("B", data)))


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_millimetres(big):
    raw = np.array([[0, 1, 1500], [65535, 2, 0]], ">u2" if big else "<u2")
    depth = depth_to_metres(message("16UC1", 3, 2, raw.tobytes(), big=big))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[np.nan, 0.001, 1.5], [65.535, 0.002, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
def test_depth_in_metres(big):
    raw = np.array([[np.nan, np.inf, -np.inf], [1.25, 0.5, 80]], ">f4" if big else "<f4")
    depth = depth_to_metres(message("32FC1", 3, 2, raw.tobytes(), big=big))
    np.testing.assert_array_equal(depth, np.array([[np.nan] * 3, [1.25, 0.5, 80]], np.float32))


@pytest.mark.parametrize("padding", [2, 3, 4])
def test_depth_with_row_padding(padding):
    rows = np.hstack([np.array([[1, 2], [3, 4]], "<f4").view(np.uint8), np.zeros((2, padding), np.uint8)])
    assert depth_to_metres(message("32FC1", 2, 2, rows.tobytes())).tolist() == [[1, 2], [3, 4]]


def test_depth_of_another_encoding_is_refused():
    with pytest.raises(ConversionError, match="16UC1.*32FC1.*got 'rgb8'"):
        depth_to_metres(message("rgb8", 1, 1, bytes(3)))


def info(k=(0.0,) * 9, p=(0.0,) * 12):
    return CameraInfo(width=640, height=480, k=list(k), p=list(p))


K = (500.0, 0, 320, 0, 510, 240, 0, 0, 1)


def test_the_rectified_camera_is_that_of_p():
    camera = intrinsics_from(info(K, (400.0, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0)))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (400, 410, 300, 200)


def test_k_counts_where_p_is_empty():
    camera = intrinsics_from(info(K))
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (500, 510, 320, 240)
    assert (camera.width, camera.height) == (640, 480)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (info(), "focal lengths above 0"),
        (info((float("nan"), *K[1:])), "finite"),
        (info(K, (float("nan"),) * 12), "finite"),
    ],
)
def test_calibrations_of_no_use_say_why(message, text):
    with pytest.raises(ConversionError, match=text):
        intrinsics_from(message)


def test_a_pose_turns_and_moves():
    half = np.sqrt(0.5)
    message = PoseStamped()
    message.pose.position.x, message.pose.position.y, message.pose.position.z = 1.0, 2.0, 3.0
    message.pose.orientation.z, message.pose.orientation.w = half, half  # A quarter turn about z.
    matrix = pose_to_matrix(message)
    np.testing.assert_allclose(matrix @ [1, 0, 0, 1], [1, 3, 3, 1], atol=1e-12)
    np.testing.assert_allclose(matrix @ [0, 0, 1, 1], [1, 2, 4, 1], atol=1e-12)
    turn = np.array([0.3, -0.5, 0.2])
    angle = np.linalg.norm(turn)
    x, y, z = np.sin(angle / 2) * turn / angle
    message.pose.orientation = Quaternion(x=x, y=y, z=z, w=np.cos(angle / 2))
    np.testing.assert_allclose(pose_to_matrix(message)[:3, :3], cv2.Rodrigues(turn)[0], atol=1e-12)


@pytest.mark.parametrize(("field", "value"), [("x", float("nan")), ("w", 0.0), ("w", 2.0)])
def test_a_pose_of_no_use(field, value):
    message = PoseStamped()
    message.pose.orientation.w = 1.0
    setattr(message.pose.position if field == "x" else message.pose.orientation, field, value)
    with pytest.raises(ConversionError, match="expected a pose with a finite position and a unit quaternion"):
        pose_to_matrix(message)
