"""The exported tokenizer gives the ids that open_clip's gives, text by text."""

from typing import Any

import numpy as np
import pytest
from clip_models import open_clip_or_skip
from hypothesis import assume, given, settings
from hypothesis import strategies as st

open_clip = open_clip_or_skip()

import ftfy  # noqa: E402
from tokenizers import Tokenizer  # noqa: E402

from ovs_ros.encoders.clip.tokenizer import export_tokenizer  # noqa: E402
from ovs_ros.encoders.text_cleaning import CLEANERS  # noqa: E402

ORIGINAL = open_clip.SimpleTokenizer()
EXPORTED = Tokenizer.from_str(export_tokenizer(ORIGINAL)[0].to_str())
TEXTS = (
    "a photo of a dog", "It's a DOG's life!!! 123, 4 5", "don'T we'LL they'Re", "Kühlschrank",
    "naïve café — ok…", "", "   ", " two  blanks\tand\na line ", "a\u00a0b\u2028c", "日本語 のテキスト",
    "ｆｕｌｌ　ｗｉｄｔｈ", "Σίσυφος ΣΑΣ",
    "ﬁne “quotes” ‘x’", "a &amp; b &lt;c&gt; &amp;amp;", "😀 smile 👍🏽",
    "x²½ ١٢٣", "ſ'ſ ŉ ǅ ĳ", "!?!?....;;", "İstanbul",
    "<start_of_text> hi <end_of_text>", "<START_OF_TEXT>", "x" * 300, "the quick brown fox " * 40,
    "one, " * 37 + "two", "e\u0301 combining",
)  # fmt: skip


def ids(text: str) -> list[int]:
    return EXPORTED.encode(CLEANERS["lower"](text)).ids


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_open_clips(text: str) -> None:
    assert ids(text) == ORIGINAL([text])[0].tolist()


def test_every_template_gives_open_clips_ids() -> None:
    texts = [template("night stand") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
    batch = [one.ids for one in EXPORTED.encode_batch([CLEANERS["lower"](text) for text in texts])]
    assert np.array_equal(batch, ORIGINAL(texts).numpy())


def readable(**options: Any) -> Any:
    """Texts of characters that Unicode has assigned; white space, but no other control characters."""
    kinds = st.characters(exclude_categories=("Cc", "Cn", "Co", "Cs"), **options) | st.sampled_from("\t\n\r ")
    return st.text(kinds, max_size=40)


@settings(max_examples=200, deadline=None)
@given(readable() | readable(max_codepoint=0x7F) | readable(max_codepoint=0x24F))
def test_any_text_that_is_not_garbled_gives_open_clips_ids(text: str) -> None:
    assume(ftfy.fix_encoding(text) == text)
    assert ids(text) == ORIGINAL([text])[0].tolist()


@settings(max_examples=200, deadline=None)
@given(readable(max_codepoint=0x7F), st.sampled_from(sorted(CLEANERS)))
def test_cleaning_is_open_clips(text: str, kind: str) -> None:
    assert CLEANERS[kind](text) == open_clip.tokenizer.get_clean_fn(kind)(text)


def test_the_context_length_is_the_models() -> None:
    short = open_clip.SimpleTokenizer(context_length=16)
    exported, _ = export_tokenizer(short)
    text = "a very long text about " * 5
    assert exported.encode(CLEANERS["lower"](text)).ids == short([text])[0].tolist()


def test_tokenizers_that_it_does_not_know_are_refused() -> None:
    with pytest.raises(ValueError, match="run this model with torch"):
        export_tokenizer(lambda texts: texts)
    with pytest.raises(ValueError, match="run this model with torch"):
        export_tokenizer(open_clip.SimpleTokenizer(reduction_mask="simple"))
