"""Probabilities of chosen names, one channel each, for maps that average what they get."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.steps.labels import look_up
from ovs_ros.steps.segmentation import Segmentation
from ovs_ros.vocabulary.vocabulary import name_key


def channel_image(result: Segmentation, keys: Sequence[str]) -> NDArray[np.float32]:
    """Where each name is, and how sure that is.

    Args:
        result: of a frame.
        keys: of C names (see `name_key`), at most 255; those that the vocabulary lacks are nowhere.

    Returns:
        (H, W, C) float32: the confidence, 0 to 1, where the name is the pixel's best one, 0 elsewhere.
    """
    place = {key: channel for channel, key in enumerate(keys)}
    nowhere = len(keys)
    table = np.full(65536 if result.vocabulary.wide else 256, nowhere, np.uint8)
    table[result.selected_ids] = [place.get(name_key(name), nowhere) for name in result.selected_names]
    channels = look_up(table, result.labels).ravel()
    image = np.zeros((*result.labels.shape, len(keys)), np.float32)
    pixels = np.flatnonzero(channels < nowhere)
    image.reshape(-1, len(keys))[pixels, channels[pixels]] = result.confidence.ravel()[pixels] / np.float32(
        255
    )
    return image
