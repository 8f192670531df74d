"""Conversions against arrays that cv_bridge's OpenCV calls give for the same bytes."""

import io
from array import array

import cv2
import numpy as np
import PIL.Image
import pytest
from fuzz import fuzz
from geometry_msgs.msg import PoseStamped, Quaternion
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from ovs_ros.geometry.points import Intrinsics
from ovs_ros.ros.conversions import (
    DEPTH_ENCODINGS,
    IMAGE_ENCODINGS,
    BitDepth,
    ConversionError,
    camera_model_from,
    compressed_to_rgb,
    depth_to_metres,
    image_to_rgb,
    intrinsics_from,
    pose_to_matrix,
    rectified_info,
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
def test_sixteen_bit_grey_is_scaled_to_eight(big):
    values = np.arange(65536).reshape(256, 256)
    rgb = image_to_rgb(message("mono16", 256, 256, values.astype(">u2" if big else "<u2").tobytes(), big=big))
    assert (rgb == np.rint(values / 257).astype(np.uint8)[:, :, None]).all()


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("encoding", "channels"),
    [
        ("rgb16", "rgb"),
        ("bgr16", "bgr"),
        ("16UC3", "bgr"),
        ("rgba16", "rgba"),
        ("bgra16", "bgra"),
        ("16UC4", "bgra"),
    ],
)
def test_sixteen_bit_colour(encoding, channels, big):
    color = {"r": 200 * 257, "g": 100 * 257, "b": 50 * 257, "a": 65535}
    pixels = np.tile([color[channel] for channel in channels], (4, 6, 1)).astype(">u2" if big else "<u2")
    rgb = image_to_rgb(message(encoding, 6, 4, pixels.tobytes(), big=big))
    assert (rgb == [200, 100, 50]).all() and rgb.shape == (4, 6, 3)


@pytest.mark.parametrize("encoding", ["bayer_rggb16", "bayer_bggr16", "bayer_gbrg16", "bayer_grbg16"])
def test_a_sixteen_bit_mosaic_is_read_as_one_of_eight_bits(encoding):
    mosaic = np.array(MOSAIC, "<u2")
    rgb = image_to_rgb(message(encoding, 4, 4, (mosaic * 257).tobytes()))
    assert np.array_equal(
        rgb, image_to_rgb(message(f"{encoding[:-2]}8", 4, 4, mosaic.astype("u1").tobytes()))
    )


