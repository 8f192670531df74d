"""Teaching by examples: from regions of images to prototypes, and from prototypes to logits.

Visual prototypes stand beside words as in FreeDA (arXiv 2404.06542) and Personalised OVSS (arXiv 2507.11030).
Ours is how they score: by linear discriminants (LDA) whose covariance is that of all the examples' images, so
that what every image has in common does not count; and how far words and examples are trusted: as fits each
example best when its own image is left out. Figures and other rules: docs/research/examples.md.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.steps.evidence import fuse, tokens_of
from ovs_ros.steps.grid import crop
from ovs_ros.vocabulary.errors import VocabularyError
from ovs_ros.vocabulary.examples import Arrays, Example
from ovs_ros.vocabulary.prototypes import Prototypes
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

Array = NDArray[np.float32]

CLUSTERS = 3
"""How many prototypes a category has at most, found by k-means over all its regions."""
TO_MEAN = 0.5
"""How far the prototypes are drawn towards their category's mean."""
SHRINKAGE = 0.6
"""Of the covariance, towards a multiple of the identity: few images show few directions."""
WEIGHT = 0.2
"""Of evidence, before anything tells how far it is to be trusted."""
LEAST_WEIGHT, MORE_WEIGHT, FLOOR = 0.1, 0.3, -3.0
"""Where no category was shown in two images: the weight if words find all that was shown, what is added if
they find nothing of it, and the lowest evidence, for one image tells less of what a category is not."""
_INSIDE = 0.6
"""The share of a patch that a region has to cover; less where no patch has as much."""
_ALIKE = 0.5
"""Cosine, less what the image has in common, from which patches around a point belong to it."""
_WEIGHTS = WEIGHT * 2.0 ** np.arange(-3, 6.1, 0.5)
_SHARPNESS = np.array([0.03, 0.06, 0.125, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5])
_TINY = 1e-6


class Shown(NamedTuple):
    """What a model sees of one example image, on the patches that the image covers.

    Attributes:
        tokens: (rows, cols, C), see `evidence.tokens_of`.
        patches: (rows, cols, D) unit embeddings in the space of words.
        span: (y, x), how many patches the image covers; the last ones may count in part.
        size: (H, W) of the image in pixels.
    """

    tokens: Array
    patches: Array
    span: tuple[float, float]
    size: tuple[int, int]

    @classmethod
    def of(cls, arrays: Arrays) -> "Shown":
        """From what `arrays_of` gave."""
        tokens, patches = (arrays[name].astype(np.float32) for name in ("tokens", "patches"))
        span, size = arrays["span"].tolist(), arrays["size"].tolist()
        return cls(tokens, patches, (span[0], span[1]), (size[0], size[1]))


class _Region(NamedTuple):
    """One example on its image's patches."""

    category: int  # Its class index.
    image: int  # Which of the images.
    inside: NDArray[np.bool_]  # (n,), the image's patches that show it.
    negative: bool  # They show what the category is not.


class _Category(NamedTuple):
    """The patches that show one category, in all images."""

    row: int  # Its class index.
    tokens: Array  # (n, C)
    image: NDArray[np.intp]  # (n,) where each comes from.
    region: NDArray[np.intp]  # (n,)
    cluster: NDArray[np.intp]  # (n,)

    def prototypes(self, without: int | None = None) -> Array:
        """(p, C) the means of the clusters, drawn to the mean of the regions; p = 0 if no image is left."""
        kept = self.image != without
        if not kept.any():
            return self.tokens[:0]
        tokens = self.tokens[kept]
        mean = _group_means(tokens, self.region[kept]).mean(axis=0)
        drawn: Array = TO_MEAN * mean + (1 - TO_MEAN) * _group_means(tokens, self.cluster[kept])
        return drawn


class _Discriminant(NamedTuple):
    """The Gaussian of all that the examples' images show."""

    mean: Array  # (C,)
    precision: Array  # (C, C)

    def weights(self, prototypes: Array) -> tuple[Array, Array]:
        """(C, P) and (P,): see `Prototypes`."""
        weights = self.precision @ (prototypes - self.mean).T
        biases = -0.5 * np.einsum("pc,cp->p", prototypes + self.mean, weights)
        return weights.astype(np.float32), biases.astype(np.float32)


def arrays_of(features: Features, size: tuple[int, int]) -> Arrays:
    """What `Shown.of` needs of an image of `size` (H, W), in half precision and to be kept in a file."""
    rows, cols = features.patch_tokens.shape[:2]
    return {
        "tokens": crop(tokens_of(features), features.valid).astype(np.float16),
        "patches": crop(features.patch_tokens, features.valid).astype(np.float16),
        "span": np.array([rows * features.valid[0], cols * features.valid[1]]),
        "size": np.array(size),
    }


