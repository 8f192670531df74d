"""From words to embeddings: prompts around each name, averaged in the space of the text encoder.

Averaging over prompt templates is the prompt ensembling of Radford et al., "Learning Transferable Visual
Models From Natural Language Supervision", ICML 2021, section 3.1.4.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.protocols import TextEncoder
from ovs_ros.vocabulary.cache import EmbeddingCache, content_key
from ovs_ros.vocabulary.embedded import EmbeddedVocabulary
from ovs_ros.vocabulary.vocabulary import Vocabulary, VocabularyError

WORDS_A_BATCH = 64


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
) -> EmbeddedVocabulary:
    """Embed a vocabulary's K categories and N negative words.

    Each word's embedding is the mean of its texts' unit embeddings, brought back to unit norm. What the cache
    holds is taken from there; the rest is encoded in batches and given to the cache batch by batch.

    Args:
        vocabulary: the words.
        text_encoder: embeds texts into unit vectors.
        cache: where embeddings are looked up and kept; None: every word is encoded.
        progress: called after each batch with how many words are done and how many there are.

    Raises:
        VocabularyError: a category's prompts cancel each other out.
    """
    words = [(c.name, c.prompts) for c in vocabulary.categories] + [(w, ()) for w in vocabulary.negatives]
    texts = [texts_for(name, prompts, text_encoder.templates) for name, prompts in words]
    keys = [content_key(text_encoder.name, t) for t in texts]

    known = cache.get(keys, text_encoder.dim) if cache else {}
    missing = [i for i, key in enumerate(keys) if key not in known]
    for start in range(0, len(missing), WORDS_A_BATCH):
        part = missing[start : start + WORDS_A_BATCH]
        vectors = _mean_embeddings([texts[i] for i in part], text_encoder)
        for i, vector in zip(part, vectors, strict=True):
            if not np.isfinite(vector).all():
                raise VocabularyError(
                    f"expected prompts for '{words[i][0]}' that mean something together, got "
                    f"{list(texts[i])}, whose embeddings cancel each other out; use fewer prompts"
                )
        fresh = {keys[i]: vector for i, vector in zip(part, vectors, strict=True)}
        if cache:
            cache.put(fresh)
        known.update(fresh)
        if progress:
            progress(len(words) - len(missing) + start + len(part), len(words))
    return EmbeddedVocabulary(vocabulary, np.stack([known[key] for key in keys]))


def _mean_embeddings(texts: Sequence[Sequence[str]], text_encoder: TextEncoder) -> NDArray[np.float32]:
    """(len(texts), D) float32 unit rows, one for each group of texts; NaN where a group cancels out."""
    encoded = text_encoder.encode([text for group in texts for text in group])  # (sum of groups, D)
    starts = np.cumsum([0] + [len(group) for group in texts[:-1]])
    sums = np.add.reduceat(encoded, starts, axis=0)  # (len(texts), D)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.divide(sums, norms, out=np.full_like(sums, np.nan), where=norms > 1e-6)
