"""A pair of frozen encoders from open_clip."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ovs_ros.encoders.clip.text_encoder import imagenet_templates
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.zoo.coarse_to_fine.model import attention_heads, encode_images, load_vit, shallow_widths
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures


class OpenClip(nn.Module):
    """Any ViT of open_clip (see `encode_images`); names go into its templates, open_clip's 80 by default.

    Args:
        file: the model, with attention 'maskclip'.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
        FileNotFoundError: its weights are not on this machine.
        ValueError: no such model, or it is no ViT of open_clip's own kind.
    """

    def __init__(self, file: ModelFile) -> None:
        super().__init__()
        self.vit = vit = load_vit(file)
        self.name = vit.name
        self.templates = file.templates or imagenet_templates()
        self.patch, self.dim, self.logit_scale = vit.stride, vit.dim, vit.logit_scale
        self.prompts = len(self.templates)
        self.shallow, self.attention = shallow_widths(vit), attention_heads(vit)
        mean, deviation = (255.0 * torch.tensor(v).view(3, 1, 1) for v in (vit.mean, vit.std))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def features(self, images: Tensor) -> ImageFeatures:
        """See `EncoderPair.features`."""
        with torch.no_grad():
            return encode_images(self.vit, (images - self.mean) / self.deviation)

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        with torch.no_grad():
            found = [
                self.vit.embed_texts([template.replace("{}", name) for template in self.templates]).cpu()
                for name in names
            ]
        return torch.stack(found)
