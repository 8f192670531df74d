from dataclasses import replace

import numpy as np
import pytest
from fakes import COLORS, ColorImageEncoder, ColorTextEncoder, color_image

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.model import Model
from ovs_ros.options import SegmenterOptions
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.selection import Selection
from ovs_ros.steps.tag_validation import validate_tags
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.vocabulary import Vocabulary
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

REJECT = SegmenterOptions(validation="reject", validation_top_k=1)
RELABEL = SegmenterOptions(validation="relabel", validation_top_k=1)


def features_of(rows):
    """An image of plain squares, 4 x 4 patches and 8 x 8 nodes each."""
    return ColorImageEncoder().encode(color_image(rows, size=64))


def claim(rows, names, selected, negatives=(), seen=()):
    """What `validate_tags` takes where each square is claimed to be the name in `rows`.

    Returns:
        indices (H, W), logits, selection and words.
    """
    text = ColorTextEncoder()
    vocabulary = Vocabulary.from_names(names, negatives)
    words = WordEmbeddings(vocabulary, text.encode([*names, *negatives]), frozenset(seen))
    indices = np.array([[selected.index(name) for name in row] for row in rows])
    nodes = indices.repeat(8, axis=0).repeat(8, axis=1)
    logits = np.eye(len(selected), dtype=np.float32)[nodes]
    chosen = [names.index(name) for name in selected if name in names]
    pixels = indices.repeat(64, axis=0).repeat(64, axis=1).astype(np.uint8)
    selection = Selection(np.array(chosen), np.ones(len(chosen), np.float32), np.arange(len(chosen)))
    return pixels, logits, selection, words


def squares(image, size=64):
    """The one value of each square."""
    corners = image[::size, ::size]
    np.testing.assert_array_equal(image, corners.repeat(size, axis=0).repeat(size, axis=1))
    return corners.tolist()


def check(shown, claimed, names, selected, options, **more):
    pixels, logits, selection, words = claim(claimed, names, selected, **more)
    indices, grown = validate_tags(pixels, logits, features_of(shown), selection, words, options)
    return squares(indices), grown


NAMES = ["red", "green", "blue", "white"]


def test_what_its_features_bear_out_stays():
    rows = [["red", "green"], ["green", "red"]]
    pixels, logits, selection, words = claim(rows, NAMES, ["red", "green"])
    for options in (REJECT, RELABEL):
        indices, same = validate_tags(pixels, logits, features_of(rows), selection, words, options)
        assert indices is pixels and same is selection


def test_a_region_with_a_false_name_is_rejected_or_relabelled():
    indices, grown = check(
        [["blue", "red", "green"]], [["green", "red", "green"]], NAMES, ["red", "green"], REJECT
    )
    assert indices == [[2, 0, 1]] and grown.classes.tolist() == [0, 1]
    indices, grown = check(
        [["blue", "red", "green"]], [["green", "red", "green"]], NAMES, ["red", "green"], RELABEL
    )
    assert indices == [[2, 0, 1]] and grown.classes.tolist() == [0, 1, 2]
    assert grown.scores[2] > 0.9 and grown.scores[:2].tolist() == [1, 1]


def test_a_name_among_the_best_k_stays():
    # One region of red shows red and, on two thirds, blue: red is second.
    shown, claimed = [["red", "blue", "blue"]], [["red", "red", "red"]]
    assert check(shown, claimed, NAMES, ["red", "green"], RELABEL)[0] == [[2, 2, 2]]
    two = replace(RELABEL, validation_top_k=2)
    assert check(shown, claimed, NAMES, ["red", "green"], two)[0] == [[0, 0, 0]]


def test_a_name_that_comes_in_keeps_the_order_of_the_columns():
    indices, grown = check([["red", "blue"]], [["green", "blue"]], NAMES, ["green", "blue"], RELABEL)
    assert indices == [[0, 2]] and grown.classes.tolist() == [0, 1, 2]


