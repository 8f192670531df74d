"""Which prompt templates suit a category at a site, judged by entropy on images without labels.

After FLOSS (Benigmim et al., "FLOSS: Free Lunch in Open-vocabulary Semantic Segmentation", arXiv 2504.10487):
each template alone makes a classifier of all categories, and for each category the best templates are those
with the lowest mean entropy over the patches that the template's classifier assigns to the category.

Two readings of ours. FLOSS keeps every chosen classifier whole and fuses their answers; here each category
takes its own row alone, the mean over its templates, so that there is one classifier and a frame costs what
it did. And a template counts only where it assigns at least `SUPPORT` times as many patches as the most
generous one: a template that finds nothing but the clearest examples would win by its entropy otherwise.
"""

import numpy as np
from numpy.typing import NDArray

SUPPORT = 0.5


class TemplateEntropies:
    """Collects, over images, the entropies of every template's classifier.

    Args:
        classifiers: (T, K + N, D) float32 unit embeddings, for each of T templates those of K categories and
            then of N negative words.
        categories: K.
        scale: what cosines are multiplied with before a softmax.

    Attributes:
        patches: (T, K) int64, how many patches each template's classifier assigned to each category.
        entropy: (T, K) float64, the sum of their entropies, in nats.
    """

    def __init__(self, classifiers: NDArray[np.float32], categories: int, scale: float) -> None:
        self._weights = np.ascontiguousarray(classifiers.transpose(0, 2, 1)) * np.float32(
            scale
        )  # (T, D, K + N)
        self._words = classifiers.shape[1]
        self.patches: NDArray[np.int64] = np.zeros((len(classifiers), categories), np.int64)
        self.entropy: NDArray[np.float64] = np.zeros((len(classifiers), categories))

    def add(self, patches: NDArray[np.float32]) -> None:
        """Count one image's patches (n, D), unit rows."""
        count = self.patches.shape[1]
        for template, weights in enumerate(self._weights):
            logits = patches @ weights  # (n, K + N)
            best = logits.argmax(axis=1)  # (n,)
            logits -= np.take_along_axis(logits, best[:, None], axis=1)
            shares = np.exp(logits)
            total = shares.sum(axis=1)  # (n,)
            entropy = np.log(total) - np.einsum("nk,nk->n", shares, logits) / total  # (n,)
            self.patches[template] += np.bincount(best, minlength=self._words)[:count]
            self.entropy[template] += np.bincount(best, entropy, minlength=self._words)[:count]

    def choose(self, most: int) -> list[NDArray[np.intp]]:
        """For each category its best templates, at most `most`, best first; empty if no patch had it."""
        supported = (self.patches > 0) & (self.patches >= SUPPORT * self.patches.max(axis=0))  # (T, K)
        mean = np.where(supported, self.entropy / np.maximum(self.patches, 1), np.inf)
        order = np.argsort(mean, axis=0, kind="stable")[:most]  # (most, K)
        return [order[: supported[:, column].sum(), column] for column in range(mean.shape[1])]
