"""The node labels the clouds of a lidar over DDS."""

import sys
from array import array
from itertools import count

import numpy as np
import pytest
from rig import FRAME, header, info_message, pixels, running, stamp_ms
from sensor_msgs.msg import PointCloud2, PointField
from tf_messages import TfSender, matrix, transform

# The lidar looks along x, with y to the left and z up, 0.5 m above the camera.
MOUNT = ((0.0, -0.5, 0.0), (1.2091996, -1.2091996, 1.2091996))
CAMERA_INFO = info_message(0)  # 96x32 pixels, a focal length of 100


def cloud_message(ms, points, intensity=None, frame="lidar"):
    """Points (H, W, 3) of a lidar."""
    height, width, _ = points.shape
    names = ["x", "y", "z"] + (["intensity"] if intensity is not None else [])
    values = np.zeros((height, width), [(name, "<f4") for name in names])
    for axis, name in enumerate("xyz"):
        values[name] = points[..., axis]
    if intensity is not None:
        values["intensity"] = intensity
    fields = [
        PointField(name=name, offset=4 * i, datatype=PointField.FLOAT32, count=1)
        for i, name in enumerate(names)
    ]
    return PointCloud2(
        header=header(ms, frame),
        height=height,
        width=width,
        fields=fields,
        point_step=4 * len(names),
        row_step=4 * len(names) * width,
        data=array("B", values.tobytes()),
    )


def from_camera(points, mount=MOUNT):
    """Points (..., 3) of the camera's optical frame in the lidar's."""
    motion = np.linalg.inv(matrix(*mount))
    return points @ motion[:3, :3].T + motion[:3, 3]


def at_pixels(*places):
    """Points (1, N, 3) in the camera's frame: columns, rows and depths."""
    columns, rows, depths = np.array(places, float).T
    return np.stack(((columns - 48) * depths / 100, (rows - 16) * depths / 100, depths), axis=-1)[None]


