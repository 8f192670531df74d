"""A ViT of open_clip with a trained coarse-to-fine network as its decoder (`ovs train network`)."""

from pathlib import Path

import torch
from torch import Tensor

from ovs_ros.encoders.clip.attention import LastLayer, attend, feed
from ovs_ros.encoders.clip.clip_model import ClipModel, unit
from ovs_ros.encoders.clip.dense_model import TorchFeatures
from ovs_ros.encoders.clip.open_clip_models import load_open_clip
from ovs_ros.encoders.clip.vit import OpenClipViT
from ovs_ros.encoders.manifest import SELECTION_FILE
from ovs_ros.encoders.model_file import ModelFile
from ovs_ros.runtime.files import file_digest
from ovs_ros.steps.network_record import NetworkRecord
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures
from ovs_ros.zoo.coarse_to_fine.tuned_attention import load_tuned


class CoarseToFineClip(ClipModel):
    """The two as one dense model with a decoder of its own; see `DenseModel`.

    Args:
        vit: the frozen encoders; their choice of attention does not count, patches are MaskCLIP's.
        network: trained over them.
        record: what it was trained over and on.
        name: identifies the weights of both.

    Raises:
        ValueError: the network was made for encoders of other widths.
    """

    decodes = True

    def __init__(self, vit: OpenClipViT, network: CoarseToFine, record: NetworkRecord, name: str) -> None:
        super().__init__(vit.clip, name=name, dim=vit.dim, stride=vit.stride, tokenizer=vit.tokenizer)
        config = network.config
        given = {"dim": vit.dim, "shallow": shallow_widths(vit), "attention": attention_heads(vit)}
        wanted = {name: getattr(config, name) for name in given}
        if given != wanted:
            raise ValueError(f"expected a network over {given}, as {vit.name} gives, got one over {wanted}")
        self.vit, self.network = vit, network
        self.templates, self.trained_names = record.templates, record.names
        self.keeps_prompts = config.prompts > 1
        self.decode_scale = 2**config.levels
        self.requires_grad_(False).eval()

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`; `decoding` is the earlier layers and the class token's attention."""
        features = encode_images(self.vit, images)
        assert features.attention is not None
        return TorchFeatures(features.patches, features.image, (*features.shallow, features.attention))

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`; words of zeros only fill up, where a fixed number is needed."""
        *shallow, attention = (tensor.float() for tensor in features.decoding)
        given = ImageFeatures(features.patches.float(), features.image.float(), tuple(shallow), attention)
        mask = words.abs().sum((1, 2)) > 0  # (M,)
        return self.network(given, words[None], mask[None]).logits[0]


def encode_images(vit: OpenClipViT, images: Tensor) -> ImageFeatures:
    """The network's input from images: patches as in MaskCLIP (Zhou, Loy, Dai 2022, section 3.2), and more.

    Args:
        vit: the encoders.
        images: (B, 3, H, W) normalised RGB, H and W multiples of the ViT's stride.
    """
    grid = images.shape[2] // vit.stride, images.shape[3] // vit.stride
    *early, last = vit.clip.visual.transformer.resblocks
    taken = _taken(vit)
    tokens = vit.embed(images, grid)  # (B, 1 + N, C)
    shallow = []
    for index, block in enumerate(early, start=1):
        tokens = feed(block, attend(block, tokens))
        if index in taken:
            shallow.append(tokens[:, 1:].unflatten(1, grid))
    layer = LastLayer(last, tokens)
    return ImageFeatures(
        patches=unit(vit.project(layer.maskclip()).float()).unflatten(1, grid),
        image=vit.pooled(layer).float(),
        shallow=tuple(shallow),
        attention=layer.class_attention().mT.unflatten(1, grid),
    )


def shallow_widths(vit: OpenClipViT) -> tuple[int, ...]:
    """C_i of the earlier layers in `ImageFeatures.shallow`."""
    return (vit.clip.visual.conv1.out_channels,) * len(_taken(vit))


def attention_heads(vit: OpenClipViT) -> int:
    """Channels of `ImageFeatures.attention`."""
    return vit.clip.visual.transformer.resblocks[-1].attn.num_heads


def _taken(vit: OpenClipViT) -> tuple[int, int]:
    """After which blocks the earlier layers are taken: a third and two thirds of all, as in CAT-Seg."""
    depth = len(vit.clip.visual.transformer.resblocks)
    return depth // 3, 2 * depth // 3


def load_vit(file: ModelFile) -> OpenClipViT:
    """The encoders that a network can be trained over, tuned if they are.

    Raises:
        ValueError: the model is no ViT of open_clip's own, or has another attention than 'maskclip'.
        FileNotFoundError, ModuleNotFoundError: see `load_open_clip`.
    """
    vit = load_open_clip(file)
    if not isinstance(vit, OpenClipViT):
        raise ValueError(
            f"expected a plain ViT of open_clip for a network, got {file.model}; take one such as ViT-B-16"
        )
    if file.attention != "maskclip":
        raise ValueError(
            "expected attention: maskclip beside network, as networks are trained over, got"
            f" {file.attention!r}"
        )
    if file.tuned:
        load_tuned(vit.clip, Path(file.tuned))
        vit.name += f" tuned {file_digest(Path(file.tuned))[:12]}"
    return vit


def load_coarse_to_fine(file: ModelFile) -> CoarseToFineClip:
    """The model that a model file with the key `network` describes.

    Raises:
        ValueError: no such model, or parts that do not go together.
        FileNotFoundError: a file is missing.
        ModuleNotFoundError: open_clip is not installed.
    """
    path = Path(file.network)
    network, record = checkpoint.load(path)
    vit = load_vit(file)
    record.check(vit.name, vit.digest, file.templates)
    with torch.no_grad():
        model = CoarseToFineClip(vit, network, record, f"{vit.name} network {file_digest(path)[:12]}")
    model.selection_file = path.with_name(SELECTION_FILE)
    return model
