import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovs_ros.steps.tag_validation import connected_regions


def flooded(labels):
    """Regions by flooding, node by node, numbered in the order of their first nodes."""
    regions = np.full(labels.shape, -1)
    count = 0
    for start in np.ndindex(labels.shape):
        if regions[start] >= 0:
            continue
        waiting = [start]
        while waiting:
            row, col = waiting.pop()
            inside = 0 <= row < labels.shape[0] and 0 <= col < labels.shape[1]
            if inside and regions[row, col] < 0 and labels[row, col] == labels[start]:
                regions[row, col] = count
                waiting += [(row - 1, col), (row + 1, col), (row, col - 1), (row, col + 1)]
        count += 1
    return regions, count


@given(arrays(np.int64, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3)))
def test_regions_are_those_of_flooding(labels):
    expected, expected_count = flooded(labels)
    regions, count = connected_regions(labels)
    assert count == expected_count
    pairs = {*zip(expected.ravel().tolist(), regions.ravel().tolist(), strict=True)}
    assert len(pairs) == count and {region for _, region in pairs} == set(range(count))


def test_diagonal_neighbours_are_apart():
    regions, count = connected_regions(np.uint8([[1, 0], [0, 1]]))
    assert count == 4 and len(np.unique(regions)) == 4