def read(message):
    kinds = {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4", PointField.UINT8: "u1"}
    layout = np.dtype(
        {
            "names": [f.name for f in message.fields],
            "formats": [kinds[f.datatype] for f in message.fields],
            "offsets": [f.offset for f in message.fields],
            "itemsize": message.point_step,
        }
    )
    return np.frombuffer(message.data, layout).reshape(message.height, message.width)


@pytest.fixture
def robot(vocabulary):
    with running(vocabulary) as robot:
        yield robot


def ready(robot, info=CAMERA_INFO):
    """Subscribe to labelled clouds, and wait until the node takes clouds and has an image of 1 s."""
    robot.tf = TfSender(robot.helper)
    robot.listen("semantic/cloud")
    robot.until(lambda: robot.reaches("cloud") and robot.tf.moving.get_subscription_count(), "the demand")
    robot.send("camera_info", info)
    robot.until(lambda: robot.camera.camera_info, "the calibration")
    robot.segment(1000)


def labelled(robot, message):
    """Send a cloud until it comes back: transforms may still be on their way."""
    got, stamp = robot.got["semantic/cloud"], stamp_ms(message)

    def back():
        robot.send("cloud", message)
        return next((m for m in got if stamp_ms(m) == stamp), None)

    return robot.until(back, f"a labelled cloud of {stamp} ms")


def test_points_get_the_labels_of_the_pixels_that_show_them(robot):
    ready(robot)
    robot.tf.send(transform(FRAME, "lidar", 0, *MOUNT), static=True)
    places = [(16, 16, 1.0), (48, 10, 5.0), (80, 30, 20.0), (200, 16, 3.0), (48, 16, -2.0), (16, 16, np.nan)]
    points = from_camera(at_pixels(*places)).reshape(2, 3, 3).astype(np.float32)
    result = labelled(robot, cloud_message(1040, points, np.arange(6).reshape(2, 3)))
    assert (result.header.frame_id, result.height, result.width) == ("lidar", 2, 3)
    assert [f.name for f in result.fields] == ["x", "y", "z", "rgb", "label", "confidence", "intensity"]
    found = read(result)
    for axis, name in enumerate("xyz"):
        np.testing.assert_array_equal(found[name], points[..., axis])
    assert found["label"].tolist() == [[0, 1, 2], [255, 255, 255]]
    assert (found["confidence"].ravel()[:3] > 200).all() and (found["confidence"].ravel()[3:] == 0).all()
    assert found["rgb"].view(np.uint32).ravel()[0] == 0x00FF0000
    assert found["intensity"].tolist() == [[0, 1, 2], [3, 4, 5]]
    # The cloud's own rate: more of them than images.
    for ms in (1050, 1060, 1070):
        labelled(robot, cloud_message(ms, points))
    assert [f.name for f in robot.got["semantic/cloud"][-1].fields][-1] == "confidence"


def test_the_motion_between_image_and_cloud_counts(robot):
    ready(robot)
    # The robot moves 1 m to the right within a second; the lidar is where the camera is.
    robot.tf.send(transform(FRAME, "lidar"), static=True)
    robot.tf.send(transform("odom", FRAME, 0.5), transform("odom", FRAME, 2.5, (2.0, 0, 0)))
    # Of the image at 1.0 s, the cloud of 1.4 s sees what lies 0.4 m farther to the left.
    right = at_pixels((80, 16, 1.0)).astype(np.float32)  # 0.32 m to the right, 0.72 m in the image: outside
    stamps = count(1400)

    def label(points):
        return read(labelled(robot, cloud_message(next(stamps), points)))["label"].item()

    # Until the transforms have come, the motion is not known.
    robot.until(lambda: label(right) == 255, "a cloud that moves")
    left = at_pixels((16, 16, 1.0)).astype(np.float32)  # 0.32 m to the left, 0.08 m to the right there
    assert label(left) == 1


@pytest.mark.parametrize(("topic", "expected"), [("camera/image_raw", 255), ("camera/image_rect", 2)])
def test_a_raw_image_is_asked_through_its_lens(vocabulary, topic, expected):
    info = info_message(1000)
    info.distortion_model, info.d = "plumb_bob", [1.5, 0.0, 0.0, 0.0, 0.0]
    with running(vocabulary, remap={"image": topic}, fixed_frame="") as robot:
        robot.redirect("image", topic)
        robot.redirect("camera_info", "camera/camera_info")
        robot.until(lambda: robot.reaches("image") and robot.reaches("camera_info"), "the node")
        ready(robot, info)
        # Where a pinhole camera shows it at column 90, the lens moves it by 0.42 ** 3 * 150 = 11 pixels.
        points = at_pixels((90, 16, 1.0)).astype(np.float32)
        result = labelled(robot, cloud_message(1010, points, frame=FRAME))
        assert read(result)["label"].tolist() == [[expected]]


def test_nobody_who_listens_costs_nothing(robot):
    assert robot.node.count_subscribers("cloud") == 0
    assert robot.node.count_subscribers("/tf") == 0
    ready(robot)
    robot.ignore("semantic/cloud")
    robot.until(lambda: robot.node.count_subscribers("cloud") == 0, "the end of the subscription")


@pytest.mark.fault(
    "transforms that are missing, and bad clouds of a lidar",
    "one warning with both frames and the remedy; images go on, and so do later clouds",
)
def test_a_missing_transform_and_a_bad_cloud_are_told_and_nothing_else_stops(robot):
    ready(robot)
    points = at_pixels((16, 16, 1.0)).astype(np.float32)
    robot.send("cloud", cloud_message(1001, points))
    (text,) = robot.until(lambda: robot.warnings, "a warning")
    assert "expected a transform from 'lidar' to 'camera_optical_frame' in tf" in text
    assert "static_transform_publisher" in text
    robot.send("cloud", cloud_message(1002, points))
    assert (pixels(robot.segment(2000)) == pixels(robot.got["semantic/image_raw"][0])).all()
    assert len(robot.warnings) == 1 and not robot.got["semantic/cloud"]
    robot.tf.send(transform(FRAME, "lidar"), static=True)
    bad = cloud_message(2001, points)
    bad.is_bigendian = True
    robot.send("cloud", bad)
    labelled(robot, cloud_message(2002, points))
    assert {stamp_ms(m) for m in robot.got["semantic/cloud"]} == {2002}


@pytest.mark.fault(
    "clouds and images of different clocks",
    "the cloud is not labelled; a warning says how far they are apart",
)
def test_a_cloud_of_another_time_is_not_labelled(robot):
    ready(robot)
    robot.tf.send(transform(FRAME, "lidar"), static=True)
    robot.send("cloud", cloud_message(9000, at_pixels((16, 16, 1.0)).astype(np.float32)))
    (text,) = robot.until(lambda: robot.warnings, "a warning")
    assert "stamp is within 0.5 s of the cloud's, got one 8.000 s before it" in text


@pytest.mark.fault("tf2_ros is not installed", "a warning names the package; labels go on")
def test_without_tf2_ros_images_go_on(vocabulary, monkeypatch):
    monkeypatch.setitem(sys.modules, "tf2_ros", None)
    monkeypatch.delitem(sys.modules, "ovs_ros.ros.transforms", raising=False)
    with running(vocabulary) as robot:
        robot.listen("semantic/cloud")
        (text,) = robot.until(lambda: robot.warnings, "a warning")
        assert "tf is not used" in text and "tf2-ros-py" in text
        robot.segment(1000)
