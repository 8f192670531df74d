import itertools

import numpy as np
import pytest

from ovs_ros.vocabulary.category import Category
from ovs_ros.vocabulary.colors import spaced_colors

OFFICE = ["person", "wall", "floor", "ceiling", "door", "window", "desk", "office chair", "sofa", "lamp"]
PINKS = ["dog", "cat", "cow", "sheep", "horse", "bird"]


def nearest(names):
    """The least difference of two colours as shares of red, green and blue."""
    colors = [np.array(color) / 255 for color in spaced_colors(names).values()]
    return min(np.linalg.norm(a - b) for a, b in itertools.combinations(colors, 2))


@pytest.mark.parametrize("names", [OFFICE, PINKS, OFFICE + PINKS])
def test_names_that_are_shown_together_look_different(names):
    assert nearest(names) > 0.2
    plain = [np.array(Category(name, id=0).color) / 255 for name in names]
    assert nearest(names) > min(np.linalg.norm(a - b) for a, b in itertools.combinations(plain, 2))


def test_random_sets_of_names_look_different():
    for start in range(50):
        assert nearest([f"name {start} {i}" for i in range(6)]) > 0.2


def test_a_set_of_names_always_has_the_same_colours():
    assert spaced_colors(OFFICE) == spaced_colors(OFFICE[::-1])


def test_names_keep_their_colours_where_they_can():
    assert spaced_colors(["chair"]) == {"chair": Category("chair", id=0).color}
    kept = [name for name, color in spaced_colors(OFFICE).items() if color == Category(name, id=0).color]
    assert len(kept) >= len(OFFICE) / 2


def test_many_names_each_get_a_colour():
    assert len(spaced_colors([f"name {i}" for i in range(900)])) == 900
    assert spaced_colors([]) == {}
