"""The class names of published sets, which models were trained on or are measured on."""

from functools import cache
from importlib import resources

import yaml


@cache
def set_names(name: str) -> tuple[str, ...]:
    """The class names of a set whose names come with the package, in the order of its labels."""
    text = resources.files("ovs_ros.vocabulary").joinpath("set_names.yaml").read_text(encoding="utf-8")
    return tuple(yaml.safe_load(text)[name])
