"""How the segmenter decides, apart from the encoders and the words."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

Suppression = Literal["multiplicative", "redundancy", "none"]
"""How a category that dominates the image is held back when patches vote (see selection.py)."""

Rule = Literal["dcp", "top_n"]
"""Which categories are selected (see selection.py)."""
Validation = Literal["off", "relabel", "reject"]
"""What happens to regions whose features do not bear their name out (see tag_validation.py)."""
Refinement = Literal["none", "propagation", "pamr", "guided"]
"""How logits are refined by what image and patches show (see refinement/)."""
Region = Literal["component", "class"]
"""What a region is: each connected part of a category, or all of a category's pixels."""

SUPPRESSIONS: tuple[str, ...] = get_args(Suppression)
RULES: tuple[str, ...] = get_args(Rule)
REFINEMENTS: tuple[str, ...] = get_args(Refinement)
VALIDATIONS: tuple[str, ...] = get_args(Validation)
REGIONS: tuple[str, ...] = get_args(Region)


@dataclass(frozen=True)
class SegmenterOptions:
    """Settings that can change between two frames.

    Attributes:
        select: choose for every frame the few categories that it can hold; False: decide among all of them.
        refine: let the trained network refine the cosines (docs/research/ablations.md has its figures).
        refinement: what image and patches do to the logits, untrained: 'none', 'propagation' (patches that
            look alike agree), 'pamr' (neighbours of like colour agree) or 'guided' (edges follow colour).
        rule: 'dcp': patches elect the category that they fit best, and the image those above `theta`;
            'top_n': each patch elects its `top_n` best categories.
        top_n: how many categories, at least 1, a patch elects; counts with the rule 'top_n' alone.
        suppression: how a category that dominates the image is held back when patches vote.
        theta: image probability in [0, 1] above which a category is selected whatever the patches say.
        max_categories: how many categories, at least 1, a frame is decided among at most.
        shortlist: how many categories, at least 1, take part in the selection; more are screened beforehand.
        threshold: probability in [0, 1] below which a pixel is unknown, for categories without their own.
        temperature: above 0; divides the logits that confidences come from: the higher, the less sure. 1 is
            calibrated, as the model ships. It changes no pixel's best word, and selection does not see it.
        validation: what happens to regions whose features do not bear their name out: 'off': nothing;
            'relabel': they get the best name for their features; 'reject': they become unknown.
        validation_top_k: a region keeps its name if it is among this many best ones, at least 1.
        validation_region: 'component': each connected part of a category is a region; 'class': all of it is.
        validate_seen: check regions of names too that the model was trained with; DCP-CLIP spares them.

    Raises:
        TypeError: a field is of another type.
        ValueError: a field is out of its range.
    """

    select: bool = True
    refine: bool = True
    refinement: Refinement = "none"
    rule: Rule = "dcp"
    top_n: int = 1
    suppression: Suppression = "multiplicative"
    theta: float = 0.5
    max_categories: int = 32
    shortlist: int = 192
    threshold: float = 0.0
    temperature: float = 1.0
    validation: Validation = "off"
    validation_top_k: int = 5
    validation_region: Region = "component"
    validate_seen: bool = False

    def __post_init__(self) -> None:
        for name in ("select", "refine", "validate_seen"):
            if not isinstance(getattr(self, name), bool):
                raise TypeError(f"expected {name} to be True or False, got {getattr(self, name)!r}")
        _check_choice("suppression", self.suppression, SUPPRESSIONS)
        _check_choice("refinement", self.refinement, REFINEMENTS)
        _check_choice("rule", self.rule, RULES)
        _check_choice("validation", self.validation, VALIDATIONS)
        _check_choice("validation_region", self.validation_region, REGIONS)
        _check_number("theta", self.theta, 0.0, 1.0)
        _check_number("threshold", self.threshold, 0.0, 1.0)
        _check_number("temperature", self.temperature, 1e-3, 1e3)
        _check_count("max_categories", self.max_categories)
        _check_count("shortlist", self.shortlist)
        _check_count("top_n", self.top_n)
        _check_count("validation_top_k", self.validation_top_k)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"expected {name} to be a number, got {value!r}")
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"expected {name} from {low:g} to {high:g}, got {value!r}")


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"expected {name} to be a whole number, got {value!r}")
    if value < 1:
        raise ValueError(f"expected {name} to be at least 1, got {value}")