def teach(
    words: WordEmbeddings,
    see: Callable[[Example], Shown],
    logit_scale: float,
    temperature: float = 1.0,
) -> WordEmbeddings:
    """The same words with what their categories' examples teach; unchanged where there are no examples.

    Args:
        words: K categories and N negative words.
        see: what the model sees of an example's image.
        logit_scale: what cosines are multiplied with.
        temperature: what logits are divided by.

    Raises:
        VocabularyError: an example's image, mask, box or points cannot be used; the message names the
            category.
    """
    images: dict[object, Shown] = {}
    regions: list[_Region] = []
    for row, category in enumerate(words.vocabulary.categories):
        for example in category.examples:
            try:
                if example.image not in images:
                    images[example.image] = see(example)
                inside = _patches_inside(example, images[example.image]).reshape(-1)
            except VocabularyError as error:
                raise VocabularyError(f"'{category.name}': {error}") from error
            regions.append(_Region(row, list(images).index(example.image), inside, example.negative))
    if not regions:
        return words
    tokens = [_flat(shown.tokens) for shown in images.values()]
    patches = [_flat(shown.patches) for shown in images.values()]
    wordless = np.array([category.examples_only for category in words.vocabulary.categories])
    embeddings = words.embeddings.copy()
    for row in np.flatnonzero(wordless).tolist():
        mean = _join(patches, [r for r in regions if r.category == row and not r.negative])[0].mean(axis=0)
        embeddings[row] = mean / max(float(np.linalg.norm(mean)), _TINY)
    everything = np.concatenate(tokens)
    discriminant = _discriminant(everything)
    categories = [
        _category(row, tokens, [r for r in regions if r.category == row and not r.negative])
        for row in sorted({r.category for r in regions})
    ]
    negative = [r for r in regions if r.negative]
    plain = _prototypes(discriminant, categories, negative, tokens, wordless)
    logits = [one @ (embeddings * np.float32(logit_scale)).T for one in patches]
    taught = _weighted(plain, discriminant, categories, tokens, logits, regions, len(wordless), temperature)
    return replace(words, embeddings=embeddings, prototypes=taught)


def _flat(grid: Array) -> Array:
    return grid.reshape(-1, grid.shape[-1])


def _group_means(rows: Array, group: NDArray[np.intp]) -> Array:
    """The mean of the rows (n, C) of each group that occurs."""
    _, member, count = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), rows.shape[1]), np.float32)
    np.add.at(sums, member, rows)
    sums /= count[:, None]
    return sums


def _join(grids: Sequence[Array], regions: Sequence[_Region]) -> tuple[Array, NDArray[np.intp]]:
    """The rows (n, C) inside regions, and (n,) which of the regions each is from."""
    rows = [grids[region.image][region.inside] for region in regions]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows])


def _discriminant(everything: Array) -> _Discriminant:
    mean = everything.mean(axis=0)
    centred = everything - mean
    covariance = centred.T @ centred / len(everything)
    spread = max(float(np.trace(covariance)) / len(covariance), _TINY)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * spread * np.eye(len(covariance), dtype=np.float32)
    return _Discriminant(mean, np.linalg.inv(shrunk).astype(np.float32))


def _category(row: int, tokens: Sequence[Array], regions: Sequence[_Region]) -> _Category:
    inside, region = _join(tokens, regions)
    image = np.array([r.image for r in regions])[region]
    cluster = np.zeros(len(inside), np.intp)
    if len(inside) > CLUSTERS:
        cv2.setRNGSeed(0)  # So that the same examples always teach the same.
        stop = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_MAX_ITER, 20, 1e-4)
        labels = cv2.kmeans(inside, CLUSTERS, None, stop, 2, cv2.KMEANS_PP_CENTERS)[1]
        cluster = labels.reshape(-1).astype(np.intp)
    return _Category(row, inside, image, region, cluster)


def _prototypes(
    discriminant: _Discriminant,
    categories: Sequence[_Category],
    negative: Sequence[_Region],
    tokens: Sequence[Array],
    wordless: NDArray[np.bool_],
    without: int | None = None,
) -> Prototypes:
    """Prototypes of weight 1; `without` leaves out what one image shows of the categories."""
    means = [category.prototypes(without) for category in categories]
    kept = [place for place, mean in enumerate(means) if len(mean)]
    means = [means[place] for place in kept]
    classes = np.array([categories[place].row for place in kept], np.intp)
    starts = np.cumsum([0, *map(len, means)])[:-1]
    negative = sorted((r for r in negative if r.category in classes), key=lambda region: region.category)
    negative_classes, first = np.unique([r.category for r in negative], return_index=True)
    total = sum(map(len, means))
    means += [tokens[r.image][r.inside].mean(axis=0, keepdims=True) for r in negative]
    weights, biases = discriminant.weights(np.concatenate(means))
    return Prototypes(
        weights,
        biases,
        starts.astype(np.intp),
        classes,
        (first + total).astype(np.intp),
        np.searchsorted(classes, negative_classes).astype(np.intp),
        wordless[classes],
    )


