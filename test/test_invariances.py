"""What must not change the answer of the whole pipeline, with the embedded model on real photographs."""

import numpy as np
import pytest
from skimage import data as pictures

import ovs_ros
from ovs_ros.vocabulary.vocabulary import Vocabulary

NAMES = ("motorcycle", "person", "cat", "cup", "table", "wall", "floor", "sky", "tree", "car", "window")
ABSURD = ("quasar", "tax law", "subjunctive mood", "inflation rate")
PHOTOGRAPHS = {
    "motorcycle": lambda: pictures.stereo_motorcycle()[0],
    "coffee": pictures.coffee,
    "cat": pictures.chelsea,
}


@pytest.fixture(scope="module")
def segmenter():
    return ovs_ros.load("stream")


@pytest.fixture(scope="module", params=PHOTOGRAPHS)
def photograph(request):
    return PHOTOGRAPHS[request.param]()


def named(segmenter, image, names):
    """(H, W) the name of each pixel; 'unknown' where generic negative words won."""
    result = segmenter.segment(image, segmenter.embed(Vocabulary.from_names(names)))
    return np.array([*names, *["unknown"] * (256 - len(names))])[result.labels]


def test_permuting_the_categories_permutes_the_answer(segmenter, photograph):
    straight = named(segmenter, photograph, NAMES)
    order = np.random.default_rng(0).permutation(len(NAMES))
    permuted = named(segmenter, photograph, [NAMES[i] for i in order])
    # Sums in another order differ by rounding, and where two names are level that may decide.
    assert (straight == permuted).mean() > 0.999


def test_absurd_words_change_few_pixels(segmenter, photograph):
    before = named(segmenter, photograph, NAMES)
    after = named(segmenter, photograph, [*NAMES, *ABSURD])
    assert (before == after).mean() > 0.9


@pytest.mark.parametrize("corner", [(0, 0), (1, 1)])
def test_crops_of_the_border_agree(segmenter, photograph, corner):
    height, width = photograph.shape[:2]
    rows, cols = (
        slice(size // 8, None) if end else slice(None, size - size // 8)
        for size, end in zip((height, width), corner, strict=True)
    )
    whole = named(segmenter, photograph, NAMES)[rows, cols]
    part = named(segmenter, np.ascontiguousarray(photograph[rows, cols]), NAMES)
    assert (whole == part).mean() > 2 / 3
