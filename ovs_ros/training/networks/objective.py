"""The coarse-to-fine network with the losses of the papers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ovs_ros.training.networks.auxiliary import AuxiliaryHead
from ovs_ros.training.networks.candidates import Candidates
from ovs_ros.training.networks.losses import (
    T2P_WEIGHT,
    TextPixelAlignment,
    binary_cross_entropy,
    cross_entropy,
    even_bias,
    patch_cross_entropy,
)
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

SELECTION_WEIGHT = 0.4
"""What the auxiliary selection loss is multiplied with."""


class Objective(nn.Module):
    """The network, what only its losses need, and the losses.

    Per-pixel BCE takes a learnt bias, the same for all categories, as sigmoids of scaled cosines need (Zhai
    et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2). It decides nothing.

    Args:
        config: of the network.
        alignment: with FGAseg's text-pixel alignment loss.
        selection: with the auxiliary selection head and its loss.
        softmax: decide pixels by a softmax over the candidates instead of BCE.
        autocast: the context that the network alone computes in.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        alignment: bool = True,
        selection: bool = True,
        softmax: bool = False,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.network = CoarseToFine(config)
        self.auxiliary = AuxiliaryHead(config.dim, scale=config.logit_scale) if selection else None
        self.alignment = TextPixelAlignment(config.dim, config.dim) if alignment else None
        self.bias = None if softmax else nn.Parameter(torch.zeros(()))

    def forward(
        self,
        features: ImageFeatures,
        words: Tensor,
        labels: Tensor,
        candidates: Candidates,
        *,
        weights: Tensor | None = None,
        upsample: Callable[[Tensor], Tensor] = lambda logits: logits,
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch by name.

        Args:
            features: of B images.
            words: (B, M, P, D) of the candidates.
            labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
            candidates: what the M categories are.
            weights: (K,) how much the pixels of each category count.
            upsample: of the network's logits (B, M, h, w), where the run time upsamples them.
        """
        with self.autocast():
            output = self.network(features, words, candidates.mask)
        logits = upsample(output.logits.float())
        loss, shift = (cross_entropy, 0.0) if self.bias is None else (binary_cross_entropy, self.bias)
        losses = {"pixels": loss(logits + shift, labels, candidates, weights=weights)}
        if self.alignment is not None:
            texts, patches = output.words.float(), output.patches.float()
            losses["alignment"] = T2P_WEIGHT * self.alignment(texts, patches, labels, candidates)
        if self.auxiliary is not None:
            guessed = self.auxiliary(features.patches.float(), words)
            losses["selection"] = SELECTION_WEIGHT * patch_cross_entropy(guessed, labels, candidates)
        return losses

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def fit_bias(self, logits: Sequence[Tensor]) -> None:
        """Start the bias where the mean probability is the share of right candidates.

        Args:
            logits: (M, n) of each image; at each of the n positions one of the M candidates is right.
        """
        if self.bias is not None:
            count = sum(one.numel() for one in logits)
            share = sum(one.shape[1] for one in logits) / count
            self.bias.copy_(even_bias(torch.cat([one.flatten() for one in logits]), share))
