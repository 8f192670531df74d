"""Small networks and made-up images for the tests of the network."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

DIM = 16
NARROW = {"width": 8, "text_width": 8, "guide_width": 4, "shallow_width": 4, "window": 3, "mlp_ratio": 1}

CONFIGS = {
    "embedded": NetworkConfig.embedded(dim=DIM, shallow=(6,), prompts=2, **NARROW),
    "full": NetworkConfig.full(DIM, shallow=(6, 5), attention=3, prompts=2, heads=2, **NARROW),
    "other readings": NetworkConfig.full(
        DIM,
        category_attention="linear",
        class_layers=2,
        spatial="shared",
        attention=3,
        heads=2,
        levels=1,
        **NARROW,
    ),
    "FGAseg's parts": NetworkConfig.embedded(
        dim=DIM,
        shallow=(),
        spatial="category",
        pixel_to_text=True,
        local_kernels=3,
        local_channels=2,
        class_layers=2,
        **NARROW,
    ),
    "cost alone": NetworkConfig(
        DIM, cross_attention=False, category_attention="none", spatial="none", levels=0, width=8
    ),
}


def network(config: NetworkConfig) -> CoarseToFine:
    """A network away from its start, where no residual branch is zero."""
    torch.manual_seed(0)
    made = CoarseToFine(config).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return made


def image(config: NetworkConfig, h: int, w: int, batch: int = 1) -> ImageFeatures:
    """Random features on a grid."""
    attention = torch.rand(batch, h, w, config.attention) if config.attention else None
    return ImageFeatures(
        patches=normalize(torch.randn(batch, h, w, config.dim), dim=-1),
        image=normalize(torch.randn(batch, config.dim), dim=-1),
        shallow=tuple(torch.randn(batch, h, w, width) for width in config.shallow),
        attention=None if attention is None else attention / attention.sum(dim=(1, 2), keepdim=True),
    )


def words(config: NetworkConfig, categories: int, batch: int = 1) -> Tensor:
    """Random unit embeddings (B, M, P, D)."""
    return normalize(torch.randn(batch, categories, config.prompts, config.dim), dim=-1)
