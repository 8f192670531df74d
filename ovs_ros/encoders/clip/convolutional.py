"""Convolutional image towers: ConvNeXt, and MobileCLIP's hybrids of convolutions and attention (FastViT)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures


class ConvolutionalClip(ClipModel):
    """A tower of timm whose last map is averaged and goes through a head.

    A patch is a position of the last map, and its embedding what the head gives for it alone, normalisation
    included, as SED and FC-CLIP take ConvNeXt's features (Xie et al. 2024, section 3.1; Yu et al. 2023,
    section 3.3). The image embedding is the model's own. These towers have no position table: any size whose
    sides are multiples of the stride is theirs.

    Args:
        clip: a CLIP or CustomTextCLIP of open_clip with its weights.
        name: see `DenseModel`.
        dim: D, of the space shared with words.
        tokenizer: see `ClipModel`.
    """

    def __init__(
        self,
        clip: Any,
        *,
        name: str,
        dim: int,
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        stride = clip.visual.trunk.feature_info[-1]["reduction"]
        super().__init__(clip, name=name, dim=dim, stride=stride, tokenizer=tokenizer)

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        last = self.clip.visual.trunk.forward_features(images)  # (B, C, h, w)
        batch, width, *grid = last.shape
        each = last.permute(0, 2, 3, 1).reshape(-1, width, 1, 1)  # every position as a map of its own
        return TorchFeatures(unit(self._head(each)).unflatten(0, (batch, *grid)), unit(self._head(last)))

    def _head(self, maps: Tensor) -> Tensor:
        """Maps (B, C, h, w), averaged, into the space shared with words: (B, D)."""
        return self.clip.visual.head(self.clip.visual.trunk.forward_head(maps))
