"""The text cleaning of CLIP's tokenizers, with the standard library only, and what a tokenizer can read."""

import html
import re
import string
import unicodedata
from collections.abc import Callable
from typing import Any

from ovs_ros.vocabulary.text_encoder import is_latin

# What the package ftfy, which open_clip cleans with, does to text that is not garbled.
_CHARACTERS = str.maketrans(
    {
        **dict.fromkeys("\u02bc\u2018\u2019\u201a\u201b", "'"),
        **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),
        **{chr(code): unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))},
        "ŉ": "'n",
        **{letter: unicodedata.normalize("NFKC", letter) for letter in "ĲĳǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬅﬆ"},
        **dict.fromkeys(
            (
                *range(0x00, 0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF,
                *range(0xFFF9, 0xFFFD),
            )
        ),
    }
)  # fmt: skip
_ESCAPES = re.compile("\033\\[((?:\\d|;)*)([a-zA-Z])")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def _plain(text: str) -> str:
    text = _ESCAPES.sub("", html.unescape(html.unescape(text)))
    return " ".join(unicodedata.normalize("NFC", text.translate(_CHARACTERS)).split())


def _lower(text: str) -> str:
    return _plain(text).lower()


def _canonical(text: str) -> str:
    return " ".join(_plain(text).replace("_", " ").translate(_PUNCTUATION).lower().split())


CLEANERS: dict[str, Callable[[str], str]] = {
    "lower": _lower,
    "canonicalize": _canonical,
    "whitespace": _plain,
}
"""By open_clip's names. All resolve HTML's entities, straighten quotes and make white space single blanks;
'lower' then writes small letters, 'canonicalize' drops punctuation too. Garbled text (UTF-8 that was read as
another encoding), which open_clip repairs, is left as it is."""


def reads(tokenizer: Any, text: str) -> bool:
    """Whether a tokenizer of the package tokenizers knows some of a text.

    One without a token for the unknown, such as CLIP's, cuts other scripts into bytes. The encoders that use
    such tokenizers know English alone.
    """
    unknown = {token for token in ("[UNK]", "<unk>") if tokenizer.token_to_id(token) is not None}
    if not unknown:
        return is_latin(text)
    encoded = tokenizer.encode(text, add_special_tokens=False)
    tokens = {t for t, there in zip(encoded.tokens, encoded.attention_mask, strict=True) if there}
    return not tokens <= unknown
