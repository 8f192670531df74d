"""The auxiliary selection head (FGAseg, SED).

A cheap head guesses the category of every patch. The N best guesses of each patch go on to the costly part of
the network, as one set for the whole image; the other categories are dropped. The head learns on detached
features: it reads what is there and does not bend it to its own end.
"""

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.runtime.arrays import write_arrays


class AuxiliaryHead(nn.Module):
    """Logits of every patch for every category, before any of them is dropped.

    Patches pass a small residual perceptron and are compared with the words by scaled cosine. So the words
    stay as they are in the stream's cache, and a whole vocabulary costs one product of matrices. Before
    training the head gives the plain cosines.

    Args:
        width: D of patches and words.
        hidden: width of the perceptron.
        scale: what cosines are multiplied with before training.
    """

    def __init__(self, width: int, *, hidden: int = 256, scale: float = 20.0) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.widen = nn.Linear(width, hidden)
        self.narrow = nn.Linear(hidden, width)
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        nn.init.zeros_(self.narrow.weight)
        nn.init.zeros_(self.narrow.bias)

    def embed(self, patches: Tensor) -> Tensor:
        """Patches (B, h, w, D) to unit embeddings (B, h, w, D), to be compared with words."""
        patches = patches.detach()
        return F.normalize(patches + self.narrow(F.relu(self.widen(self.norm(patches)))), dim=-1)

    def forward(self, patches: Tensor, words: Tensor) -> Tensor:
        """Logits of a softmax over the categories.

        Args:
            patches: (B, h, w, D) unit norm.
            words: (B, M, P, D) unit norm, P prompts a category.

        Returns:
            (B, M, h, w).
        """
        _, rows, cols, _ = patches.shape
        texts = F.normalize(words.detach().mean(dim=2), dim=-1)  # (B, M, D)
        cosines = texts @ self.embed(patches).flatten(1, 2).transpose(1, 2)  # (B, M, h * w)
        return (self.log_scale.exp() * cosines).unflatten(2, (rows, cols))

    def write(self, path: Path) -> None:
        """Write what `steps/selection_head.py` takes: float32 arrays by name, and the scale."""
        arrays = {
            name.replace(".", "_"): value.detach().float().cpu().numpy()
            for name, value in self.named_parameters()
            if name != "log_scale"
        }
        write_arrays(path, {"scale": np.float32(self.log_scale.exp().item()), **arrays})
