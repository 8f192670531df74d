"""Import open_clip so that it works beside every build of torchvision."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from ovs_ros.runtime.threads import limit_torch

_MISSING = "operator torchvision::nms does not exist"
_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def import_open_clip() -> ModuleType:
    """The module `open_clip`.

    PyPI's torchvision is built for CUDA, and beside a torch for the CPU its compiled library does not load;
    then importing torchvision fails, because two operators of object detection are missing, which open_clip
    never calls. They are declared here, without a body.

    Raises:
        ModuleNotFoundError: open_clip or torch is not installed.
    """
    for package in ("torch", "open_clip"):
        if find_spec(package) is None:
            raise ModuleNotFoundError(
                f"expected the package {package}, and it is not installed; install it with:"
                " pip install '.[clip]'",
                name=package,
            )
    _import_torchvision()
    limit_torch()
    return importlib.import_module("open_clip")


def _import_torchvision() -> None:
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if _MISSING not in str(error):
            raise
        import torch

        for operator in _OPERATORS:
            torch.library.define(
                f"torchvision::{operator.partition('(')[0]}", operator[operator.index("(") :]
            )
        importlib.import_module("torchvision")
