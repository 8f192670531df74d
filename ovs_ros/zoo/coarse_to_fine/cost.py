"""The cost volume: how well every patch goes with every prompt of every category (DCP-CLIP, equation 6)."""

from torch import Tensor, nn

from ovs_ros.zoo.coarse_to_fine.layers import float32_cosines, split_axis

KERNEL = 7


def cost_volume(patches: Tensor, words: Tensor) -> Tensor:
    """Cosines of patches with prompts (DCP-CLIP, eq. 6).

    Args:
        patches: (B, h, w, D) unit; words: (B, M, P, D) unit.

    Returns:
        (B, M, P, h, w) float32.
    """
    return split_axis(float32_cosines(patches, words.flatten(1, 2)), 1, -1, words.shape[2])


class CostEmbedding(nn.Module):
    """F_c: a 7x7 convolution of each category's cost map; the paper lost its size, CAT-Seg has this one."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, KERNEL, padding=KERNEL // 2)

    def forward(self, cost: Tensor) -> Tensor:
        """(B, M, channels, h, w) to (B, M, h, w, width)."""
        embedded = self.conv(cost.flatten(0, 1))  # (B * M, width, h, w)
        return split_axis(embedded.permute(0, 2, 3, 1), 0, cost.shape[0], -1)
