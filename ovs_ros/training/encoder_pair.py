"""Pairs of an image and a text encoder that a network is trained over.

A pair gives what `CoarseToFine` takes: patches and words in one space, earlier layers, class attention.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from math import isqrt, log2
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.text_encoder import BATCH, imagenet_templates
from ovs_ros.encoders.embedded import PRESETS
from ovs_ros.encoders.heads import ConvexHead, CosineHead
from ovs_ros.encoders.model_file import MODEL_FILE, ModelFile, holds_embedded, read_model_file
from ovs_ros.load import load_model, open_model
from ovs_ros.model import Model
from ovs_ros.runtime.files import write_atomically
from ovs_ros.steps.network import NETWORK_FILE, Network
from ovs_ros.steps.network_record import NetworkRecord
from ovs_ros.steps.selection_head import find_selection_head
from ovs_ros.training.export_network import export_network
from ovs_ros.zoo.cat_seg import TEMPLATES
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.model import attention_heads, encode_images, load_vit, shallow_widths
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures, NetworkOutput
from ovs_ros.zoo.coarse_to_fine.tuned_attention import TUNED_FILE, attention_weights, tuned_rows

CHECKPOINT = "network.pt"
FREELY = 8
"""Levels of a network whose logits are decided by as they are: as many as one likes."""


class Encoded(NamedTuple):
    """A batch of B images.

    Attributes:
        features: what the network takes.
        finish: from what it gives, and the words (B, M, P, D), to the logits (B, M, H, W) that the run time
            decides by.
    """

    features: ImageFeatures
    finish: Callable[[NetworkOutput, Tensor], Tensor]


class EncoderPair(Protocol):
    """The interface of an encoder pair for training.

    Attributes:
        name, digest: of the weights.
        templates: prompt templates, each with one '{}'.
        side: of the square views that it takes, in pixels.
        dim: D, the width of the space shared with words.
        prompts: P, embeddings a word.
        shallow: C_i, the widths of `ImageFeatures.shallow`.
        attention: channels of `ImageFeatures.attention`.
        logit_scale: what cosines are multiplied with before a softmax.
        most_levels: how often a network may double the grid.
        small: whether it runs on two CPU cores.
        tuned: the weights that are trained with the network; None: none, the pair is frozen.
    """

    name: str
    digest: str
    templates: tuple[str, ...]
    side: int
    dim: int
    prompts: int
    shallow: tuple[int, ...]
    attention: int
    logit_scale: float
    most_levels: int
    small: bool
    tuned: nn.Module | None

    def to(self, device: torch.device) -> "EncoderPair":
        """Bring the encoders to a device."""

    def encode(self, images: Tensor) -> Encoded:
        """Encode square RGB views (B, 3, side, side), float from 0 to 255."""

    def words(self, names: Sequence[str]) -> Tensor:
        """Embed names: (len(names), P, D) float32, unit norm."""

    def write(self, network: CoarseToFine, record: NetworkRecord, folder: Path) -> None:
        """Write a model folder."""

    def open(self, folder: Path) -> Model:
        """Open the model folder as the run time does."""


def open_pair(name: str, view: int, *, tune: bool = False) -> EncoderPair:
    """The pair that a name means.

    Args:
        name: 'stream' (the shipped embedded model), a folder of such a model's files, or an architecture and
            weights of open_clip such as 'ViT-B-16:openai'.
        view: side of a training view in pixels; rounded down to whole patches of a ViT.
        tune: train the attention of both encoders too (ViTs of open_clip alone).

    Raises:
        ValueError: no such model, or one that cannot be tuned.
        FileNotFoundError: weights are missing.
        ModuleNotFoundError: open_clip is not installed.
    """
    folder = Path(name).expanduser()
    pair: EncoderPair
    if name == "stream" or holds_embedded(folder):
        described = {"model": name if name in PRESETS else str(folder.absolute())}
        model = replace(load_model(name), network=None, selection_head=None)
        pair = RunTimePair(model, described, view)
    else:
        architecture, _, weights = name.partition(":")
        if not weights:
            raise ValueError(
                "expected the model to be 'stream', a folder of an embedded model's files or "
                f"ARCHITECTURE:WEIGHTS, got {name!r}"
            )
        pair = OpenClip(ModelFile(architecture, weights, attention="maskclip"), view, tune=tune)
    if tune and pair.tuned is None:
        raise ValueError(f"expected a ViT of open_clip for --tune attention, got {name}; leave it out")
    return pair


class RunTimePair:
    """A model of the run time, frozen, by the very code and files that run it.

    Words are the mean over their templates, and the earlier layer is `Features.hidden`, if there is one.

    Args:
        model: without a network, and without a decoder of its own.
        described: what the model file says of it.
        side: of views in pixels; the encoder scales them as it does any image.

    Raises:
        ValueError: its head is of a kind that a network cannot be trained under.
    """

    prompts, attention, tuned = 1, 0, None
    small = True

    def __init__(self, model: Model, described: Mapping[str, str], side: int) -> None:
        self.model, self.described, self.side = model, described, side
        self.name, self.digest = model.name, model.digest
        self.templates = tuple(model.text_encoder.templates)
        self.dim, self.logit_scale = model.image_encoder.dim, model.image_encoder.logit_scale
        seen = model.image_encoder.encode(np.zeros((side, side, 3), np.uint8))
        if not isinstance(seen.head, ConvexHead | CosineHead) or seen.valid != (1.0, 1.0):
            raise ValueError(
                "expected a model at one scale that takes square views and decides by cosines, got "
                f"{model.name}; take 'stream'"
            )
        self.shallow: tuple[int, ...] = () if seen.hidden is None else (seen.hidden.shape[2],)
        nodes = nodes_of(seen.head)
        # What a network adds is spread over these nodes: of a finer grid, something would be lost.
        self.most_levels = int(log2(nodes.shape[0] / seen.patch_tokens.shape[0]))

    def to(self, device: torch.device) -> "EncoderPair":
        """See `EncoderPair.to`; the encoders stay where the run time has them."""
        return self

    def encode(self, images: Tensor) -> Encoded:
        """See `EncoderPair.encode`."""
        views = images.permute(0, 2, 3, 1).byte().cpu().numpy()
        seen = [self.model.encode(np.ascontiguousarray(view)) for view in views]

        def stacked(arrays: Sequence[NDArray[np.float32]]) -> Tensor:
            return torch.from_numpy(np.stack(arrays)).to(images.device)

        hidden = (stacked([one.hidden for one in seen if one.hidden is not None]),) if self.shallow else ()
        patches = stacked([one.patch_tokens for one in seen])
        features = ImageFeatures(patches, stacked([one.class_token for one in seen]), hidden)
        heads = [one.head for one in seen if isinstance(one.head, ConvexHead | CosineHead)]
        return Encoded(features, partial(finish, heads))

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        texts = [template.replace("{}", name) for name in names for template in self.templates]
        prompts = torch.from_numpy(self.model.text_encoder.encode(texts)).unflatten(0, (len(names), -1))
        return F.normalize(prompts.mean(1, keepdim=True), dim=-1)

    def write(self, network: CoarseToFine, record: NetworkRecord, folder: Path) -> None:
        """See `EncoderPair.write`."""
        checkpoint.save(network, record, folder / CHECKPOINT)
        export_network(network, folder / NETWORK_FILE, record)
        write_model_file(folder, {**self.described, "network": NETWORK_FILE})

    def open(self, folder: Path) -> Model:
        """See `EncoderPair.open`."""
        path = folder / NETWORK_FILE
        return self.model.refined(Network(path), find_selection_head(path))


def nodes_of(head: ConvexHead | CosineHead) -> NDArray[np.float32]:
    """The embeddings (h, w, D) whose logits a network adds to."""
    return head.embeddings if isinstance(head, CosineHead) else head.patch_tokens


def finish(heads: Sequence[ConvexHead | CosineHead], output: NetworkOutput, words: Tensor) -> Tensor:
    """The logits of `Features.logits` with what a network adds, as `steps/network.py` has them.

    Args:
        heads: of each image.
        output: of the network.
        words: (B, M, 1, D).

    Returns:
        (B, M, H, W), differentiable by the network's logits.
    """
    size = (output.logits.shape[2], output.logits.shape[3])
    added = output.logits - F.interpolate(output.cosines, size, mode="bilinear", align_corners=False)
    asked = words[:, :, 0].detach().float().cpu().numpy()
    plain = np.stack([head.logits(one) for head, one in zip(heads, asked, strict=True)])
    frozen = torch.from_numpy(plain).permute(0, 3, 1, 2).to(added.device)  # (B, M, H, W)
    h, w = nodes_of(heads[0]).shape[:2]
    added = F.interpolate(added, (h, w), mode="bilinear", align_corners=False)
    if isinstance(heads[0], CosineHead):
        return frozen + added
    weights = np.stack([head.weights for head in heads if isinstance(head, ConvexHead)])
    convex = torch.from_numpy(weights).to(added.device)  # (B, h*w, s*s, 9)
    side = isqrt(weights.shape[2])
    around = F.unfold(F.pad(added, (1, 1, 1, 1), mode="replicate"), 3)  # (B, M * 9, h*w)
    around = around.unflatten(1, (-1, 9))  # (B, M, 9, h*w)
    fine = torch.einsum("bnsk,bmkn->bmsn", convex, around)  # (B, M, s*s, h*w)
    return frozen + F.pixel_shuffle(fine.flatten(1, 2).unflatten(2, (h, w)), side)


class OpenClip(nn.Module):
    """Any ViT of open_clip (see `encode_images`), frozen but for what is tuned.

    Frozen, names go into CLIP's 80 templates. Tuned, every name of the training sets goes through the text
    tower in every step, so there is one template, CAT-Seg's.

    Args:
        file: the model, with attention 'maskclip'.
        view: side of a training view in pixels, rounded down to whole patches. Images are cut into as many.
        tune: train the queries and values of both towers, as CAT-Seg, SED and DCP-CLIP do.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
        FileNotFoundError: its weights are not on this machine.
        ValueError: no such model, or it is no ViT of open_clip's own kind.
    """

    most_levels = FREELY
    small = False

    def __init__(self, file: ModelFile, view: int, *, tune: bool = False) -> None:
        super().__init__()
        self.vit = vit = load_vit(file)
        self.name, self.digest = vit.name, vit.digest
        self.templates = file.templates or (TEMPLATES if tune else imagenet_templates())
        self.dim, self.logit_scale = vit.dim, vit.logit_scale
        patches = max(view // vit.stride, 1)
        self.side, self.file = patches * vit.stride, replace(file, patches=patches**2)
        self.prompts = len(self.templates)
        self.shallow, self.attention = shallow_widths(vit), attention_heads(vit)
        self.tuned: nn.Module | None = tuned_rows(vit.clip) if tune else None
        mean, deviation = (255.0 * torch.tensor(v).view(3, 1, 1) for v in (vit.mean, vit.std))
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def encode(self, images: Tensor) -> Encoded:
        """See `EncoderPair.encode`."""
        with torch.set_grad_enabled(self.tuned is not None and torch.is_grad_enabled()):
            features = encode_images(self.vit, (images - self.mean) / self.deviation)
        return Encoded(features, lambda output, words: output.logits)

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        with torch.set_grad_enabled(self.tuned is not None and torch.is_grad_enabled()):
            texts = [template.replace("{}", name) for name in names for template in self.templates]
            found = [self.vit.embed_texts(texts[i : i + BATCH]) for i in range(0, len(texts), BATCH)]
        return torch.cat(found).unflatten(0, (len(names), -1))

    def write(self, network: CoarseToFine, record: NetworkRecord, folder: Path) -> None:
        """See `EncoderPair.write`."""
        checkpoint.save(network, record, folder / CHECKPOINT)
        file, weights = self.file, Path(self.file.weights).expanduser()
        described: dict[str, object] = {
            "model": file.model,
            "weights": str(weights.absolute()) if weights.exists() else file.weights,
            **({"cache": str(Path(file.cache).expanduser().absolute())} if file.cache else {}),
            "attention": file.attention,
            "patches": file.patches,
            "network": CHECKPOINT,
        }
        if self.tuned is not None:
            save_file(attention_weights(self.vit.clip), folder / TUNED_FILE)
            described["tuned"] = TUNED_FILE
        write_model_file(folder, described)

    def open(self, folder: Path) -> Model:
        """See `EncoderPair.open`; on the device where it is trained."""
        return open_model(replace(read_model_file(folder / MODEL_FILE), device=str(self.mean.device)))


def write_model_file(folder: Path, described: Mapping[str, object]) -> None:
    """Write `model.yaml`."""
    write_atomically(folder / MODEL_FILE, yaml.safe_dump(dict(described), sort_keys=False).encode())
