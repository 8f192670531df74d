"""One node over DDS: what comes out for what goes in."""

import struct
import threading
from array import array

import cv2
import numpy as np
import pytest
from fakes import COLORS, color_image
from rig import (
    ALWAYS,
    DEADLINE_S,
    FRAME,
    PICTURE,
    depth_message,
    header,
    info_message,
    pixels,
    rgb_message,
    running,
    stamp_ms,
)
from sensor_msgs.msg import CompressedImage, PointField

from ovs_ros.render import display_colors
from ovs_ros.vocabulary.yaml_io import load_vocabulary

IDS = {"red": 0, "green": 1, "blue": 2, "black": 255, "gray": 255}
LABELS = np.array([[IDS[name] for name in row] for row in PICTURE]).repeat(32, 0).repeat(32, 1)
DEPTH = np.linspace(0.5, 3.0, 96 * 32, dtype=np.float32).reshape(32, 96)


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def test_labels_confidence_and_categories_of_one_image(robot):
    labels = robot.segment(1500)
    assert (pixels(labels) == LABELS).all()
    assert (labels.encoding, labels.step, labels.header.frame_id) == ("mono8", 96, FRAME)
    confidence = robot.of_stamp("semantic/confidence", 1500)
    assert confidence.encoding == "mono8"
    assert (pixels(confidence)[8:24, 8:24] > 200).all()
    categories = robot.of_stamp("semantic/categories", 1500)
    assert dict(zip(categories.names, categories.ids, strict=True)) == {"red": 0, "green": 1, "blue": 2}
    assert list(categories.shares) == pytest.approx([1 / 3] * 3)
    assert sum(categories.shares) + categories.unknown_share == pytest.approx(1)
    assert (categories.version, categories.unknown_id) == (1, 255)
    assert categories.stages[0] == "convert" and categories.stages[-1] == "publish"
    assert "encode" in categories.stages and all(ms >= 0 for ms in categories.stages_ms)
    assert len(categories.stages) == len(categories.stages_ms)


def test_what_a_negative_word_wins_is_unknown(robot):
    labels = robot.segment(1, [["red", "black", "blue"]])
    assert (pixels(labels)[:, 40:56] == 255).all()
    assert (pixels(labels)[:, :24] == 0).all()
    assert robot.of_stamp("semantic/categories", 1).unknown_share == pytest.approx(1 / 3, abs=0.02)


def test_label_info_comes_before_the_first_mask_and_not_again(robot):
    robot.until(lambda: robot.got["semantic/label_info"], "the label_info before any image")
    robot.segment(1)
    robot.segment(2)
    assert robot.order[0][0] == "semantic/label_info"
    (info,) = robot.got["semantic/label_info"]
    assert [(entry.class_id, entry.class_name) for entry in info.class_map] == [
        (0, "red"),
        (1, "green"),
        (2, "blue"),
    ]


def test_who_comes_late_still_gets_the_label_info(robot):
    robot.segment(1)
    robot.got.clear()
    robot.listen("semantic/label_info")
    robot.until(lambda: robot.got["semantic/label_info"], "the latched label_info")


def test_more_than_254_categories_make_16_bit_labels(tmp_path):
    path = tmp_path / "many.yaml"
    path.write_text("\n".join(f"- word {i}" for i in range(300)) + "\n- red\n")
    with running(str(path)) as robot:
        labels = robot.segment(1, [["red", "gray"]])
        assert (labels.encoding, labels.step) == ("16UC1", 128)
        assert (pixels(labels)[:, :24] == 300).all()


def test_pictures_only_while_somebody_looks(robot, vocabulary):
    robot.segment(1)
    robot.of_stamp("semantic/categories", 1)  # Comes after the pictures.
    robot.listen("semantic/color", "semantic/overlay")
    robot.connected()
    robot.segment(2)
    color = robot.of_stamp("semantic/color", 2)
    overlay = robot.of_stamp("semantic/overlay", 2)
    assert [stamp_ms(m) for m in robot.got["semantic/color"]] == [2]
    assert color.encoding == overlay.encoding == "rgb8"
    red = load_vocabulary(vocabulary).categories[0].color
    assert tuple(pixels(color)[0, 0]) == red
    mixed = (np.array(red) + COLORS["red"]) / 2
    assert np.abs(pixels(overlay)[0, 0] - mixed).max() <= 1