def grey16(values):
    values = np.array(values, "<u2")
    return message("mono16", values.shape[1], values.shape[0], values.tobytes())


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
def test_a_sensor_that_leaves_the_upper_bits_empty_is_read_as_bright(bits):
    most = 2**bits - 1
    assert image_to_rgb(grey16([[0, most // 2, most]]))[0, :, 0].tolist() == pytest.approx(
        [0, 127, 255], abs=1
    )


@given(st.lists(st.integers(0, 65535), min_size=1, max_size=9))
def test_the_scale_of_a_camera_never_falls(values):
    depth, before = BitDepth(), 255.0
    for value in values:
        image_to_rgb(grey16([[value, 0]]), depth)
        scale = 255 / (2**depth.bits - 1)
        assert scale <= 255 / 255 and scale <= before and max(value, 1) * scale <= 255
        before = scale


def test_black_frames_between_bright_ones_stay_black():
    depth = BitDepth()
    image_to_rgb(grey16([[4000]]), depth)
    assert image_to_rgb(grey16([[255]]), depth).max() == 16


TWO_HALVES = np.zeros((16, 32, 3), np.uint8)
TWO_HALVES[:, :16], TWO_HALVES[:, 16:] = (200, 40, 40), (40, 60, 200)


def two_planes(encoding, step=32):
    """TWO_HALVES in planes of Y and of U with V, rows padded up to `step` bytes."""
    i420 = cv2.cvtColor(TWO_HALVES, cv2.COLOR_RGB2YUV_I420)
    y, u, v = i420[:16], i420[16:20].reshape(8, 16), i420[20:].reshape(8, 16)
    if encoding == "nv24":
        u, v = (plane.repeat(2, 0).repeat(2, 1) for plane in (u, v))
    both = np.dstack((v, u) if encoding == "nv21" else (u, v)).reshape(len(u), -1)
    widths = (step, 2 * step if encoding == "nv24" else step)
    planes = [np.pad(p, ((0, 0), (0, w - p.shape[1]))) for p, w in zip((y, both), widths, strict=True)]
    return b"".join(plane.tobytes() for plane in planes)


@pytest.mark.parametrize("step", [32, 40])
@pytest.mark.parametrize("encoding", ["nv12", "nv21", "nv24"])
def test_two_planes(encoding, step):
    rgb = image_to_rgb(message(encoding, 32, 16, two_planes(encoding, step), step=step))
    assert rgb.shape == TWO_HALVES.shape and rgb.dtype == np.uint8
    assert np.abs(rgb.astype(int) - TWO_HALVES)[:, [4, 27]].max() <= 4


@pytest.mark.parametrize(("encoding", "step"), [("nv12", 48), ("nv21", 48), ("nv24", 96)])
def test_a_step_that_counts_both_planes(encoding, step):
    data = two_planes(encoding)
    expected = image_to_rgb(message(encoding, 32, 16, data, step=32))
    assert np.array_equal(image_to_rgb(message(encoding, 32, 16, data, step=step)), expected)


@pytest.mark.parametrize(
    ("image", "text"),
    [
        (message("nv12", 4, 3, bytes(18), step=4), "even size.*got 4x3"),
        (message("nv21", 4, 4, bytes(20), step=4), "expected 24 bytes of data.*got 20"),
        (message("nv24", 4, 4, bytes(48), step=3), "step of at least 4 bytes"),
    ],
)
def test_two_planes_of_a_wrong_size_say_why(image, text):
    with pytest.raises(ConversionError, match=text):
        image_to_rgb(image)


@pytest.mark.parametrize("encoding", ["16UC1", "16SC1", "32FC1", "64FC1"])
def test_depth_as_the_image_is_refused_with_advice(encoding):
    text = f"expected a picture, got '{encoding}'.*remap 'image'.*'depth' to this topic"
    with pytest.raises(ConversionError, match=text):
        image_to_rgb(message(encoding, 2, 2, bytes(32)))
    with pytest.raises(ConversionError, match=text):
        compressed_to_rgb(CompressedImage(format=f"{encoding}; compressedDepth png", data=array("B", b"12")))


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


def test_a_compressed_image_that_claims_too_many_pixels_is_not_decoded():
    data = cv2.imencode(".png", np.zeros((100, 200), np.uint8))[1].tobytes()
    image = CompressedImage(format="png", data=array("B", data))
    assert compressed_to_rgb(image, max_megapixels=0.02).shape == (100, 200, 3)
    with pytest.raises(ConversionError, match=r"at most 0\.01 megapixels, got one that claims 200 x 100"):
        compressed_to_rgb(image, max_megapixels=0.01)


def test_a_compressed_image_is_not_turned_as_its_exif_says():
    """camera_info and depth belong to the sensor's pixels."""
    buffer = io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    PIL.Image.fromarray(np.zeros((40, 100, 3), np.uint8)).save(buffer, "jpeg", exif=exif.tobytes())
    assert compressed_to_rgb(CompressedImage(data=array("B", buffer.getvalue()))).shape == (40, 100, 3)


def test_a_dark_png_of_sixteen_bits_is_read_as_bright():
    data = cv2.imencode(".png", np.array([[0, 1023]], np.uint16))[1].tobytes()
    rgb = compressed_to_rgb(CompressedImage(format="mono16; png compressed ", data=array("B", data)))
    assert rgb.tolist() == [[[0] * 3, [255] * 3]]


def compressed(extension, pixels, format):
    data = cv2.imencode(extension, pixels)[1].tobytes()
    return compressed_to_rgb(CompressedImage(format=format, data=array("B", data)))


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_a_compressed_mosaic_is_read_as_the_plain_one(encoding):
    mosaic = np.array(MOSAIC, np.uint8)
    plain = image_to_rgb(message(encoding, 4, 4, mosaic.tobytes()))
    assert np.array_equal(compressed(".png", mosaic, f"{encoding}; png compressed "), plain)
    wide = mosaic.astype(np.uint16) * 257
    assert np.array_equal(compressed(".png", wide, f"{encoding[:-1]}16; png compressed "), plain)


def test_a_mosaic_that_was_compressed_in_colour_is_read_as_it_is():
    colours = np.random.default_rng(1).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    rgb = compressed(".png", colours[:, :, ::-1], "bayer_rggb8; jpeg compressed bgr8")
    assert np.array_equal(rgb, colours)


def test_a_compressed_mosaic_of_an_unknown_kind_is_refused():
    with pytest.raises(ConversionError, match="got 'bayer_rggb12'.*compressed colour images"):
        compressed(".png", np.array(MOSAIC, np.uint8), "bayer_rggb12; png compressed ")


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    ("encoding", "kind", "highest"), [("16UC1", "u2", 65535), ("mono16", "u2", 65535), ("16SC1", "i2", 32767)]
)
def test_depth_in_millimetres(encoding, kind, highest, big):
    raw = np.array([[0, 1, 1500], [highest, 2, 0 if kind == "u2" else -1]], f"{'>' if big else '<'}{kind}")
    depth = depth_to_metres(message(encoding, 3, 2, raw.tobytes(), big=big))
    assert depth.dtype == np.float32
    np.testing.assert_allclose(depth, [[np.nan, 0.001, 1.5], [highest / 1000, 0.002, np.nan]], rtol=1e-6)


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(("encoding", "kind"), [("32FC1", "f4"), ("64FC1", "f8")])
def test_depth_in_metres(encoding, kind, big):
    values = [[np.nan, np.inf, -np.inf], [0, -1, -0.0], [1.25, 0.5, 80]]
    raw = np.array(values, f"{'>' if big else '<'}{kind}")
    depth = depth_to_metres(message(encoding, 3, 3, raw.tobytes(), big=big))
    assert depth.dtype == np.float32
    expected = np.array([[np.nan] * 3, [np.nan] * 3, [1.25, 0.5, 80]], np.float32)
    np.testing.assert_array_equal(depth, expected)


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


@pytest.mark.parametrize("p", [(0.0,) * 12, (500.0, 0, 320, 0, 0, 510, 240, 0, 0, 0, 1, 0)])
def test_a_region_of_interest_and_binning_change_the_camera(p):
    message = info(K, p)
    message.binning_x, message.binning_y = 2, 4
    camera = intrinsics_from(message)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (250, 127.5, 160, 60)
    assert (camera.width, camera.height) == (320, 120)
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 20, 40, 400, 200
    camera = intrinsics_from(message)
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (250, 127.5, 150, 50)
    assert (camera.width, camera.height) == (200, 50)


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


def test_the_camera_as_it_takes_its_images_is_that_of_k():
    message = info(K, (400.0, 0, 300, 0, 0, 410, 200, 0, 0, 0, 1, 0))
    message.distortion_model, message.d = "plumb_bob", [-0.3, 0.1, 0.001, 0.002, 0.01]
    message.r = [0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    message.binning_x, message.binning_y = 2, 2
    message.roi.x_offset, message.roi.y_offset, message.roi.width, message.roi.height = 20, 40, 400, 200
    camera = camera_model_from(message)
    assert camera.intrinsics == Intrinsics(250, 255, 150, 100, 200, 100)
    assert camera.distortion == (-0.3, 0.1, 0.001, 0.002, 0.01)
    assert camera.rotation == tuple(message.r)
    # A pixel of the full image lies in the reduced part of it accordingly.
    point = np.array([[0.3, 0.2, 1]], np.float32)
    x, y = camera.project(point)[0]
    message.binning_x = message.binning_y = message.roi.x_offset = message.roi.y_offset = 0
    assert camera_model_from(message).project(point)[0] == pytest.approx((x * 2 + 20, y * 2 + 40), abs=1e-3)


def test_the_calibration_of_rectified_images():
    p = (400.0, 0, 300, -20, 0, 410, 200, 0, 0, 0, 1, 0)
    message = info(K, p)
    message.distortion_model, message.d = "equidistant", [0.1] * 4
    message.binning_x = 2
    rectified = rectified_info(message)
    assert list(rectified.d) == [0.0] * 5 and not camera_model_from(rectified).distorts
    assert list(rectified.p) == list(p) and list(rectified.k) == [400, 0, 300, 0, 410, 200, 0, 0, 1]
    assert intrinsics_from(rectified) == intrinsics_from(message)
    assert list(message.d) == [0.1] * 4
    assert list(rectified_info(info(K)).p) == [500, 0, 320, 0, 0, 510, 240, 0, 0, 0, 1, 0]


@pytest.mark.parametrize("model", ["", "none", "plumb_bob"])
def test_a_camera_without_distortion(model):
    message = info(K)
    message.distortion_model = model
    assert not camera_model_from(message).distorts


def test_a_fisheye_lens_distorts_without_coefficients_too():
    message = info(K)
    message.distortion_model, message.d = "equidistant", [0.0] * 4
    assert camera_model_from(message).distorts


SIDES = st.integers(0, 8) | st.sampled_from([2**16, 2**32 - 1])


@fuzz
@given(
    st.sampled_from([*IMAGE_ENCODINGS, *DEPTH_ENCODINGS]) | st.text(max_size=20),
    SIDES,
    SIDES,
    st.integers(0, 64) | SIDES,
    st.booleans(),
    st.none() | st.binary(max_size=200),
)
def test_any_image_is_read_or_refused(encoding, width, height, step, big, data):
    if data is None:  # As long as it should be.
        data = bytes(min(step * height, 1000))
    image = message(encoding, width, height, data, step, big)
    for convert, shape in ((image_to_rgb, (height, width, 3)), (depth_to_metres, (height, width))):
        try:
            assert convert(image).shape == shape
        except ConversionError as error:
            assert len(str(error)) < 1000


@fuzz
@given(st.text(max_size=30), st.binary(max_size=200))
def test_any_compressed_image_is_read_or_refused(kind, data):
    try:
        assert compressed_to_rgb(CompressedImage(format=kind, data=array("B", data))).shape[2] == 3
    except ConversionError as error:
        assert len(str(error)) < 1000


ANY = st.one_of(st.floats(), st.floats(-10, 1000))


@pytest.mark.fault("arbitrary calibrations (fuzzed)", "read, or refused with what was expected and what came")
@fuzz
@given(
    st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", "", "fov"]),
    st.lists(ANY, max_size=14),
    st.tuples(*[ANY] * 9),
    st.tuples(*[ANY] * 9),
)
def test_any_calibration_is_a_camera_or_refused(model, d, k, r):
    message = info(k)
    message.distortion_model, message.d, message.r = model, d, r
    try:
        camera = camera_model_from(message)
    except ConversionError:
        return
    points = np.array([[0, 0, 1], [0.1, -3, 2], [1, 1, -1], [np.nan, 0, 1]], np.float32)
    assert camera.project(points).shape == (4, 2)


def test_a_distortion_model_that_is_not_known_says_so():
    message = info(K)
    message.distortion_model, message.d = "thin_prism", [0.1]
    with pytest.raises(ConversionError, match="distortion model to be one of plumb_bob.*got 'thin_prism'"):
        camera_model_from(message)


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
