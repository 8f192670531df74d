"""The coarse-to-fine network: it refines the cosines of patches with the words of the selected categories.

DCP-CLIP's text-guided alignment (equations 6 to 12) and spatial enhanced decoder (13 to 16), and FGAseg's
parts beside them; each part is a switch of `NetworkConfig`.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.alignment import (
    CategoryAttention,
    ClassLayer,
    CostEmbedding,
    CrossAttention,
    TextGuidance,
    cost_volume,
)
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.layers import float32_cosines, zero
from ovs_ros.zoo.coarse_to_fine.local_kernels import LocalKernels
from ovs_ros.zoo.coarse_to_fine.network_inputs import PADDED_LOGIT, ImageFeatures, NetworkOutput
from ovs_ros.zoo.coarse_to_fine.pixel_to_text import PixelToText
from ovs_ros.zoo.coarse_to_fine.spatial_decoder import Doubling, EncoderContext, SpatialPair


class CoarseToFine(nn.Module):
    """Strings the parts that the configuration names; see `NetworkConfig`.

    With `residual` on, a fresh network answers with the plain scaled cosines: every residual branch ends in a
    layer that starts as zero.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = c = config
        local = c.local_channels if c.local_kernels else 0
        self.pixel_to_text = PixelToText(c.dim, c.dim, heads=c.heads) if c.pixel_to_text else None
        self.local_kernels = (
            LocalKernels(c.dim, c.dim, channels=local, kernel=c.local_kernels) if local else None
        )
        self.cost = CostEmbedding(c.prompts + local, c.width)
        self.guidance = TextGuidance(c) if c.cross_attention else None
        self.cross_attention = CrossAttention(c) if c.cross_attention else None
        self.category_attention = CategoryAttention(c) if c.category_attention != "none" else None
        self.class_layers = nn.ModuleList(ClassLayer(c) for _ in range(c.class_layers))
        self.context: EncoderContext | None = None
        self.spatial = nn.ModuleList()
        if c.spatial != "none":
            if c.shallow or c.attention:
                self.context = EncoderContext(c.shallow, c.shallow_width, c.attention)
            context = self.context.width if self.context is not None else 0
            self.spatial.extend(
                SpatialPair(c.spatial, width, context, c.heads, c.window, c.mlp_ratio)
                for width in c.widths[: max(c.levels, 1)]
            )
        self.doublings = nn.ModuleList()
        for level, (width, out) in enumerate(pairwise(c.widths)):
            # The deepest of the earlier layers comes first, the earliest where the grid is finest.
            shallow = c.shallow[max(len(c.shallow) - 1 - level, 0)] if c.shallow else 0
            self.doublings.append(Doubling(width, out, 1 + local, shallow, max(c.shallow_width >> level, 1)))
        self.norm = nn.LayerNorm(c.widths[-1])
        self.head = nn.Linear(c.widths[-1], 1)
        if c.residual:
            zero(self.head)

    def forward(self, features: ImageFeatures, words: Tensor, mask: Tensor | None = None) -> NetworkOutput:
        """Compute logits of every patch, or every pixel of the doubled grid, for every category.

        Args:
            features: of B images.
            words: (B, M, P, D) unit, P prompts for each of M categories.
            mask: (B, M) bool, False where a category is only padding, which changes nothing for the others;
                None: none is.

        Raises:
            ValueError: the words have another number of prompts or another width than the configuration.
        """
        c = self.config
        if words.dim() != 4 or words.shape[2] != c.prompts or words.shape[3] != c.dim:
            raise ValueError(
                f"expected words of shape (B, M, {c.prompts}, {c.dim}), got {tuple(words.shape)}; "
                "use the prompts and the encoders that the network was made for"
            )
        if self.pixel_to_text is not None:
            words = self.pixel_to_text(words, features.patches)
        mean = F.normalize(words.mean(dim=2), dim=-1)  # (B, M, D)
        cosines = float32_cosines(features.patches, mean)  # (B, M, h, w)
        scaled = cosines * c.logit_scale
        patches = features.patches * c.dim**0.5
        if self.guidance is not None and self.cross_attention is not None:
            patches = self.cross_attention(patches, self.guidance(mean, features.image), mask)
        logits = self._refine(features, patches, words, mean, cosines, mask).float()
        if c.residual:
            size = (logits.shape[2], logits.shape[3])
            logits = logits + F.interpolate(scaled, size, mode="bilinear", align_corners=False)
        if mask is not None:
            logits = logits.masked_fill(~mask[:, :, None, None], PADDED_LOGIT)
        return NetworkOutput(logits=logits, cosines=scaled, patches=patches, words=mean)

    def _refine(
        self,
        features: ImageFeatures,
        patches: Tensor,
        words: Tensor,
        mean: Tensor,
        cosines: Tensor,
        mask: Tensor | None,
    ) -> Tensor:
        """Equations 6 and 11 to 16: what the cost volume adds to the logits, (B, M, s*h, s*w)."""
        cost, skip = cost_volume(features.patches, words), cosines.unsqueeze(2)
        if self.local_kernels is not None:
            local = self.local_kernels(mean, patches)  # (B, M, local_channels, h, w)
            cost, skip = torch.cat([cost, local], dim=2), torch.cat([skip, local], dim=2)
        z = self.cost(cost)  # (B, M, h, w, width)
        if self.category_attention is not None:
            z = self.category_attention(z, patches)
        z = z.permute(0, 2, 3, 1, 4)  # (B, h, w, M, width)
        for layer in self.class_layers:
            z = layer(z, mean, mask)
        context = self.context(features.shallow, features.attention) if self.context is not None else None
        shallow = features.shallow[::-1] or (None,)
        for level in range(max(len(self.spatial), len(self.doublings))):
            if self.spatial:
                z = self.spatial[level](z, context)
            if self.doublings:
                z = self.doublings[level](z, skip, shallow[min(level, len(shallow) - 1)])
        return self.head(self.norm(z)).squeeze(-1).permute(0, 3, 1, 2)
