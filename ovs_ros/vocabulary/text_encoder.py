"""What a vocabulary asks of a text encoder."""

import unicodedata
from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class TextEncoder(Protocol):
    """Turns texts into embeddings."""

    name: str
    """Identifies the weights: part of the key under which embeddings are cached."""
    dim: int
    """D, the width of the space that words share with images."""
    templates: tuple[str, ...]
    """The prompt templates that suit this encoder, each with one '{}' for the name."""
    keeps_prompts: bool = False
    """Whether the model wants the embedding of each prompt of a word, beside their mean."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), D) float32, rows of unit L2 norm."""

    def reads(self, text: str) -> bool:
        """Whether the tokenizer knows some of a text; False: the embedding does not depend on the text."""


def is_latin(text: str) -> bool:
    """Whether all letters of a text are Latin ones, without which encoders for English read nothing."""
    return all(unicodedata.name(c, "").startswith("LATIN") for c in text if c.isalpha())
