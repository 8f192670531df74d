"""Channels of probabilities against a plain loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovs_ros.steps.channels import channel_image
from ovs_ros.steps.segmentation import segmentation
from ovs_ros.vocabulary.vocabulary import Vocabulary


@given(
    arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 255])),
    arrays(np.uint8, (4, 5)),
    st.lists(st.sampled_from(["a", "b", "c", "nobody"]), min_size=1, unique=True),
    st.booleans(),
)
def test_each_pixel_has_its_probability_in_its_own_channel(labels, confidence, keys, wide) -> None:
    names = ["A", "b", "c"]
    vocabulary = Vocabulary.from_names([*names, *(f"word {i}" for i in range(300 * wide))])
    if wide:
        labels = np.where(labels == 255, 65535, labels).astype(np.uint16)
    ones = np.ones(3, np.float32)
    result = segmentation(vocabulary, np.arange(3), ones, confidence, labels, ones / 3, 0.0, {})
    image = channel_image(result, keys)
    assert (image.shape, image.dtype, image.flags.c_contiguous) == ((4, 5, len(keys)), np.float32, True)
    for channel, key in enumerate(keys):
        number = "abc".find(key) if len(key) == 1 else -1
        wanted = np.where(labels == number, confidence / np.float32(255), 0) if number >= 0 else 0
        assert np.array_equal(image[..., channel], np.broadcast_to(wanted, (4, 5)))
