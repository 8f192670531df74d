"""A small labelled set and a small pair of encoders, to train on in seconds."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}


def write_tree(root: Path, *, images: int = 6, height: int = 40, width: int = 48) -> None:
    """Rectangles of named colours, in the project's own form."""
    rng = np.random.default_rng(0)
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(COLOURS) + "\n")
    palette = np.array(list(COLOURS.values()), np.uint8)
    for split in ("train", "val"):
        for kind in ("image", "label"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            label = np.full((height, width), 3, np.uint8)
            for value in rng.permutation(3):
                top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
                label[top : top + rng.integers(8, 24), left : left + rng.integers(8, 24)] = value
            label[:, 0] = 255
            noise = rng.integers(-20, 20, (height, width, 3))
            image = np.clip(palette[np.minimum(label, 3)] + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / "image" / f"{index}.png"), image[..., ::-1])
            cv2.imwrite(str(root / split / "label" / f"{index}.png"), label)


class ColourPair(torch.nn.Module):
    """Embeds a patch by its mean colour and a word by the colour that it names, seen through fixed noise."""

    name, patch, dim, prompts, shallow, attention, logit_scale = "colours", 4, 8, 2, (3,), 1, 10.0

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("project", torch.randn(3, self.dim, generator=generator))
        self.register_buffer("noise", torch.randn(self.dim, generator=generator))

    def features(self, images: torch.Tensor) -> ImageFeatures:
        with torch.no_grad():
            small = F.avg_pool2d(images.float() / 255.0, self.patch).permute(0, 2, 3, 1)  # (B, h, w, 3)
            patches = F.normalize((small - 0.5) @ self.project + 0.3 * self.noise, dim=-1)
            attention = torch.ones_like(small[..., :1])
            return ImageFeatures(
                patches=patches,
                image=F.normalize(patches.mean((1, 2)), dim=-1),
                shallow=(small,),
                attention=attention / attention.sum((1, 2), keepdim=True),
            )

    def words(self, names: Sequence[str]) -> torch.Tensor:
        colours = torch.tensor([COLOURS[name] for name in names]) / 255.0 - 0.5  # (K, 3)
        both = torch.stack([colours, 0.8 * colours], dim=1)  # (K, 2, 3)
        return F.normalize(both @ self.project.cpu(), dim=-1)


def small_config(**fields: object) -> NetworkConfig:
    """A network of a few thousand weights with every part that `full` has."""
    small = {"width": 8, "text_width": 8, "guide_width": 8, "shallow_width": 4, "heads": 2, "window": 4}
    return NetworkConfig.full(
        ColourPair.dim,
        **{
            "prompts": ColourPair.prompts,
            "shallow": ColourPair.shallow,
            "attention": ColourPair.attention,
            "logit_scale": ColourPair.logit_scale,
            "levels": 1,
            **small,
            **fields,
        },
    )
