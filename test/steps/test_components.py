"""Connected regions against a plain flood fill."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovs_ros.steps.components import components
from ovs_ros.steps.segmentation import Segmentation, segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary

VOCABULARY = Vocabulary.from_names(["a", "b", "c"])


def result(labels: np.ndarray, confidence: np.ndarray) -> Segmentation:
    shares = np.array([(labels == i).mean() for i in range(3)], np.float32)
    scores = np.ones(3, np.float32)
    unknown = float((labels == 255).mean())
    return segmentation(VOCABULARY, np.arange(3), scores, confidence, labels, shares, unknown, {})


def flood(labels: np.ndarray) -> list[frozenset[tuple[int, int]]]:
    """The pixels of each region of one name."""
    left = {(int(y), int(x)) for y, x in np.argwhere(labels != 255)}
    regions = []
    while left:
        waiting = [left.pop()]
        region = set(waiting)
        while waiting:
            y, x = waiting.pop()
            for near in [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]:
                if near in left and labels[near] == labels[y, x]:
                    left.discard(near)
                    region.add(near)
                    waiting.append(near)
        regions.append(frozenset(region))
    return regions


GRIDS = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: st.tuples(
        arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 255])), arrays(np.uint8, shape)
    )
)


@given(GRIDS, st.sampled_from([0.0, 0.05, 0.3, 1.0]))
def test_they_are_what_a_flood_fill_finds(grid, least_share: float) -> None:
    labels, confidence = grid
    mask, found = components(result(labels, confidence), least_share)
    assert (mask.dtype, mask.shape) == (np.int32, labels.shape)
    regions = {region for region in flood(labels) if len(region) >= least_share * labels.size}
    got = [frozenset(map(tuple, np.argwhere(mask == n).tolist())) for n in range(1, len(found) + 1)]
    assert set(got) == regions and mask.max() <= len(found)
    for region, one in zip(got, found, strict=True):
        y, x = np.array(sorted(region)).T
        assert (labels[y, x] == VOCABULARY.names.index(one.name)).all()
        assert one.box == (x.min(), y.min(), np.ptp(x) + 1, np.ptp(y) + 1) and one.area == len(region)
        assert abs(one.score - confidence[y, x].mean() / 255) < 1e-6
