"""How well each node of the output grid goes with each word that a frame is decided among."""

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.steps.evidence import Evidence
from ovs_ros.steps.grid import crop
from ovs_ros.steps.network import MOST_WORDS, Network


def align(
    features: Features,
    words: NDArray[np.float32],
    prompts: NDArray[np.float16] | None = None,
    network: Network | None = None,
    most_refined: int = MOST_WORDS,
    temperature: float = 1.0,
    evidence: Evidence | None = None,
) -> NDArray[np.float32]:
    """The logits of a softmax over words, refined by the trained network if there is one.

    Beyond `MOST_WORDS` words, which only a decision without selection reaches, the network is left out.

    Args:
        features: of one image.
        words: (M, D) float32 unit rows, the words to choose among.
        prompts: (M, P, D) unit rows, which the model's own decoder takes in place of `words` and of any
            network; None: the model takes one embedding a word.
        network: refines the logits; None: they stay as the model gives them.
        most_refined: how many words the network refines at most.
        temperature: what logits are divided by.
        evidence: of examples, for some of the words; None: there are no examples.

    Returns:
        (rows, columns, M) float32, for the nodes that the image covers.
    """
    added = None if evidence is None else evidence.added(len(words))
    if prompts is not None:
        logits = features.logits(prompts, added)
    elif network is not None and len(words) <= MOST_WORDS:
        logits = network.logits(features, words, most_refined, added)
    else:
        logits = features.logits(words, added)
    if evidence is not None:
        evidence.decide_wordless(logits)
        temperature /= evidence.sharpness
    if temperature != 1.0:
        logits /= np.float32(temperature)
    return crop(logits, features.valid)
