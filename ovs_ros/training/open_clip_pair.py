"""A pair of frozen encoders from open_clip, by name and local weights."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from ovs_ros.encoders.clip.attention import LastLayer, attend, feed
from ovs_ros.encoders.clip.clip_model import unit
from ovs_ros.encoders.clip.open_clip_models import load_open_clip
from ovs_ros.encoders.clip.text_encoder import imagenet_templates
from ovs_ros.encoders.clip.vit import OpenClipViT
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.training.networks.network_inputs import ImageFeatures


class OpenClip(nn.Module):
    """Any ViT of open_clip. Patches are the last block's values, projected as the class token is (MaskCLIP).

    Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2. Earlier layers are those
    after a third and two thirds of the blocks, as in CAT-Seg. The text goes into open_clip's 80 templates.

    Args:
        model: the name that open_clip knows the architecture by, such as ViT-B-16.
        weights: a file with its weights.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
        FileNotFoundError: there is no such file.
        ValueError: open_clip knows no such model, it is no ViT of its own kind, or the weights do not fit it.
    """

    def __init__(self, model: str, weights: Path) -> None:
        super().__init__()
        vit = load_open_clip(ModelFile(model=model, weights=str(weights), attention="maskclip"))
        if not isinstance(vit, OpenClipViT):
            raise ValueError(f"expected a plain ViT of open_clip, got {model}; take one such as ViT-B-16")
        visual = vit.clip.visual
        width, depth = visual.conv1.out_channels, len(visual.transformer.resblocks)
        self.vit = vit
        self.name = vit.name
        self.templates = imagenet_templates()
        self.patch = vit.stride
        self.dim = vit.dim
        self.prompts = len(self.templates)
        self.taken = (depth // 3, 2 * depth // 3)
        self.shallow = (width,) * len(self.taken)
        self.attention = visual.transformer.resblocks[-1].attn.num_heads
        self.logit_scale = vit.logit_scale
        mean, deviation = (255.0 * torch.tensor(v).view(3, 1, 1) for v in (vit.mean, vit.std))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def features(self, images: Tensor) -> ImageFeatures:
        """See `EncoderPair.features`."""
        grid = (images.shape[2] // self.patch, images.shape[3] // self.patch)
        *early, last = self.vit.clip.visual.transformer.resblocks
        with torch.no_grad():
            tokens = self.vit.embed((images - self.mean) / self.deviation, grid)  # (B, 1 + N, C)
            shallow = []
            for index, block in enumerate(early, start=1):
                tokens = feed(block, attend(block, tokens))
                if index in self.taken:
                    shallow.append(tokens[:, 1:].unflatten(1, grid))
            layer = LastLayer(last, tokens)
            return ImageFeatures(
                patches=unit(self.vit.project(layer.maskclip()).float()).unflatten(1, grid),
                image=self.vit.pooled(layer).float(),
                shallow=tuple(shallow),
                attention=layer.class_attention().mT.unflatten(1, grid),
            )

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        with torch.no_grad():
            found = [
                self.vit.embed_texts([template.replace("{}", name) for template in self.templates]).cpu()
                for name in names
            ]
        return torch.stack(found)
