"""The coarse-to-fine network with the losses of the papers."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ovs_ros.training.encoder_pair import Encoded
from ovs_ros.training.networks.auxiliary import AuxiliaryHead
from ovs_ros.training.networks.candidates import Candidates
from ovs_ros.training.networks.losses import (
    T2P_WEIGHT,
    TextPixelAlignment,
    binary_cross_entropy,
    even_bias,
    patch_cross_entropy,
)
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import NetworkOutput

SELECTION_WEIGHT = 0.4
"""What the auxiliary selection loss is multiplied with."""


class Objective(nn.Module):
    """The network, what only its losses need, and the losses.

    Per-pixel BCE takes a learnt bias, the same for all categories, as sigmoids of scaled cosines need (Zhai
    et al., "Sigmoid Loss for Language Image Pre-Training", ICCV 2023, section 3.2). It decides nothing.

    Args:
        config: of the network.
        alignment: with FGAseg's text-pixel alignment loss.
        autocast: the context that the network alone computes in.

    Attributes:
        tuned: weights of the encoders that are trained too; None: there are none.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        alignment: bool = True,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        super().__init__()
        self.autocast = autocast
        self.network = CoarseToFine(config)
        self.auxiliary = AuxiliaryHead(config.dim, scale=config.logit_scale)
        self.alignment = TextPixelAlignment(config.dim, config.dim) if alignment else None
        self.bias = nn.Parameter(torch.zeros(()))
        self.tuned: nn.Module | None = None

    def logits(self, encoded: Encoded, words: Tensor, candidates: Candidates) -> tuple[Tensor, NetworkOutput]:
        """What the run time decides by, (B, M, H, W) float32, and what the network gives for it."""
        with self.autocast():
            output = self.network(encoded.features, words, candidates.mask)
        return encoded.finish(output, words).float(), output

    def forward(
        self, encoded: Encoded, words: Tensor, labels: Tensor, candidates: Candidates
    ) -> dict[str, Tensor]:
        """The weighted losses of a batch by name.

        Args:
            encoded: B images.
            words: (B, M, P, D) of the candidates.
            labels: (B, H, W) integer columns of the vocabulary, or IGNORE.
            candidates: what the M categories are.
        """
        logits, output = self.logits(encoded, words, candidates)
        losses = {"pixels": binary_cross_entropy(logits + self.bias, labels, candidates)}
        if self.alignment is not None:
            texts, patches = output.words.float(), output.patches.float()
            losses["alignment"] = T2P_WEIGHT * self.alignment(texts, patches, labels, candidates)
        guessed = self.auxiliary(encoded.features.patches.float(), words)
        losses["selection"] = SELECTION_WEIGHT * patch_cross_entropy(guessed, labels, candidates)
        return losses

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def fit_bias(self, logits: Sequence[Tensor]) -> None:
        """Start the bias where the mean probability is the share of right candidates.

        Args:
            logits: (M, n) of each image; at each of the n positions one of the M candidates is right.
        """
        count = sum(one.numel() for one in logits)
        share = sum(one.shape[1] for one in logits) / count
        self.bias.copy_(even_bias(torch.cat([one.flatten() for one in logits]), share))
