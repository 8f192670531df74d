"""open_clip's tokenizers as data, which the package `tokenizers` reads where torch and open_clip are not."""

from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.tokenizer import HubTokenizer
from ovs_ros.encoders.text_cleaning import CLEANERS

_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP cuts a text into words (Radford et al. 2021); special tokens are cut out before."""


def export_tokenizer(tokenizer: Any) -> tuple[Tokenizer, str]:
    """A tokenizer that gives the same ids for cleaned text, cut and padded to the context's length.

    Args:
        tokenizer: open_clip's SimpleTokenizer, or a `HubTokenizer`.

    Returns:
        The tokenizer, and which of `CLEANERS` goes before it.

    Raises:
        ValueError: it is of another kind.
    """
    open_clip = import_open_clip()
    if isinstance(tokenizer, HubTokenizer):
        return tokenizer.tokenizer, _cleaning(tokenizer.clean)
    if type(tokenizer) is open_clip.SimpleTokenizer and tokenizer.reduction_fn is None:
        return _byte_pairs(tokenizer), _cleaning(tokenizer.clean_fn)
    raise ValueError(
        f"expected CLIP's own tokenizer, or one of the hub, got {type(tokenizer).__name__}; run this model "
        "with torch"
    )


def _byte_pairs(simple: Any) -> Tokenizer:
    """CLIP's byte pair encoding, rebuilt from the vocabulary and the merges that open_clip holds."""
    start, end = (simple.decoder[number] for number in (simple.sot_token_id, simple.eot_token_id))
    merges = sorted(simple.bpe_ranks, key=simple.bpe_ranks.__getitem__)
    tokenizer = Tokenizer(models.BPE(vocab=simple.encoder, merges=merges, end_of_word_suffix="</w>"))
    tokenizer.add_special_tokens([AddedToken(token, special=True) for token in (start, end)])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(start, simple.sot_token_id), (end, simple.eot_token_id)],
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.enable_truncation(simple.context_length)
    # CLIP pads with zeros, which is the id of '!': the tower reads only up to the end token.
    tokenizer.enable_padding(length=simple.context_length, pad_id=0, pad_token=simple.decoder[0])
    return tokenizer


def _cleaning(function: Any) -> str:
    known = import_open_clip().tokenizer.get_clean_fn
    for name in CLEANERS:
        if function is known(name):
            return name
    raise ValueError(
        f"expected a tokenizer that cleans in one of the ways {', '.join(CLEANERS)}, got {function}"
    )
