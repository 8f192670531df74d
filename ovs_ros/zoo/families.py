"""Which family of torch models a model file means."""

from collections.abc import Callable
from dataclasses import dataclass

from ovs_ros.encoders.clip.dense_model import DenseModel
from ovs_ros.encoders.clip.open_clip_models import load_open_clip
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.vocabulary.set_names import set_names
from ovs_ros.zoo.cat_seg import build_cat_seg, load_cat_seg
from ovs_ros.zoo.cat_seg_windows import as_tested
from ovs_ros.zoo.coarse_to_fine.model import load_coarse_to_fine
from ovs_ros.zoo.radio import load_radio
from ovs_ros.zoo.san import build_san, load_san
from ovs_ros.zoo.sed import build_sed, load_sed


@dataclass(frozen=True)
class Family:
    """Models of one kind.

    Attributes:
        load: opens the model of a model file with its weights.
        build: makes its networks without values; None where their shape is read off the weights.
        source: where the weights are offered.
        trained_on: the set whose names the published weights were trained on; '': they have none.
    """

    load: Callable[[ModelFile], DenseModel]
    build: Callable[[ModelFile], DenseModel] | None
    source: str
    trained_on: str = ""


_CAT_SEG = Family(
    lambda file: as_tested(load_cat_seg(file), file),
    lambda file: as_tested(build_cat_seg(file.model), file),
    "https://huggingface.co/spaces/hamacojr/CAT-Seg-weights",
    "coco-stuff",
)
_SED = Family(load_sed, lambda file: build_sed(file.model), "https://github.com/xb534/SED", "coco-stuff")
_SAN = Family(
    load_san, lambda file: build_san(file.model), "https://huggingface.co/Mendel192/san", "coco-stuff"
)
FAMILIES = {
    "cat-seg-b": _CAT_SEG,
    "cat-seg-l": _CAT_SEG,
    "sed-b": _SED,
    "sed-l": _SED,
    "san-b": _SAN,
    "san-l": _SAN,
    "radio": Family(load_radio, None, "https://huggingface.co/nvidia/C-RADIOv3-B"),
}
"""Models with a loader of their own; every other name is an architecture of open_clip."""


def load_dense_model(file: ModelFile) -> DenseModel:
    """Build the model that a file describes and fill it with its weights.

    Raises:
        ValueError: no such model, or weights that do not fit it.
        FileNotFoundError: weights are missing; the message says how to get them.
        ModuleNotFoundError: open_clip is not installed.
    """
    if file.tuned and not file.network:
        raise ValueError("expected tuned beside the network that it was trained with, got it alone")
    if file.network:
        if file.model in FAMILIES:
            raise ValueError(
                f"expected network beside a ViT of open_clip, got it beside {file.model}; leave it out"
            )
        return load_coarse_to_fine(file)
    family = FAMILIES.get(file.model)
    if family is None:
        return load_open_clip(file)
    model = family.load(file)
    if family.trained_on:
        model.trained_names = set_names(family.trained_on)
    return model
