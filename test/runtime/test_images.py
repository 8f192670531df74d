"""Image files and files written whole."""

import os
import resource
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovs_ros.runtime.files import file_digest, write_atomically
from ovs_ros.runtime.images import list_images, output_names, read_image

RAMP = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (48, 1))
RGB = np.dstack((RAMP, 255 - RAMP, np.full_like(RAMP, 40)))


@pytest.mark.parametrize("name", ["deep.png", "deep.tif", "float.tif", "plain.png"])
def test_every_depth_gives_the_same_picture(tmp_path, name):
    pixels = {"deep": RGB.astype(np.uint16) * 257, "float": RGB.astype(np.float32) / 255, "plain": RGB}
    assert cv2.imwrite(str(tmp_path / name), pixels[name.split(".")[0]][..., ::-1])
    # OpenCV before 4.6 writes float TIFF with a lossy compression.
    np.testing.assert_allclose(read_image(tmp_path / name).astype(int), RGB, atol=4)


@pytest.mark.parametrize("mode", ["LA", "P", "1", "CMYK", "RGBA"])
def test_other_pixel_formats_are_read(tmp_path, mode):
    picture = Image.fromarray(RGB)
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    picture.convert(mode).save(path)
    got, expected = read_image(path), np.array(picture.convert(mode).convert("RGB"))
    assert np.abs(got.astype(int) - expected).mean() < 12


def test_what_is_no_image_is_said_with_what_to_do(tmp_path):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    with pytest.raises(ValueError, match="convert it to PNG or JPEG"):
        read_image(tmp_path / "a.heic")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(ValueError, match="the file is damaged"):
        read_image(tmp_path / "a.png")
    cv2.imwrite(str(tmp_path / "f.tif"), np.full((4, 4, 3), 7.5, np.float32))
    with pytest.raises(ValueError, match="from 0 to 1"):
        read_image(tmp_path / "f.tif")


def test_a_folder_lists_images_in_any_spelling_and_no_hidden_ones(tmp_path):
    for name in ("b.JPEG", "a.PNG", "c.jfif", "._a.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert [path.name for path in list_images(tmp_path)] == ["a.PNG", "b.JPEG", "c.jfif"]
    assert output_names(list_images(tmp_path)) == ["a", "b", "c"]
    (tmp_path / "a.jpg").write_bytes(b"x")
    assert output_names(list_images(tmp_path)) == ["a.PNG", "a.jpg", "b", "c"]


@pytest.mark.fault(
    "a full disk, or links in the output folder", "files are whole or as before; links are replaced"
)
def test_links_and_what_is_no_file_are_not_written_through(tmp_path):
    (tmp_path / "precious").write_bytes(b"kept")
    (tmp_path / "out").mkdir()
    for link, target in (("a", "../precious"), ("b", "../nothing")):
        (tmp_path / "out" / link).symlink_to(target)
        write_atomically(tmp_path / "out" / link, b"new")
        assert (tmp_path / "out" / link).read_bytes() == b"new"
        assert not (tmp_path / "out" / link).is_symlink()
    assert (tmp_path / "precious").read_bytes() == b"kept" and not (tmp_path / "nothing").exists()
    (tmp_path / "out" / "null").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "out" / "pipe")
    for name in ("null", "pipe", "."):
        with pytest.raises(OSError, match="expected a path for a file"):
            write_atomically(tmp_path / "out" / name, b"new")
    assert (tmp_path / "out" / "null").is_symlink()
    temporary = tmp_path / "out" / f".c.{os.getpid()}.{threading.get_ident()}"
    temporary.symlink_to(tmp_path / "precious")
    write_atomically(tmp_path / "out" / "c", b"new")
    assert (tmp_path / "precious").read_bytes() == b"kept"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["a", "b", "c", "null", "pipe"]


@pytest.mark.fault(
    "a full disk, or links in the output folder", "files are whole or as before; links are replaced"
)
def test_a_full_disk_leaves_what_was_there_and_names_the_file(tmp_path):
    write_atomically(tmp_path / "a", b"first")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limit[1]))
    try:
        with pytest.raises(OSError, match=r"File too large: .*/a'$"):
            write_atomically(tmp_path / "a", bytes(200_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    write_atomically(tmp_path / "a", b"first")

    def broken(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        write_atomically(tmp_path / "a", b"second")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a").read_bytes() == b"first"
    assert file_digest(tmp_path / "a") == "a7937b64b8caa58f03721bb6bacf5c78cb235febe0e70b1b84cd99541461a08e"