def test_compressed_images(vocabulary):
    with running(vocabulary, image_transport="compressed") as robot:
        message = CompressedImage(header=rgb_message(7, color_image(PICTURE)).header, format="png")
        message.data.frombytes(cv2.imencode(".png", color_image(PICTURE)[:, :, ::-1])[1].tobytes())
        robot.send("image/compressed", message)
        assert (pixels(robot.labels(7)) == LABELS).all()
        message.data = message.data[:40]
        robot.send("image/compressed", message)
        message = CompressedImage(header=rgb_message(8, color_image(PICTURE)).header, format="jpeg")
        message.data.frombytes(cv2.imencode(".jpg", color_image(PICTURE)[:, :, ::-1])[1].tobytes())
        robot.send("image/compressed", message)
        robot.labels(8)


@pytest.mark.parametrize("encoding", ["32FC1", "16UC1"])
@pytest.mark.parametrize("order", ["depth first", "image first"])
def test_points(robot, encoding, order):
    robot.listen("semantic/points")
    robot.connected()
    metres = DEPTH.copy()
    metres[10, 20] = 0 if encoding == "16UC1" else np.nan
    robot.send("camera_info", info_message(1))
    robot.until(lambda: robot.camera.camera_info, "the calibration")
    inputs = [lambda: robot.send("depth", depth_message(50, metres, encoding)), lambda: robot.image(50)]
    for send in inputs if order == "depth first" else inputs[::-1]:
        send()
    cloud = robot.of_stamp("semantic/points", 50)
    assert (cloud.height, cloud.width, cloud.is_dense, cloud.point_step) == (32, 96, False, 24)
    assert cloud.row_step == 96 * 24 and len(cloud.data) == 32 * 96 * 24
    assert cloud.header.frame_id == FRAME
    assert [(f.name, f.offset, f.datatype) for f in cloud.fields] == [
        ("x", 0, PointField.FLOAT32),
        ("y", 4, PointField.FLOAT32),
        ("z", 8, PointField.FLOAT32),
        ("rgb", 12, PointField.FLOAT32),
        ("label", 16, PointField.UINT32),
        ("confidence", 20, PointField.UINT8),
    ]
    raw = np.frombuffer(cloud.data, np.uint8).reshape(32, 96, 24)
    xyz = np.ascontiguousarray(raw[:, :, :12]).view("<f4")
    assert np.isnan(xyz[10, 20]).all()
    z = metres[30, 70]
    np.testing.assert_allclose(xyz[30, 70], [(70 - 48) * z / 100, (30 - 16) * z / 100, z], atol=2e-3)
    assert raw[5, 5, 12:16].tolist() == [0, 0, 255, 0]  # red: 0x00ff0000, little endian
    assert (raw[:, :, 16] == LABELS).all() and (raw[:, :, 17:20] == 0).all()
    assert (raw[:, :, 20] == pixels(robot.of_stamp("semantic/confidence", 50))).all()


def test_points_in_the_colours_of_the_overlay(vocabulary):
    with running(vocabulary, points_color="label") as robot:
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.send("depth", depth_message(50, DEPTH))
        robot.image(50, [["red", "black", "blue"]])
        cloud = robot.of_stamp("semantic/points", 50)
    points = np.frombuffer(cloud.data, np.uint8).reshape(32, 96, 24)
    colors = display_colors(["red", "green", "blue"], [])
    assert tuple(points[5, 5, 14:11:-1].tolist()) == colors["red"] != (255, 0, 0)
    assert tuple(points[5, 90, 14:11:-1].tolist()) == colors["blue"]
    assert points[5, 48, 12:16].tolist() == [0, 0, 0, 0]


