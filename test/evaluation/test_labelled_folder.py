"""Pairs of image and label files, and the values of label files however they are stored."""

import struct
import unicodedata
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ovs_ros.evaluation.labelled_folder import CLASS_FILES, labelled_pairs, load_labelled_set, read_mask

TRUTH = (np.arange(48).reshape(6, 8) % 3).astype(np.uint8)


def save(folder: Path, name: str, image: Image.Image) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return folder / name


def palette_mask(values: np.ndarray) -> Image.Image:
    image = Image.fromarray(values)
    image.putpalette(np.random.default_rng(0).integers(0, 256, 768, np.uint8).tobytes())
    return image


@pytest.mark.parametrize(
    ("image", "truth", "dtype"),
    [
        (Image.fromarray(TRUTH), TRUTH, np.uint8),
        (palette_mask(TRUTH), TRUTH, np.uint8),
        (Image.fromarray(TRUTH > 0), TRUTH > 0, np.uint8),
        (Image.fromarray(TRUTH.astype(np.uint16)), TRUTH, np.uint16),
        (Image.fromarray(TRUTH.astype(np.uint16) * 30000), TRUTH.astype(int) * 30000, np.uint16),
        (Image.fromarray(TRUTH).convert("RGB"), TRUTH, np.uint8),
        (Image.fromarray(TRUTH).convert("RGBA"), TRUTH, np.uint8),
        (Image.fromarray(TRUTH).convert("LA"), TRUTH, np.uint8),
    ],
    ids=["8 bit", "palette", "1 bit", "16 bit", "large 16 bit", "RGB", "RGBA", "LA"],
)
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_are_read_as_values_however_they_are_stored(tmp_path, image, truth, dtype, suffix):
    values = read_mask(save(tmp_path, f"a{suffix}", image))
    assert values.dtype == dtype
    np.testing.assert_array_equal(values, truth)


@pytest.mark.parametrize("colors", [2, 4, 16, 256])
def test_palettes_of_any_depth_are_read_as_indices(tmp_path, colors):
    values = (np.arange(512).reshape(16, 32) % colors).astype(np.uint8)
    path = tmp_path / "a.png"
    palette_mask(values).save(path, bits=int(np.log2(colors)))
    np.testing.assert_array_equal(read_mask(path), values)


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n" + bytes(40), None])
def test_what_is_no_mask_is_refused_by_name(tmp_path, content):
    path = save(
        tmp_path, "a.png", Image.fromarray(np.random.default_rng(0).integers(0, 9, (99, 99), np.uint8))
    )
    path.write_bytes(path.read_bytes()[:-3000] if content is None else content)
    with pytest.raises(ValueError, match=r"expected a label image in .*a\.png"):
        read_mask(path)
    with pytest.raises(FileNotFoundError):
        read_mask(tmp_path / "none.png")


def test_colours_are_no_values(tmp_path):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="one 8 or 16 bit channel"):
        read_mask(save(tmp_path, "a.png", colours))


def test_pairs_are_found_by_name_whatever_its_composition(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "k\u00fcche") for form in ("NFC", "NFD"))
    for image, label in ((decomposed, composed), ("b", "b"), ("a", "a")):
        save(tmp_path / "image", f"{image}.jpg", Image.fromarray(TRUTH))
        save(tmp_path / "label", f"{label}.PNG", Image.fromarray(TRUTH))
    (tmp_path / "image" / "._a.jpg").write_bytes(b"macOS")
    pairs = labelled_pairs(tmp_path)
    assert [image.stem for image, _ in pairs] == ["a", "b", decomposed]
    assert [label.stem for _, label in pairs] == ["a", "b", composed]


def test_what_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the folders image and label"):
        labelled_pairs(tmp_path)
    save(tmp_path / "image", "lonely.png", Image.fromarray(TRUTH))
    (tmp_path / "label").mkdir()
    with pytest.raises(FileNotFoundError, match=r"label/lonely\.png"):
        labelled_pairs(tmp_path)
    (tmp_path / "image" / "lonely.png").unlink()
    with pytest.raises(ValueError, match="expected images"):
        labelled_pairs(tmp_path)


def labelled_set(tmp_path: Path, kind: str, labels: list[np.ndarray], names: str):
    for number, label in enumerate(labels):
        save(tmp_path / "image", f"{number}.png", Image.fromarray(np.zeros((6, 8, 3), np.uint8)))
        save(tmp_path / kind, f"{number}.png", Image.fromarray(label))
    (tmp_path / CLASS_FILES[kind]).write_text(names)
    return load_labelled_set(tmp_path, kind)


BINARY = ((TRUTH > 0) * 255).astype(np.uint8)


@pytest.mark.parametrize("first", [BINARY, BINARY * 0, BINARY * 0 + 255], ids=["both", "0", "255"])
def test_masks_of_0_and_255_alone_are_refused_when_the_set_is_loaded(tmp_path, first):
    with pytest.raises(ValueError, match="got 0 and 255 alone"):
        labelled_set(tmp_path, "label", [first, BINARY, BINARY], "wall\nperson\n")


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        ("label", [BINARY, TRUTH], "wall\nperson\ntree\n"),
        ("label", [BINARY], "wall\n"),
        ("label", [BINARY > 0], "wall\nperson\n"),
        ("label", [BINARY * 0], "wall\nperson\n"),
        ("color", [BINARY[..., None].repeat(3, axis=2)], "0 0 0 wall\n255 255 255 person\n"),
        ("color", [BINARY[..., None].repeat(3, axis=2)], "0 0 0 wall\n1 1 1 person\n"),
        ("fine", [BINARY // 255], "wall\nunknown\n"),
        ("fine", [BINARY], "\n".join(f"n{n}" for n in range(255))),
    ],
)
def test_other_masks_are_not_taken_for_binary_ones(tmp_path, kind, labels, names):
    dataset = labelled_set(tmp_path, kind, labels, names)
    image, truth = dataset.read(0)
    assert image.shape == (6, 8, 3) and truth.shape == (6, 8)


def test_1_bit_masks_hold_the_classes_0_and_1(tmp_path):
    dataset = labelled_set(tmp_path, "label", [TRUTH > 0], "wall\nperson\n")
    np.testing.assert_array_equal(dataset.read(0)[1], TRUTH > 0)


def test_painted_labels_are_read_with_a_palette_too(tmp_path):
    rgb = np.array([[0, 0, 128], [128, 0, 0], [9, 9, 9]], np.uint8)
    dataset = labelled_set(tmp_path, "color", [rgb[TRUTH]], "128 0 0 red\n0 0 128 blue\n")
    want = np.array([1, 0, 255])[TRUTH]
    np.testing.assert_array_equal(dataset.read(0)[1], want)
    Image.fromarray(rgb[TRUTH]).quantize(3).save(tmp_path / "color" / "0.png")
    np.testing.assert_array_equal(dataset.read(0)[1], want)
    cv2.imwrite(str(tmp_path / "color" / "0.png"), rgb[TRUTH][..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(dataset.read(0)[1], want)


def test_a_label_image_that_claims_too_many_pixels_is_not_decoded(tmp_path):
    data = bytearray(cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes())
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="cannot be read|at most 50 megapixels"):
        read_mask(tmp_path / "a.png")
    data[16:24] = struct.pack(">II", 9000, 9000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match="at most 50 megapixels in .*a.png, got one that claims 9000 x 9000"):
        read_mask(tmp_path / "a.png")