def test_names_of_the_training_are_spared_unless_asked():
    shown, claimed = [["blue", "red"]], [["green", "red"]]
    assert check(shown, claimed, NAMES, ["red", "green"], REJECT, seen=["green"])[0] == [[1, 0]]
    every = replace(REJECT, validate_seen=True)
    assert check(shown, claimed, NAMES, ["red", "green"], every, seen=["green"])[0] == [[2, 0]]


def test_negatives_are_not_checked_but_take_regions():
    claimed, shown = [["green", "yellow", "red"]], [["yellow", "blue", "red"]]
    for options in (REJECT, RELABEL):
        indices, grown = check(
            shown, claimed, NAMES, ["red", "green", "yellow"], options, negatives=["yellow"]
        )
        assert indices == [[3, 2, 0]] and grown.classes.tolist() == [0, 1]


def test_regions_below_a_patch_are_not_checked():
    pixels, logits, selection, words = claim([["red"]], NAMES, ["red", "green"])
    logits[2, 2] = [0, 1]
    pixels[16:24, 16:24] = 1
    indices, _ = validate_tags(pixels, logits, features_of([["red"]]), selection, words, REJECT)
    assert (indices[16:24, 16:24] == 1).all()


@pytest.mark.parametrize("options", [REJECT, RELABEL])
def test_regions_are_compared_with_all_words_of_a_large_vocabulary(options):
    names = [*NAMES, "navy blue", *(f"thing {i}" for i in range(3000))]
    # Two better names, although selection would list a single one.
    few = replace(options, validation_top_k=2, shortlist=1)
    indices, grown = check([["blue", "red"]], [["green", "red"]], names, ["red", "green"], few)
    assert indices == [[2, 0]] and grown.classes.tolist() == ([0, 1, 2] if options is RELABEL else [0, 1])


def test_many_new_names_widen_the_columns():
    rng = np.random.default_rng(1)
    dim, grid = 512, 8
    own = np.eye(dim, dtype=np.float32)[: grid * grid]
    others = np.eye(dim, dtype=np.float32)[grid * grid : grid * grid + 230]
    words = WordEmbeddings(
        Vocabulary.from_names([f"word {i}" for i in range(294)]), np.concatenate((own, others))
    )
    patches = own.reshape(grid, grid, dim)[rng.permutation(grid)]
    features = Features(patches[0, 0], patches, CosineHead(patches, 20.0), (1.0, 1.0), 20.0)
    selection = Selection(np.arange(64, 294), np.ones(230, np.float32), np.arange(64, 294))
    best = np.arange(64).reshape(grid, grid)
    indices, grown = validate_tags(
        best.astype(np.uint8), np.eye(230, dtype=np.float32)[best], features, selection, words, RELABEL
    )
    assert indices.dtype == np.uint16 and len(grown.classes) == 294
    np.testing.assert_array_equal(own[grown.classes[indices]], patches)


@pytest.mark.parametrize("validation", ["relabel", "reject"])
def test_the_segmenter_validates_with_the_names_that_it_was_trained_with(validation):
    class Colorblind(ColorImageEncoder):
        """Its pixels see red where its patches see blue."""

        def encode(self, image):
            dense = super().encode(image)
            return replace(dense, head=CosineHead(dense.head.embeddings[..., self.swap], self.logit_scale))

        swap = np.arange(ColorImageEncoder.dim)
        red, blue = (list(COLORS).index(name) for name in ("red", "blue"))
        swap[[red, blue]] = swap[[blue, red]]

    options = SegmenterOptions(validation=validation, validation_top_k=1, select=False)
    segmenter = Segmenter(Model(Colorblind(), ColorTextEncoder()), options)
    image = color_image([["blue", "green"]])
    vocabulary = Vocabulary.from_names(["red", "green", "blue"])
    result = segmenter.segment(image, segmenter.embed(vocabulary))
    expected = 2 if validation == "relabel" else 255
    assert (result.labels[:, :32] == expected).all() and (result.labels[:, 32:] == 1).all()
    assert result.shares.sum() + result.unknown_share == pytest.approx(1)
    segmenter = replace(segmenter, model=replace(segmenter.model, knowledge=Knowledge(frozenset({"red"}))))
    result = segmenter.segment(image, segmenter.embed(vocabulary))
    assert (result.labels[:, :32] == 0).all()
