"""What `ovs evaluate --present-only` does: ask each image for the names that are in it, and for no other."""

import numpy as np

from ovs_ros.cli.common import Skipped, read_each, rounded
from ovs_ros.evaluation.labelled_folder import IGNORED, LabelledSet
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.vocabulary import Vocabulary

LEAST_SHARE = 0.005
"""Of an image's pixels: from here on a name counts as in it."""


def evaluate_present_words(segmenter: Segmenter, dataset: LabelledSet, skipped: Skipped) -> dict[str, object]:
    """Segment each image by the names that its labels have, as a user does who asks for what is there.

    Args:
        segmenter: its negative words compete with the names.
        dataset: ignored pixels count as background, which none of the names fits.
        skipped: gets the images that cannot be read.

    Returns:
        negatives, how many images were measured, the mean IoU of the names, and the share of the background
        that got a name.
    """
    every = Vocabulary.from_names(dataset.names)
    background = len(dataset.names)
    matrix = ConfusionMatrix(background + 1)
    images = 0
    for _, (image, truth) in read_each(range(len(dataset)), dataset.read, skipped, "Present names"):
        pixels = np.bincount(truth.ravel(), minlength=background)[:background]
        present = [dataset.names[i] for i in np.flatnonzero(pixels >= LEAST_SHARE * truth.size)]
        if not present:
            continue
        # The names keep their ids, which are the classes.
        result = segmenter.segment(image, segmenter.embed(every.replaced(present)))
        named = result.labels != result.unknown_id
        matrix.add(np.where(truth == IGNORED, background, truth), np.where(named, result.labels, background))
        images += 1
    iou, counts = matrix.iou[:-1], matrix.counts[-1]
    return {
        "negatives": ", ".join(segmenter.negatives),
        "images": images,
        "miou": rounded(iou[~np.isnan(iou)].mean()),
        "background_named": rounded(counts[:background].sum() / max(1, counts.sum())),
    }
