import cv2
import numpy as np
import pytest

from ovs_ros.geometry.rgbd_folder import RgbdFolder


@pytest.fixture
def folder(tmp_path):
    np.savetxt(tmp_path / "intrinsics.txt", [[50, 0, 16], [0, 60, 12], [0, 0, 1]])
    for number in range(2):
        cv2.imwrite(str(tmp_path / f"{number:04d}.color.jpg"), np.full((24, 32, 3), (255, 0, 0), np.uint8))
        cv2.imwrite(str(tmp_path / f"{number:04d}.depth.png"), np.full((24, 32), 1500 * number, np.uint16))
        np.savetxt(tmp_path / f"{number:04d}.pose.txt", np.eye(4))
    return tmp_path


def test_a_frame_is_read(folder):
    recording = RgbdFolder(folder)
    assert recording.names == ["0000", "0001"]
    image, sight = recording.read("0001")
    assert image.shape == (24, 32, 3) and image[0, 0, 2] > 240 and image[0, 0, 0] < 15
    np.testing.assert_allclose(sight.depth, 1.5)
    assert (sight.camera_to_world == np.eye(4)).all()
    camera = sight.intrinsics
    assert (camera.fx, camera.fy, camera.cx, camera.cy) == (50, 60, 16, 12)
    assert (camera.width, camera.height) == (32, 24)
    assert (recording.read("0000")[1].inverse_depth == 0).all()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("intrinsics.txt", b"1 2 3", "expected 3 x 3 numbers"),
        ("0000.pose.txt", b"1 0 0 x", "expected 4 x 4 numbers"),
        ("0000.color.jpg", b"", "expected an image in"),
        ("0000.depth.png", cv2.imencode(".png", np.ones((24, 32), np.uint8))[1].tobytes(), "got uint8"),
        (
            "0000.depth.png",
            cv2.imencode(".png", np.ones((2, 2), np.uint16))[1].tobytes(),
            r"got uint16 of shape \(2",
        ),
    ],
)
def test_it_says_what_is_wrong(folder, file, content, message):
    (folder / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        RgbdFolder(folder).read("0000")


def test_a_folder_without_frames_and_a_missing_file(folder):
    (folder / "0001.pose.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"0001\.pose\.txt"):
        RgbdFolder(folder).read("0001")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match="got none"):
        RgbdFolder(folder / "empty")
