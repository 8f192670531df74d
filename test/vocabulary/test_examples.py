"""What an example says, and is refused for."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from ovs_ros.vocabulary.category import Category, CategorySpec
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.examples import Example, encoded

IMAGE = encoded(np.zeros((20, 30, 3), np.uint8))


def test_a_box_a_mask_and_points_say_where() -> None:
    inside = Example(IMAGE, box=(3, 2, 10, 5)).region(20, 30)
    assert inside[2:5, 3:10].all() and inside.sum() == 21
    inside = Example(IMAGE, points=((29, 0), (3, 19))).region(20, 30)
    assert inside[0, 29] and inside[19, 3] and inside.sum() == 2
    mask = np.zeros((20, 30), np.uint8)
    mask[4, 5:9] = 7
    np.testing.assert_array_equal(Example(IMAGE, mask=encoded(mask)).region(20, 30), mask > 0)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({}, "one of box, mask and points"),
        ({"box": (0, 0, 1, 1), "points": ((1, 1),)}, "one of box, mask and points"),
        ({"box": (0, 0, 1)}, "a box x0, y0, x1, y1 as whole numbers"),
        ({"box": (5, 0, 5, 9)}, "x0 < x1"),
        ({"box": (-1, 0, 5, 9)}, "whole numbers from 0"),
        ({"box": (0.5, 0, 5, 9)}, "whole numbers"),
        ({"points": ((1,),)}, "points x, y as whole numbers"),
        ({"points": ((1, 1),) * 101}, "at most 100 points"),
    ],
)
def test_refuses_what_says_no_place(where: dict, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Example(IMAGE, **where)


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ({"box": (0, 0, 31, 5)}, "a box inside the image of 30 x 20"),
        ({"points": ((30, 0),)}, "points inside the image of 30 x 20"),
        ({"mask": encoded(np.ones((20, 29), np.uint8))}, "a mask of the image's 30 x 20 pixels, got 29 x 20"),
        ({"mask": encoded(np.zeros((20, 30), np.uint8))}, "an empty one"),
        ({"mask": b"none"}, "a mask as PNG or JPEG"),
        ({"mask": Path("missing.png")}, "mask that can be read"),
    ],
)
def test_refuses_what_does_not_fit_the_image(where: dict, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        Example(IMAGE, **where).region(20, 30)


def test_images_come_from_files_and_from_memory(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (6, 7, 3), np.uint8)
    path = tmp_path / "a.png"
    assert cv2.imwrite(str(path), image[..., ::-1])
    for source in (path, encoded(image)):
        np.testing.assert_array_equal(Example(source, box=(0, 0, 1, 1)).read_image(), image)
    for missing in (tmp_path / "b.png", b"", b"no image"):
        with pytest.raises(VocabularyError, match="image"):
            Example(missing, box=(0, 0, 1, 1)).read_image()


def test_a_category_needs_an_example_that_shows_it() -> None:
    against = Example(IMAGE, box=(0, 0, 1, 1), negative=True)
    with pytest.raises(VocabularyError, match="an example that shows 'cup'"):
        CategorySpec("cup", examples=(against,))
    with pytest.raises(VocabularyError, match="examples for 'my mug'"):
        CategorySpec("my mug", examples_only=True)
    with pytest.raises(VocabularyError, match="among them"):
        CategorySpec("cup", examples=("cup.jpg",))  # type: ignore[arg-type]
    cup = Category("cup", examples=(Example(IMAGE, box=(0, 0, 1, 1)), against), id=3)
    assert hash(cup) == hash(Category("cup", examples=cup.examples, id=3))
