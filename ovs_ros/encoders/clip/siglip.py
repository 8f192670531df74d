"""SigLIP and SigLIP 2: ViTs without a class token, pooled by attention."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.timm_vit import TimmTokens


class SigLip(ClipModel):
    """SigLIP as open_clip has it: a ViT of timm whose pooling head maps into the space shared with words.

    A patch's embedding is what the pooling head would give if its attention saw that patch alone: the value's
    projection, the output's projection and the residual MLP. This is MaskCLIP's step (Zhou et al. 2022,
    section 3.2) read for a pooling head, for which neither SigLIP's authors nor MaskCLIP's give a recipe.
    The image embedding is the model's own.

    Args:
        clip: a CustomTextCLIP of open_clip with its weights.
        name: see `DenseModel`.
        dim: D, of the space shared with words.
        tokenizer: see `ClipModel`.

    Raises:
        ValueError: the tower is another.
    """

    def __init__(
        self,
        clip: Any,
        *,
        name: str,
        dim: int,
        tokenizer: Callable[[Sequence[str]], Tensor] | None = None,
    ) -> None:
        trunk = clip.visual.trunk
        pool = trunk.attn_pool
        if pool is None or pool.latent_len != 1 or pool.pos_embed is not None or trunk.cls_token is not None:
            raise ValueError(
                "expected a ViT that one query pools by attention, as SigLIP's, got another; choose another"
            )
        tokens = TimmTokens(trunk)
        super().__init__(clip, name=name, dim=dim, stride=tokens.stride, tokenizer=tokenizer)
        self._tokens = tokens

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel.dense`."""
        visual = self.clip.visual
        grid = (images.shape[2] // self.stride, images.shape[3] // self.stride)
        tokens = visual.trunk.norm(visual.trunk.blocks(self._tokens(images)))  # (B, N, C)
        return TorchFeatures(
            unit(self._each(tokens)).unflatten(1, grid), unit(visual.head(visual.trunk.forward_head(tokens)))
        )

    def _each(self, tokens: Tensor) -> Tensor:
        """The pooling head over each token alone: (B, N, C) to (B, N, D)."""
        visual, trunk = self.clip.visual, self.clip.visual.trunk
        pool, width = trunk.attn_pool, tokens.shape[-1]
        bias = None if pool.kv.bias is None else pool.kv.bias[width:]
        seen = pool.proj(F.linear(tokens, pool.kv.weight[width:], bias))
        return visual.head(trunk.head(trunk.fc_norm(seen + pool.mlp(pool.norm(seen)))))
