"""Textual guidance: the input of cross-attention for each selected category (DCP-CLIP, equation 7).

The equation is lost; the paper lists the selected words, a learnable prompt, the class token's classification
logits and one linear projection. Two readings of it:

- 'descriptor' (default): [T ⊙ f_cls ‖ T ‖ prompt], ZegCLIP's relationship descriptor.
- 'literal': [T ‖ prompt ‖ S_i], S_i being the softmax over the categories of the image's scaled cosines.
"""

import torch
from torch import Tensor, nn

from ovs_ros.zoo.coarse_to_fine.config import Guidance
from ovs_ros.zoo.coarse_to_fine.layers import MASKED


class TextGuidance(nn.Module):
    """G of equation 7: a vector for each selected category.

    Unit vectors come in times the square root of D, so that their numbers are of the size of 1.
    """

    def __init__(self, dim: int, width: int, reading: Guidance, logit_scale: float) -> None:
        super().__init__()
        self.reading = reading
        self.logit_scale = logit_scale
        self.prompt = nn.Parameter(torch.randn(dim) * 0.02)
        # The prompt, the same for all categories, is the bias.
        self.project = nn.Linear(3 * dim if reading == "descriptor" else 2 * dim + 1, width, bias=False)

    def forward(self, words: Tensor, image: Tensor, mask: Tensor | None) -> Tensor:
        """Make the guidance.

        Args:
            words: (B, M, D) unit; image: (B, D) unit.
            mask: (B, M) bool, False where a category is only padding; None: none is.

        Returns:
            (B, M, width).
        """
        root = words.shape[-1] ** 0.5
        text = words * root
        prompt = self.prompt.expand_as(words)
        if self.reading == "descriptor":
            return self.project(torch.cat([text * (image * root).unsqueeze(1), text, prompt], dim=-1))
        scores = self.logit_scale * (words @ image.unsqueeze(-1))  # (B, M, 1)
        if mask is not None:
            scores = scores.masked_fill(~mask.unsqueeze(-1), MASKED)
        return self.project(torch.cat([text, prompt, scores.softmax(dim=1)], dim=-1))
