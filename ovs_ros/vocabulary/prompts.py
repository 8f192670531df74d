"""From words to embeddings: prompts around each name, averaged in the space of the text encoder.

Averaging over prompt templates is the prompt ensembling of Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", ICML 2021, section 3.1.4. Prompts with attributes are LMSeg's
(arXiv 2412.00364).
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.runtime.finite import require_finite
from ovs_ros.runtime.quoting import quoted_list
from ovs_ros.vocabulary.attributes import Attributes
from ovs_ros.vocabulary.cache import EmbeddingCache, content_key
from ovs_ros.vocabulary.generic_negatives import GENERIC, apart, without
from ovs_ros.vocabulary.knowledge import Knowledge
from ovs_ros.vocabulary.text_encoder import TextEncoder
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError
from ovs_ros.vocabulary.word_embeddings import WordEmbeddings

WORDS_A_BATCH = 64
TEXTS_A_BATCH = 512
"""The same where each word's prompts are kept apart: about so many texts."""
MOST_PROMPTS_BYTES = 512 << 20
"""How much memory the prompts of a vocabulary may take. The cache's copy takes twice as much again."""
LEAST_NORM = 1e-6
"""Of a sum of unit embeddings that is still worth bringing back to unit norm."""


def texts_for(name: str, prompts: Sequence[str], templates: Sequence[str]) -> tuple[str, ...]:
    """The texts whose embeddings a name's embedding averages: at least one.

    Args:
        name: takes the place of every '{}'.
        prompts: the category's own; where there are none, the templates count.
        templates: the text encoder's; where there are none either, the name stands alone.
    """
    return tuple(text.replace("{}", name) for text in prompts or templates or ("{}",))


def embed(
    vocabulary: Vocabulary,
    text_encoder: TextEncoder,
    cache: EmbeddingCache | None = None,
    progress: Callable[[int, int], None] | None = None,
    attributes: Attributes | None = None,
    knowledge: Knowledge = Knowledge(),  # noqa: B008  # frozen
    negatives: Sequence[str] = (),
) -> WordEmbeddings:
    """Embed a vocabulary's K categories and N negative words.

    Each word's embedding is the mean of its texts' unit embeddings, brought back to unit norm. What the cache
    holds is taken from there; the rest is encoded in batches and given to the cache batch by batch.

    For a text encoder that keeps prompts, each word's P texts are embedded apart too, one for each template;
    a category's own prompts take turns until they are P. Each is the mean over the category's name and
    its synonyms.

    Args:
        vocabulary: the words.
        text_encoder: embeds texts into unit vectors.
        cache: where embeddings are looked up and kept; None: every word is encoded.
        progress: called after each batch with how many words are done and how many there are.
        attributes: mixed into the words without prompts of their own; None: names alone count.
        knowledge: what the model knows of words; a rare word takes the mean with what it is a kind of.
        negatives: generic negative words for a vocabulary without negative words; those that are near to one
            of its categories are left out.

    Raises:
        VocabularyError: a category's prompts cancel each other out, or there are more words than the memory
            for their prompts holds.
        NotFiniteError: the text encoder gives NaN or infinity.
    """
    kinds = knowledge.kinds_among(vocabulary.categories)
    words = [
        ((c.name, kinds[c.name]) if c.name in kinds else c.spoken, c.prompts) for c in vocabulary.categories
    ]
    spoken = [name for names, _ in words for name in names]
    generic = () if vocabulary.negatives else without(negatives, spoken)
    words += [((word,), ()) for word in vocabulary.negatives or generic]
    plain = [
        tuple(text for name in names for text in texts_for(name, prompts, text_encoder.templates))
        for names, prompts in words
    ]
    prompts = None
    if text_encoder.keeps_prompts:
        counts = [len(names) for names, _ in words]
        embeddings, prompts = _embed_apart(plain, counts, text_encoder, cache, progress)
    else:
        embeddings = _embed_groups(plain, text_encoder, cache, progress)  # (K + N, D)
    if attributes is not None:
        about = [() if prompts else attributes.texts(names[0]) for names, prompts in words]
        rows = [row for row, texts in enumerate(about) if texts]
        if rows:
            looks = _embed_groups([about[row] for row in rows], text_encoder, cache, None)  # (rows, D)
            embeddings[rows] = _mixed(embeddings[rows], looks, attributes.weight)
            if prompts is not None:
                prompts[rows] = _mixed(prompts[rows].astype(np.float32), looks[:, None], attributes.weight)
    if generic:
        unrelated = [texts_for(name, (), text_encoder.templates) for name in GENERIC]
        categories, others = np.split(embeddings, [len(vocabulary)])
        far = apart(categories, others, _embed_groups(unrelated, text_encoder, cache, None))
        generic = tuple(word for word, kept in zip(generic, far, strict=True) if kept)
        rows_kept = np.r_[np.ones(len(vocabulary), bool), far]
        embeddings = embeddings[rows_kept]
        prompts = None if prompts is None else prompts[rows_kept]
    return WordEmbeddings(vocabulary, embeddings, knowledge.labels, prompts, generic)


