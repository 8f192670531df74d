"""Shared by all models of open_clip: text tower, scale and normalisation."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from ovs_ros.encoders.clip.dense_model import DenseModel


class ClipModel(DenseModel):
    """A model of open_clip; subclasses say how its image tower gives dense features.

    Args:
        clip: a CLIP or CustomTextCLIP of open_clip, with its weights.
        name: see `DenseModel`.
        dim, stride: see `DenseModel`.
        tokenizer: gives token ids (T, context length) for a list of T texts; None for CLIP's own.

    Attributes:
        digest: of the weights, where they came from a file; else ''.
    """

    digest = ""

    def __init__(self, clip: Any, *, name: str, dim: int, stride: int, tokenizer: Any = None) -> None:
        super().__init__()
        if tokenizer is None:
            from ovs_ros.encoders.clip.imports import import_open_clip

            tokenizer = import_open_clip().SimpleTokenizer(context_length=clip.context_length)
        self.clip = clip.requires_grad_(False).eval()
        self.tokenizer = tokenizer
        self.name = name
        self.dim = dim
        self.stride = stride
        # SigLIP's logit_bias is the same for every category, so that a softmax over them does not see it.
        self.logit_scale = float(clip.logit_scale.exp())
        self.mean = tuple(clip.visual.preprocess_cfg["mean"])
        self.std = tuple(clip.visual.preprocess_cfg["std"])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """See `DenseModel.embed_texts`; float32, on the model's device."""
        tokens = self.tokenizer(list(texts)).to(self.clip.logit_scale.device)
        return F.normalize(self.clip.encode_text(tokens).float(), dim=-1)


def unit(embeddings: Tensor) -> Tensor:
    """Unit L2 norm over the last axis, in the dtype given; the norm itself is taken in float32."""
    return F.normalize(embeddings.float(), dim=-1).to(embeddings.dtype)


@contextmanager
def without_values() -> Iterator[None]:
    """Modules are made on the device 'meta': none of their weights is drawn at random or takes memory."""
    with torch.device("meta"), _RealLinspace():
        yield


class _RealLinspace(TorchFunctionMode):
    """Older versions of timm read rates off `torch.linspace` while it makes a network."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.linspace:
            kwargs = kwargs | {"device": "cpu"}
        return func(*args, **kwargs)
