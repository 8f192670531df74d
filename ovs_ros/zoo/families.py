"""Which family of torch models a model file means."""

from collections.abc import Callable

from ovs_ros.encoders.clip.dense_model import DenseModel
from ovs_ros.encoders.clip.open_clip_models import load_open_clip
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.cat_seg import load_cat_seg
from ovs_ros.zoo.coarse_to_fine.model import load_coarse_to_fine
from ovs_ros.zoo.radio import load_radio
from ovs_ros.zoo.san import load_san
from ovs_ros.zoo.sed import load_sed

FAMILIES: dict[str, Callable[[ModelFile], DenseModel]] = {
    "cat-seg-b": load_cat_seg,
    "cat-seg-l": load_cat_seg,
    "sed-b": load_sed,
    "sed-l": load_sed,
    "san-b": load_san,
    "san-l": load_san,
    "radio": load_radio,
}
"""Models with a loader of their own; every other name is an architecture of open_clip."""


def load_dense_model(file: ModelFile) -> DenseModel:
    """Build the model that a file describes and fill it with its weights.

    Raises:
        ValueError: no such model, or weights that do not fit it.
        FileNotFoundError: weights are missing; the message says how to get them.
        ModuleNotFoundError: open_clip is not installed.
    """
    if file.network:
        if file.model in FAMILIES:
            raise ValueError(
                f"expected network beside a ViT of open_clip, got it beside {file.model}; leave it out"
            )
        return load_coarse_to_fine(file)
    return FAMILIES.get(file.model, load_open_clip)(file)
