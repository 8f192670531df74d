"""Label views over DDS: values that no change of words moves."""

import numpy as np
import pytest
from fakes import color_image
from rig import FRAME, info_message, pixels, rgb_message, running

from ovs_ros.srv import SetVocabulary

Request = SetVocabulary.Request
VIEW = """
unknown: 7
rest: 1
classes:
  - {name: stop, value: 200, words: [red, yellow]}
  - {name: blue, value: 3}
"""
MASK, INFO, CAMERA = (f"semantic/views/mine/{name}" for name in ("mask", "label_info", "camera_info"))


@pytest.fixture
def view(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(VIEW)
    return str(path)


def replace_words(robot, *names):
    assert robot.call(SetVocabulary, "ovs/set_vocabulary", Request(mode=Request.REPLACE, names=names)).success


def test_values_stay_whatever_the_words_and_their_ids_are(vocabulary, view):
    with running(vocabulary, views=[view]) as robot:
        robot.listen(MASK, INFO)
        robot.connected()
        picture = [["red", "green", "blue", "black"]]
        for ms, words in enumerate(
            [
                ["red", "green", "blue"],
                ["blue", "cyan"],
                [f"word {i}" for i in range(300)] + ["yellow", "blue"],
            ]
        ):
            replace_words(robot, *words)
            plain, mask = robot.segment(ms, picture), robot.of_stamp(MASK, ms)
            assert plain.encoding == ("16UC1" if len(words) > 254 else "mono8")
            assert (mask.encoding, mask.header, mask.step) == ("mono8", plain.header, 128)
            assert mask.header.frame_id == FRAME
            values = {"red": 200, "green": 1, "blue": 3, "black": 7}
            for column, color in enumerate(picture[0]):
                if color in (*words, "black"):
                    assert (pixels(mask)[:, column * 32 : column * 32 + 32] == values[color]).all(), color
        (info,) = robot.got[INFO]
        assert [(entry.class_id, entry.class_name) for entry in info.class_map] == [
            (7, "unknown"),
            (1, "rest"),
            (200, "stop"),
            (3, "blue"),
        ]


def test_a_subscriber_that_comes_late_gets_the_names(vocabulary):
    with running(vocabulary, views=["nav2", "nvblox"]) as robot:
        robot.segment(1)
        robot.listen("semantic/views/nav2/label_info", "semantic/views/nvblox/label_info")
        for view in ("nav2", "nvblox"):
            topic = f"semantic/views/{view}/label_info"
            info = robot.until(lambda topic=topic: robot.got[topic], topic)[0]
            assert {"unknown", "rest", "mover" if view == "nav2" else "person"} <= {
                entry.class_name for entry in info.class_map
            }


def test_the_calibration_comes_with_the_stamp_and_the_frame_of_the_mask(vocabulary, view):
    with running(vocabulary, views=[view]) as robot:
        robot.listen(MASK, CAMERA)
        robot.connected()
        robot.segment(1)
        robot.of_stamp(MASK, 1)
        info = info_message(5, focal=123.0)
        info.header.frame_id = "camera_link"
        robot.send("camera_info", info)
        robot.until(lambda: robot.node.cameras[0].camera_info, "the calibration")
        robot.segment(9)
        got = robot.of_stamp(CAMERA, 9)
        assert got.header == robot.of_stamp(MASK, 9).header
        assert (got.k[0], got.width, got.height) == (123.0, 96, 32)
        assert robot.node.cameras[0].camera_info.header.frame_id == "camera_link"
        assert len(robot.got[CAMERA]) == 1


def test_nothing_is_computed_while_nobody_subscribes(vocabulary, view, monkeypatch):
    looked_up = []

    def look_up(table, labels):
        looked_up.append(labels.shape)
        return np.take(table, labels)

    monkeypatch.setattr("ovs_ros.ros.view_output.look_up", look_up)
    with running(vocabulary, views=[view]) as robot:
        robot.segment(1)
        robot.until(lambda: robot.node.cameras[0].statistics.summary().published_hz, "the frame's end")
        robot.listen(MASK)
        robot.connected()
        robot.segment(2)
        robot.of_stamp(MASK, 2)
    assert looked_up == [(32, 96)]


def test_each_camera_has_its_own(vocabulary, view):
    with running(vocabulary, views=[view], cameras=["front", "rear"]) as robot:
        robot.listen(*(f"{camera}/{MASK}" for camera in ("front", "rear")))
        robot.connected()
        for ms, camera, color, value in ((1, "front", "red", 200), (2, "rear", "blue", 3)):
            robot.send(f"{camera}/image", rgb_message(ms, color_image([[color]])))
            assert (pixels(robot.of_stamp(f"{camera}/{MASK}", ms)) == value).all()
        assert [len(robot.got[f"{camera}/{MASK}"]) for camera in ("front", "rear")] == [1, 1]


def test_a_wrong_view_is_told_at_configure(vocabulary):
    with running(vocabulary, views=["nav3"], autostart=False) as robot:
        robot.node.trigger_configure()
        assert "one of cost, nav2, nvblox, got 'nav3'" in robot.node.failure
