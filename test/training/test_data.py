"""Reading training folders and the nouns of captions."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import (
    caption_nouns,
    nouns_in,
    read_captions,
    resize_labels,
)


def test_images_come_as_rgb(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "red.png"), np.full((2, 2, 3), (0, 0, 255), np.uint8))
    np.testing.assert_array_equal(read_image(tmp_path / "red.png"), np.full((2, 2, 3), (255, 0, 0), np.uint8))
    (tmp_path / "not.png").write_text("no image")
    with pytest.raises(ValueError, match=r"not\.png"):
        read_image(tmp_path / "not.png")


def test_nouns_are_found_in_singular_and_plural_and_counted() -> None:
    nouns = ["bench", "dog", "sky"]
    captions = ["Two dogs on benches .", "A dog runs", "doggerel"]
    assert nouns_in(captions, nouns) == [0, 1]
    assert nouns_in(captions, nouns, least=2) == [1]


def test_caption_nouns_are_plain_words() -> None:
    nouns = caption_nouns()
    assert len(nouns) > 200
    assert all(noun.isalpha() and noun.islower() for noun in nouns)


def test_captions_gather_under_their_file(tmp_path: Path) -> None:
    (tmp_path / "captions.tsv").write_text('a.jpg\tA "dog" .\na.jpg\tThe dog\nb.jpg\tA cat .\n')
    assert read_captions(tmp_path) == {"a.jpg": ['A "dog"', "The dog"], "b.jpg": ["A cat"]}


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_resized_labels_are_those_under_the_middle_of_each_pixel(kind: type) -> None:
    row = np.arange(15, dtype=kind)[None]
    assert resize_labels(row, (5, 1)).tolist() == [[1, 4, 7, 10, 13]]
    assert resize_labels(row, (30, 1)).tolist() == [np.arange(15).repeat(2).tolist()]
    np.testing.assert_array_equal(
        resize_labels(row[:, ::-1].copy(), (7, 1)), resize_labels(row, (7, 1))[:, ::-1]
    )
