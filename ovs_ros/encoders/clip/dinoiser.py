"""CLIP-DINOiser's heads: two small convolutions that tell from CLIP's own features what DINO and FOUND see.

Wysoczańska et al. 2024 (arXiv 2312.12359). One was trained so that cosines of its outputs follow DINO's
patch affinities, the other to find foreground as FOUND does.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.attention import cosines_within, pool
from ovs_ros.zoo.keys import Checkpoint, Rule, map_keys, read_checkpoint

LAYER = -3
"""The block whose second normalisation feeds the heads."""
_LEAST = 0.2
"""gamma of the paper: affinities below it do not count."""
_WIDTH = 256
_KEYS = [Rule(r"(obj_proj|bkg_decoder)\.(weight|bias)", r"\1.\2")]
_BESIDE = (r"clip_backbone\..*", r"vit_encoder\..*", r"found_model\..*")
"""CLIP itself and the teachers, in checkpoints that hold the whole model."""


class DinoiserHeads(nn.Module):
    """The two heads over a ViT of width C.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.obj_proj = nn.Conv2d(width, _WIDTH, 3, padding=1, padding_mode="replicate")
        self.bkg_decoder = nn.Conv2d(width, 1, 1)

    def pooled(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Average features over the patches that belong to one object: the paper's equation 4.

        Args:
            hidden: (B, h, w, C), the patches that the heads read.
            features: (B, h * w, D), in CLIP's space and not normalised.

        Returns:
            (B, h * w, D).
        """
        seen = self.obj_proj(hidden.permute(0, 3, 1, 2))  # (B, 256, h, w)
        return pool(features, cosines_within(seen.flatten(2).mT), least=_LEAST)

    def foreground(self, hidden: Tensor) -> Tensor:
        """How likely each patch is part of an object: (B, h, w, C) to (B, h, w) in 0 to 1.

        The paper calls a pixel background where this is at most 0.5 and no class has a probability of 0.99.
        """
        unit = F.normalize(hidden.float(), dim=-1).to(hidden.dtype)
        return self.bkg_decoder(unit.permute(0, 3, 1, 2))[:, 0].sigmoid()


def load_heads(path: Path, width: int) -> DinoiserHeads:
    """Read the heads from the checkpoint that comes with CLIP-DINOiser's code, or of the whole model.

    Args:
        path: .pt of torch.save, or .safetensors; nothing in it is executed.
        width: C of the ViT that they are used with; the published heads are of 768 (ViT-B/16 of LAION-2B).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other keys or shapes; the message names them.
    """
    with torch.device("meta"):
        heads = DinoiserHeads(width)
    checkpoint: Checkpoint = read_checkpoint(path)
    heads.load_state_dict(map_keys(checkpoint, heads.state_dict(), _KEYS, _BESIDE), assign=True)
    return heads.requires_grad_(False).eval()