def _weighted(
    plain: Prototypes,
    discriminant: _Discriminant,
    categories: Sequence[_Category],
    tokens: Sequence[Array],
    logits: Sequence[Array],
    regions: Sequence[_Region],
    count: int,
    temperature: float,
) -> Prototypes:
    """Prototypes with the weight and sharpness that fit the regions best, each without its own image.

    The likelihood is that of a region's name inside of it, and of any other name outside. For the weight each
    region counts as one, for the sharpness each patch inside: confidence is to hold for pixels. Sharpness
    stays 1 unless all categories were taught, for it changes the others' confidence too.
    """
    images_of = {category.row: np.unique(category.image) for category in categories}
    tried = [r for r in regions if not r.negative and len(images_of[r.category]) > 1]
    wordless = np.zeros(count, bool)
    wordless[plain.classes] = plain.wordless
    if not tried:
        found = [_found(logits[r.image], r, wordless[r.category]) for r in regions if not r.negative]
        missed = 1 - np.mean(found)
        return replace(plain, weight=float(LEAST_WEIGHT + MORE_WEIGHT * missed**2), floor=FLOOR)
    negative = [r for r in regions if r.negative]
    sharpness = _SHARPNESS if len(categories) == count else np.ones(1)
    by_region = np.zeros((len(_WEIGHTS), len(sharpness)))
    by_patch = np.zeros_like(by_region)
    for image in sorted({r.image for r in tried}):
        others = _prototypes(discriminant, categories, negative, tokens, wordless, image)
        evidence = others.evidence(tokens[image])  # (n, t)
        for at, weight in enumerate(_WEIGHTS):
            fused = logits[image].copy()  # (n, K + N)
            fuse(fused, evidence * np.float32(weight), others.classes, others.wordless)
            fused -= fused.max(axis=1, keepdims=True)
            for column, sharp in enumerate(sharpness):
                shares = np.exp(fused * np.float32(sharp / temperature))
                shares /= shares.sum(axis=1, keepdims=True)
                shares = shares.clip(_TINY, 1 - _TINY)
                for r in tried:
                    if r.image == image:
                        share = shares[:, r.category]
                        inside = np.log(share[r.inside])
                        by_patch[at, column] += inside.sum()
                        by_region[at, column] += inside.mean()
                        if not r.inside.all():
                            by_region[at, column] += np.log(1 - share[~r.inside]).mean()
    by_region -= 0.5 * np.log2(_WEIGHTS / WEIGHT)[:, None] ** 2 / 4
    best = np.unravel_index(by_region.argmax(), by_region.shape)[0]
    return replace(plain, weight=float(_WEIGHTS[best]), sharpness=float(sharpness[by_patch[best].argmax()]))


def _found(logits: Array, region: _Region, wordless: bool) -> float:
    """The share of a region's patches that its word wins, of the logits (n, K + N) of its image."""
    return 0.0 if wordless else float((logits[region.inside].argmax(axis=1) == region.category).mean())


def _patches_inside(example: Example, shown: Shown) -> NDArray[np.bool_]:
    """(rows, cols) bool, the patches that an example shows: at least one."""
    height, width = shown.size
    rows, cols = shown.tokens.shape[:2]
    region = example.region(height, width)
    down, across = (
        np.minimum((np.arange(length) + 0.5) * (span / length), last - 1).astype(np.intp)
        for length, span, last in zip(shown.size, shown.span, (rows, cols), strict=True)
    )
    if example.points:
        return _alike(shown.tokens, [(down[y], across[x]) for x, y in example.points])
    cells = (down[:, None] * cols + across).ravel()
    pixels = np.bincount(cells, minlength=rows * cols)
    share = np.bincount(cells, region.ravel(), rows * cols) / np.maximum(pixels, 1)
    return (share >= min(_INSIDE, float(share.max()))).reshape(rows, cols)


def _alike(tokens: Array, places: Iterable[tuple[int, int]]) -> NDArray[np.bool_]:
    """(rows, cols) bool: some patches, and those around them that look like them."""
    centred = tokens - tokens.mean(axis=(0, 1))
    centred /= np.maximum(np.linalg.norm(centred, axis=-1, keepdims=True), _TINY)
    inside = np.zeros(tokens.shape[:2], bool)
    for row, col in places:
        alike = (centred @ centred[row, col] >= _ALIKE).astype(np.uint8)
        alike[row, col] = 1
        _, parts = cv2.connectedComponents(alike, connectivity=4)
        inside |= parts == parts[row, col]
    return inside