def test_points_from_compressed_depth(vocabulary):
    with running(vocabulary, depth_transport="compressedDepth") as robot:
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        png = cv2.imencode(".png", (DEPTH * 1000).astype(np.uint16))[1].tobytes()
        data = array("B", struct.pack("<iff", 0, 0.0, 0.0) + png)
        depth = CompressedImage(header=header(50), format="16UC1; compressedDepth png", data=data)
        robot.send("depth/compressedDepth", depth)
        robot.image(50)
        cloud = robot.of_stamp("semantic/points", 50)
        raw = np.frombuffer(cloud.data, np.uint8).reshape(32, 96, 24)
        z = np.ascontiguousarray(raw[:, :, 8:12]).view("<f4")[..., 0]
        np.testing.assert_allclose(z, DEPTH, atol=2e-3)
        depth.header, depth.data = header(100), array("B", data.tobytes()[:60])
        robot.send("depth/compressedDepth", depth)
        robot.segment(100)
        (text,) = robot.until(lambda: robot.warnings, "a warning")
        assert "No points for a frame: expected depth as a PNG" in text


def test_labels_do_not_wait_for_depth(robot):
    robot.listen("semantic/points")
    robot.connected()
    for ms in range(0, 300, 100):
        robot.segment(ms)
    assert not robot.got["semantic/points"]


def test_points_may_be_asked_for_by_parameter(vocabulary):
    with running(vocabulary, points="never") as robot:
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        robot.send("depth", depth_message(50, DEPTH))
        robot.segment(50)
        robot.segment(60)  # The worker is past the first frame's points.
        assert not robot.got["semantic/points"]


def test_frames_differ_and_buffers_are_not_mixed_up(robot):
    pictures = {10: [["red", "green"]], 20: [["blue", "red"]], 30: [["green", "green"]]}
    for ms, picture in pictures.items():
        robot.segment(ms, picture)
    for ms, picture in pictures.items():
        left, right = (IDS[name] for name in picture[0])
        assert pixels(robot.labels(ms))[5, 5] == left
        assert pixels(robot.labels(ms))[5, 60] == right


def test_all_outputs_carry_the_stamp_and_frame_of_their_image(robot):
    robot.segment(123456)
    for topic in ALWAYS[1:]:
        message = robot.of_stamp(topic, 123456)
        assert message.header.frame_id == FRAME


def test_a_slow_model_publishes_as_many_clouds_as_label_images(vocabulary):
    """20 frames come while one is segmented, and their depth with them."""
    turns = threading.Semaphore(0)
    with running(vocabulary, on_backbone=lambda: turns.acquire(timeout=DEADLINE_S)) as robot:
        robot.listen("semantic/points")
        robot.connected()
        robot.send("camera_info", info_message(1))
        robot.until(lambda: robot.camera.camera_info, "the calibration")
        ms = 1000
        for done in range(1, 6):
            for _ in range(20):
                ms += 33
                sent = robot.camera.statistics.images
                robot.send("depth", depth_message(ms, DEPTH))
                robot.image(ms)
                robot.until(lambda sent=sent: robot.camera.statistics.images > sent, "the arrival")
            turns.release()
            robot.until(lambda done=done: len(robot.got["semantic/image_raw"]) == done, "the labels")
        turns.release()
        robot.labels(ms)
        robot.until(
            lambda: len(robot.got["semantic/points"]) == len(robot.got["semantic/image_raw"]), "the clouds"
        )
        stamps = [[stamp_ms(m) for m in robot.got[f"semantic/{name}"]] for name in ("image_raw", "points")]
        assert stamps[0] == stamps[1]


def test_images_that_come_while_nobody_looks_are_counted(robot):
    """The middleware keeps one image, and the executor is busy with something else."""
    robot.segment(1)
    go_on = threading.Event()
    busy = robot.node.executor.create_task(lambda: go_on.wait(DEADLINE_S))
    for ms in range(2, 7):
        robot.image(ms)
    go_on.set()
    robot.until(busy.done, "the executor")
    robot.labels(6)
    robot.segment(7)  # What was lost is known with the next image.
    robot.until(lambda: robot.camera.statistics.images == 7, "the count")
    assert robot.camera.statistics.summary().dropped == {"replaced by a newer one": 4}
