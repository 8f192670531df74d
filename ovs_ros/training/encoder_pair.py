"""Frozen image and text encoders in torch that a network is trained over, and the embedded model's originals.

A pair gives what `CoarseToFine` takes: patches and words in one space, earlier layers, class attention.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.text_encoder import imagenet_templates
from ovs_ros.encoders.embedded import LOGIT_SCALE, MODELS, EmbeddedTextEncoder
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.runtime.files import file_digest
from ovs_ros.training.dino_torch import PATCH, read_encoder
from ovs_ros.training.export_head import read_head
from ovs_ros.zoo.coarse_to_fine.model import attention_heads, encode_images, load_vit, shallow_widths
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures


class EncoderPair(Protocol):
    """The interface of an encoder pair for training; it has no weights to train.

    Attributes:
        name: identifies the weights, for checkpoints.
        patch: a patch's side in pixels.
        dim: D, the width of the space shared with words.
        prompts: P, templates a word.
        shallow: C_i, the widths of `ImageFeatures.shallow`.
        attention: channels of `ImageFeatures.attention`.
        logit_scale: what cosines are multiplied with before a softmax.
    """

    name: str
    patch: int
    dim: int
    prompts: int
    shallow: tuple[int, ...]
    attention: int
    logit_scale: float

    def to(self, device: torch.device) -> "EncoderPair":
        """Bring the encoders to a device."""

    def features(self, images: Tensor) -> ImageFeatures:
        """Encode RGB (B, 3, patch h, patch w), float from 0 to 255, without gradients."""

    def words(self, names: Sequence[str]) -> Tensor:
        """Embed names: (len(names), P, D) float32 on the CPU, unit norm."""


class DinoMiniLM(nn.Module):
    """The embedded model in torch: DINOv2 ViT-S/14, MiniLM, and the head that joins them; all frozen.

    Words are the mean over their templates, and the earlier layer is the head's hidden one, as at run time.

    Args:
        models: the folder of the embedded model's files.

    Raises:
        FileNotFoundError: a file is missing.
    """

    patch = PATCH
    prompts = 1
    attention = 0
    logit_scale = LOGIT_SCALE

    def __init__(self, models: Path = MODELS) -> None:
        super().__init__()
        self.name = f"dinov2-vits14+minilm-l6 {file_digest(models / 'image_head.onnx')[:12]}"
        self.dino = read_encoder(models)
        self.head = read_head(models).requires_grad_(False)
        self.sentences = SentenceEncoder(models)
        self.dim = self.head.patch.out_features
        self.shallow: tuple[int, ...] = (self.head.reduce.out_features,)

    def features(self, images: Tensor) -> ImageFeatures:
        """See `EncoderPair.features`."""
        with torch.no_grad():
            tokens = self.dino(images)
            grid = (images.shape[2] // PATCH, images.shape[3] // PATCH)
            hidden, patches = self.head.patches(tokens[:, 1:].unflatten(1, grid))
            return ImageFeatures(
                patches=F.normalize(patches.float(), dim=-1),
                image=F.normalize(self.head.whole(tokens[:, 0]).float(), dim=-1),
                shallow=(hidden,),
            )

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        texts = [t.replace("{}", name) for name in names for t in EmbeddedTextEncoder.templates]
        device = self.head.words.weight.device
        sentences = torch.from_numpy(self.sentences.encode(texts)).to(device)
        with torch.no_grad():
            prompts = self.head.embed_words(sentences).unflatten(0, (len(names), -1))  # (K, templates, D)
            return F.normalize(prompts.mean(1, keepdim=True), dim=-1).cpu()


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
