"""How well each node of the fine grid goes with each word."""

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.protocols import DenseFeatures
from ovs_ros.steps.grid import crop
from ovs_ros.steps.network import MOST_WORDS, RefinementNetwork


def align(
    features: DenseFeatures,
    embeddings: NDArray[np.float32],
    logit_scale: float,
    temperature: float = 1.0,
    network: RefinementNetwork | None = None,
    most_refined: int = MOST_WORDS,
    prompts: NDArray[np.float16] | None = None,
) -> NDArray[np.float32]:
    """The logits of a softmax over words: scaled cosines of the fine grid, refined by a network if any.

    The network works on patches; what it adds is upsampled with their cosines. Beyond `MOST_WORDS` words,
    which only a decision without selection reaches, the cosines stay as they are.

    Args:
        features: of one image.
        embeddings: (C, D) float32 unit rows, the words to choose among.
        logit_scale: what cosines are multiplied with.
        temperature: what logits are divided by.
        network: refines the cosines; None: they stay as they are.
        most_refined: how many words it refines at most.
        prompts: (C, P, D) unit rows, which the model's decoder takes in place of their means `embeddings` and
            of any network; None: the means.

    Returns:
        (rows, cols, C) float32, for the nodes that the image covers.
    """
    scale = np.float32(logit_scale / temperature)
    if prompts is not None:
        logits = features.upsampling.cosines(prompts)  # (ph, pw, C)
        logits *= scale
        return crop(logits, features.extent)
    added = None
    if network is not None and len(embeddings) <= MOST_WORDS:
        added = network.residual(features, embeddings, logit_scale, most_refined)  # (h, w, C)
        added /= np.float32(temperature)
    logits = features.upsampling.cosines(embeddings * scale, added)  # (ph, pw, C)
    return crop(logits, features.extent)
