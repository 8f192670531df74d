"""CLIP-DINOiser's head: a small convolution over CLIP's own features.

Wysoczańska et al. 2024 (arXiv 2312.12359). It was trained so that cosines of its outputs follow DINO's patch
affinities. The authors' second head, which finds the background, is not used.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from ovs_ros.encoders.checkpoint_keys import Checkpoint, Rule, map_keys, read_checkpoint
from ovs_ros.encoders.clip.attention import cosines_within, pool

LAYER = -3
"""The block whose second normalisation feeds the head."""
_LEAST = 0.2
"""gamma of the paper: affinities below it do not count."""
_WIDTH = 256
_KEYS = [Rule(r"obj_proj\.(weight|bias)", r"obj_proj.\1")]
_BESIDE = (r"bkg_decoder\..*", r"clip_backbone\..*", r"vit_encoder\..*", r"found_model\..*")
"""The head that finds the background, and CLIP and the teachers in checkpoints of the whole model."""


class DinoiserHead(nn.Module):
    """The head over a ViT of width C.

    Args:
        width: C.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.obj_proj = nn.Conv2d(width, _WIDTH, 3, padding=1, padding_mode="replicate")

    def pooled(self, hidden: Tensor, features: Tensor) -> Tensor:
        """Average features over the patches that belong to one object: the paper's equation 4.

        Args:
            hidden: (B, h, w, C), the patches that the head reads.
            features: (B, h * w, D), in CLIP's space and not normalised.

        Returns:
            (B, h * w, D).
        """
        seen = self.obj_proj(hidden.permute(0, 3, 1, 2))  # (B, 256, h, w)
        return pool(features, cosines_within(seen.flatten(2).mT), least=_LEAST)


def load_head(path: Path, width: int) -> DinoiserHead:
    """Read the head from the checkpoint that comes with CLIP-DINOiser's code, or of the whole model.

    Args:
        path: .pt of torch.save, or .safetensors; nothing in it is executed.
        width: C of the ViT that it is used with; the published one is of 768 (ViT-B/16 of LAION-2B).

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has other keys or shapes; the message names them.
    """
    with torch.device("meta"):
        head = DinoiserHead(width)
    checkpoint: Checkpoint = read_checkpoint(path)
    head.load_state_dict(map_keys(checkpoint, head.state_dict(), _KEYS, _BESIDE), assign=True)
    return head.requires_grad_(False).eval()
