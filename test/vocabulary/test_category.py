"""What a category may be, and the colour that its name gives it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovs_ros.vocabulary.category import (
    MAX_IDS,
    MAX_NAME_LENGTH,
    MAX_PROMPT_LENGTH,
    MAX_PROMPTS,
    Category,
    CategorySpec,
    VocabularyError,
    name_key,
)

FILLERS = "\u115f\u1160\u3164\uffa0"  # Letters by their category that nobody sees.
LETTERS = st.characters(categories=["L", "Nd", "Zs", "Pd"], exclude_characters=FILLERS)
NAMES = st.text(alphabet=LETTERS, max_size=40).filter(lambda text: any(c.isalnum() for c in text))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": ""}, "a letter or a digit"),
        ({"name": " \t\n"}, "a letter or a digit"),
        ({"name": "---"}, "a letter or a digit"),
        ({"name": 7}, "as text, got 7"),
        ({"name": None}, "as text, got None"),
        ({"name": "x" * (MAX_NAME_LENGTH + 1)}, "at most 100 characters, got 101"),
        ({"name": "cha\x07ir"}, "without control characters"),
        ({"name": "chair\udc80"}, "without control characters"),
        ({"name": "chair", "prompts": "a chair"}, "a list of prompts for 'chair'"),
        ({"name": "chair", "prompts": None}, "a list of prompts for 'chair'"),
        ({"name": "chair", "prompts": ("",)}, "a prompt for 'chair' with a letter"),
        ({"name": "chair", "prompts": (3,)}, "a prompt for 'chair' as text, got 3"),
        ({"name": "chair", "prompts": ("a\x00chair",)}, "a prompt for 'chair' without control characters"),
        ({"name": "chair", "prompts": ("x" * (MAX_PROMPT_LENGTH + 1),)}, "at most 300 characters"),
        ({"name": "chair", "prompts": ("a {}",) * (MAX_PROMPTS + 1)}, "at most 100 prompts"),
        ({"name": "chair", "synonyms": "seat"}, "a list of synonyms for 'chair'"),
        ({"name": "chair", "synonyms": ("Chair",)}, "each name and synonym once"),
        ({"name": "chair", "synonyms": ("",)}, "a synonym of 'chair' with a letter or a digit"),
        ({"name": "chair", "synonyms": tuple("abcdefghijklmnopqrstu")}, "at most 20 synonyms"),
        ({"name": "chair", "threshold": 1.01}, "from 0 to 1 for 'chair', got 1.01"),
        ({"name": "chair", "threshold": -0.1}, "from 0 to 1"),
        ({"name": "chair", "threshold": float("nan")}, "from 0 to 1"),
        ({"name": "chair", "threshold": True}, "from 0 to 1"),
        ({"name": "chair", "threshold": "0.5"}, "from 0 to 1"),
    ],
)
def test_refuses_what_cannot_be(fields: dict, message: str) -> None:
    with pytest.raises(VocabularyError, match=message):
        CategorySpec(**fields)
    with pytest.raises(VocabularyError, match=message):
        Category(id=0, **fields)


@pytest.mark.parametrize("number", [-1, MAX_IDS])
def test_refuses_ids_out_of_range(number: int) -> None:
    with pytest.raises(VocabularyError, match="id from 0 to 65534"):
        Category("chair", id=number)


def test_tidies_blanks_and_types() -> None:
    spec = CategorySpec("  office \n chair ", ["a  {}\tat a desk"], np.float32(0.5))  # type: ignore[arg-type]
    assert spec == CategorySpec("office chair", ("a {} at a desk",), 0.5)
    assert isinstance(spec.threshold, float)


@pytest.mark.parametrize("threshold", [0, 1, 0.25])
def test_takes_the_whole_range_of_thresholds(threshold: float) -> None:
    assert CategorySpec("chair", threshold=threshold).threshold == threshold


@given(NAMES)
def test_key_ignores_case_and_blanks(name: str) -> None:
    assert name_key(f"  {name} ") == name_key(name)
    assert name_key(CategorySpec(name).name) == name_key(name)


def test_key_joins_composed_and_decomposed_letters() -> None:
    assert name_key("Bu\u0308ro  stuhl") == name_key("b\u00fcro STUHL")
    assert name_key("chair") != name_key("chairs")


@given(NAMES)
def test_colors_are_vivid(name: str) -> None:
    color = Category(name, id=0).color
    assert all(0 <= channel <= 255 for channel in color)
    assert max(color) >= 165
    assert max(color) - min(color) >= 90


def test_color_belongs_to_the_name_alone() -> None:
    assert Category("chair", id=0).color == Category(" Chair ", ("a {}",), 0.5, id=7).color == (72, 232, 248)


def test_colors_are_spread() -> None:
    colors = np.array([Category(f"name {i}", id=0).color for i in range(600)], float)
    hues = np.arctan2(
        np.sqrt(3) * (colors[:, 1] - colors[:, 2]), 2 * colors[:, 0] - colors[:, 1] - colors[:, 2]
    )
    counts, _ = np.histogram(hues, bins=12, range=(-np.pi, np.pi))
    assert counts.min() >= 25  # 50 each, if they were spread evenly
    assert len(np.unique(colors, axis=0)) >= 590
