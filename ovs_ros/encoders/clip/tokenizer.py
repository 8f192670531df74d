"""Tokenizers of open_clip's models; those of the hub are read from tokenizer.json as it is written.

All can be exported as data, which the package `tokenizers` reads where torch and open_clip are not installed.

open_clip's own HFTokenizer needs the package transformers, whose version 5 builds a tokenizer anew from the
name of its class: Gemma's, which SigLIP 2 uses, then pads on the left, which gives other embeddings.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from torch import Tensor

from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.text_cleaning import CLEANERS
from ovs_ros.encoders.tokenizer_file import read_tokenizer

_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
"""How CLIP cuts a text into words (Radford et al. 2021); special tokens are cut out before."""


def open_tokenizer(model: str, folder: Path | None = None) -> Any:
    """The tokenizer of an architecture of open_clip: a list of T texts gives ids, (T, context length) int64.

    Args:
        model: its name.
        folder: with tokenizer.json and tokenizer_config.json; None for models with CLIP's own tokenizer.

    Raises:
        FileNotFoundError, ValueError: see `HubTokenizer`.
    """
    open_clip = import_open_clip()
    text = open_clip.get_model_config(model)["text_cfg"]
    if folder is not None:
        return HubTokenizer(folder, text)
    length = text.get("context_length", 77)
    return open_clip.SimpleTokenizer(context_length=length, **text.get("tokenizer_kwargs", {}))


class HubTokenizer:
    """Does what open_clip's HFTokenizer does: clean, tokenize, cut and pad to the context's length.

    Attributes:
        tokenizer: cuts a text up, and cuts and pads the ids.
        clean: what a text goes through before.

    Args:
        folder: with tokenizer.json and tokenizer_config.json, as in a repository of the hub.
        text: open_clip's `text_cfg` of the model.

    Raises:
        FileNotFoundError: the folder lacks a file.
        ValueError: the files do not name the padding, or the model asks for more than cleaning and padding.
    """

    def __init__(self, folder: Path, text: dict[str, Any]) -> None:
        options = dict(text.get("tokenizer_kwargs", {}))
        clean, without_separator = options.pop("clean", "whitespace"), options.pop("strip_sep_token", False)
        if options or text.get("tokenizer_mode"):
            raise ValueError(
                f"expected a tokenizer that only cleans and pads, got {text['hf_tokenizer_name']} with "
                f"{options or text['tokenizer_mode']}; take another architecture"
            )
        for name in ("tokenizer.json", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise FileNotFoundError(
                    f"expected {name} in {folder}, and it is missing; copy it from the repository"
                    f" {text['hf_tokenizer_name']}"
                )
        config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
        padding = config.get("pad_token", "[PAD]" if without_separator else None)  # BERT's names no default
        padding = padding.get("content") if isinstance(padding, dict) else padding
        self.tokenizer = read_tokenizer(folder / "tokenizer.json")
        number = self.tokenizer.token_to_id(padding) if padding else None
        if number is None:
            raise ValueError(
                f"expected the padding token in {folder / 'tokenizer_config.json'}, got {padding!r}"
            )
        if without_separator:
            # open_clip puts the id 0 in the separator's place, which is what BERT pads with.
            ends = [(token, self.tokenizer.token_to_id(token)) for token in ("[CLS]", "[PAD]")]
            self.tokenizer.post_processor = TemplateProcessing("[CLS] $A [PAD]", special_tokens=ends)
        length = text["context_length"]
        self.tokenizer.enable_truncation(length)
        self.tokenizer.enable_padding(length=length, pad_id=number, pad_token=padding)
        self.clean = import_open_clip().tokenizer.get_clean_fn(clean)

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Token ids, (len(texts), context length) int64."""
        encoded = self.tokenizer.encode_batch([self.clean(text) for text in texts])
        return torch.tensor([one.ids for one in encoded])


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
    tokenizer.post_processor = TemplateProcessing(
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
