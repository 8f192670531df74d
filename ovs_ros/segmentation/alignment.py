"""How well each node of the fine grid goes with each word."""

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.protocols import DenseFeatures
from ovs_ros.segmentation.grid import crop


def align(features: DenseFeatures, embeddings: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Scaled cosines of the fine grid with words: the logits of a softmax over the words.

    Args:
        features: of one image.
        embeddings: (C, D) float32 unit rows, the words to choose among.
        scale: what cosines are multiplied with.

    Returns:
        (rows, cols, C) float32, for the nodes that the image covers.
    """
    cosines = features.upsampling.cosines(embeddings * np.float32(scale))  # (ph, pw, C), scaled
    return crop(cosines, features.extent)