def _mixed(plain: NDArray[np.float32], looks: NDArray[np.float32], weight: float) -> NDArray[np.float32]:
    """Unit embeddings (…, D) with a share of others, brought back to unit norm."""
    mixed = (1 - weight) * plain + weight * looks
    return mixed / np.linalg.norm(mixed, axis=-1, keepdims=True)


def _embed_apart(
    groups: Sequence[Sequence[str]],
    names: Sequence[int],
    text_encoder: TextEncoder,
    cache: EmbeddingCache | None,
    progress: Callable[[int, int], None] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float16]]:
    """The mean of each group of texts (len(groups), D), and its texts apart (len(groups), P, D).

    Each group has as many texts of a name after those of another as `names` says; these become one.
    """
    count, dim = max(1, len(text_encoder.templates)), text_encoder.dim
    most = MOST_PROMPTS_BYTES // (2 * count * dim)
    if len(groups) > most:
        raise VocabularyError(
            f"expected at most {most} words, negatives included, for {text_encoder.name}, which keeps "
            f"{count} prompts of each in memory, got {len(groups)}; use fewer words, or a model that takes "
            "their mean"
        )
    means = np.empty((len(groups), dim), np.float32)
    prompts = np.empty((len(groups), count, dim), np.float16)
    words = max(1, TEXTS_A_BATCH // count)
    for start in range(0, len(groups), words):
        part = groups[start : start + words]
        texts = list(dict.fromkeys(text for group in part for text in group))
        vectors = _embed_groups([(text,) for text in texts], text_encoder, cache, None, len(texts))
        places = {text: place for place, text in enumerate(texts)}
        for row, group in enumerate(part, start):
            own = vectors[[places[text] for text in group]]  # (texts, D)
            means[row] = _unit(own.sum(axis=0), group)
            if names[row] > 1:
                own = own.reshape(names[row], -1, dim).sum(axis=0)  # (texts of a name, D)
                own = np.stack([_unit(total, group) for total in own])
            prompts[row] = own[np.arange(count) % len(own)]
        if progress:
            progress(start + len(part), len(groups))
    return means, prompts


def _embed_groups(
    groups: Sequence[Sequence[str]],
    text_encoder: TextEncoder,
    cache: EmbeddingCache | None,
    progress: Callable[[int, int], None] | None,
    batch: int = WORDS_A_BATCH,
) -> NDArray[np.float32]:
    """(len(groups), D) float32 unit rows, the mean of each group of texts; `batch` groups at a time."""
    keys = [content_key(text_encoder.name, texts) for texts in groups]
    known = cache.get(keys, text_encoder.dim) if cache else {}
    missing = [i for i, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), batch):
        part = missing[start : start + batch]
        encoded = text_encoder.encode([text for i in part for text in groups[i]])  # (sum of groups, D)
        require_finite(encoded, "text embeddings", text_encoder.name)
        starts = np.cumsum([0] + [len(groups[i]) for i in part[:-1]])
        sums = np.add.reduceat(encoded, starts, axis=0)  # (len(part), D)
        fresh = {keys[i]: _unit(total, groups[i]) for i, total in zip(part, sums, strict=True)}
        if cache:
            cache.put(fresh)
        known.update(fresh)
        if progress:
            progress(len(groups) - len(missing) + start + len(part), len(groups))
    return np.stack([known[key] for key in keys])


def _unit(total: NDArray[np.float32], texts: Sequence[str]) -> NDArray[np.float32]:
    """(D,) the sum of the texts' unit embeddings, brought back to unit norm."""
    norm = np.linalg.norm(total, axis=0)
    if not norm > LEAST_NORM:
        raise VocabularyError(
            f"expected texts for a word that mean something together, got {quoted_list(texts)}, whose "
            "embeddings cancel each other out; use fewer prompts"
        )
    unit: NDArray[np.float32] = total / norm
    return unit
