"""What `ovs evaluate --conformal` does: half of the images fit the sets' limit, the others test it."""

from dataclasses import replace

import numpy as np

from ovs_ros.cli.common import Skipped, read_each, rounded
from ovs_ros.evaluation.conformal import cover, fit_limit, image_score, softmax
from ovs_ros.evaluation.labelled_folder import IGNORED, LabelledSet
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.grid import at_nodes
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings


def evaluate_prediction_sets(
    segmenter: Segmenter, words: WordEmbeddings, dataset: LabelledSet, alpha: float, skipped: Skipped
) -> dict[str, object]:
    """Form prediction sets at the nodes of the fine grid, over all words, whatever selection would leave.

    A name that selection drops has no probability, so that only sets of all names could hold it.

    Args:
        segmenter: its calibrated probabilities are used.
        words: the class names first, in their order.
        dataset: the limit is fitted to its even images, and tested on the odd ones.
        alpha: a share 1 - alpha of images shall have a share 1 - alpha of positions with a true set.
        skipped: gets the images that cannot be read.

    Returns:
        alpha, q, how many images were measured, the share of them that is covered, the mean share of
        positions with a true set, and the mean number of names in a set; see `conformal.py`.

    Raises:
        ValueError: alpha is not between 0 and 1, or no labelled image is left to measure.
    """
    fit_limit([], alpha)  # Refuses a wrong alpha before any image is read.
    scores, covers = [], []
    order = [*range(0, len(dataset), 2), *range(1, len(dataset), 2)]
    for number, (image, labels) in read_each(order, dataset.read, skipped, "Prediction sets"):
        scored = segmenter.score(image, words, replace(segmenter.options, select=False))
        truth = at_nodes(labels, scored.features, scored.logits.shape[:2])
        counted = truth != IGNORED
        if not counted.any():
            continue
        probabilities, true = softmax(scored.logits[counted]), truth[counted]
        if number % 2 == 0:
            scores.append(image_score(probabilities, true, alpha))
        else:
            covers.append(cover(probabilities, true, fit_limit(scores, alpha)))
    if not covers:
        raise ValueError("expected at least 2 images with labels, one to fit and one to test")
    shares, sizes = np.array(covers).T
    return {
        "alpha": alpha,
        "q": fit_limit(scores, alpha),
        "images": len(covers),
        "covered_images": rounded((shares >= 1 - alpha).mean()),
        "coverage": rounded(shares.mean()),
        "set_size": rounded(sizes.mean()),
    }
