"""Encoders that know colours and their names: deterministic, quick, and without weights.

With them a plainly coloured picture has a label image that a test can write down. Areas whose borders lie on
multiples of `ColorImageEncoder.STRIDE` pixels come back exact along straight borders.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from functools import cache
from time import sleep
from typing import Any
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.fusion import with_second
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.model import Model
from ovs_ros.options import LoadOptions, SegmenterOptions
from ovs_ros.runtime.stage_clock import StageClock
from ovs_ros.segmenter import Segmenter
from ovs_ros.vocabulary.attributes import load_attributes
from ovs_ros.vocabulary.generic_negatives import read_negatives

COLORS: dict[str, tuple[int, int, int]] = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "gray": (128, 128, 128),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "orange": (255, 128, 0),
    "purple": (128, 0, 128),
    "brown": (128, 64, 0),
}
DIM = 48
_PALETTE = np.array(list(COLORS.values()), np.float32)  # (12, 3)


def embed_colors(rgb: NDArray[np.float32]) -> NDArray[np.float32]:
    """RGB values (…, 3) in 0..255 as unit vectors (…, DIM): how near they are to each colour with a name."""
    squared = ((rgb[..., None, :] - _PALETTE) ** 2).sum(axis=-1)
    near = np.exp(-squared / (2 * 40.0**2)) + 1e-6
    out = np.zeros((*rgb.shape[:-1], DIM), np.float32)
    out[..., : len(COLORS)] = near
    return out / np.linalg.norm(out, axis=-1, keepdims=True)


class ColorTextEncoder:
    """Embeds a text as the first colour that it names; other texts as vectors that look like no colour."""

    name = "fake-colour-words"
    dim = DIM
    templates = ("{}", "a photo of {}")
    keeps_prompts = False

    def __init__(self) -> None:
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: (len(texts), DIM) float32 unit rows. The texts are kept in `encoded`."""
        self.encoded.extend(texts)
        return np.array([self._embed(text) for text in texts], np.float32).reshape(-1, DIM)

    def reads(self, text: str) -> bool:
        """Whether a text has letters that this encoder reads."""
        return text.isascii()

    @staticmethod
    @cache
    def _embed(text: str) -> NDArray[np.float32]:
        words = text.lower().split()
        for word in words:
            if word in COLORS:
                return embed_colors(np.array(COLORS[word], np.float32))
        seed = crc32(" ".join(word for word in words if word not in {"a", "photo", "of"}).encode())
        out = np.zeros(DIM, np.float32)
        out[len(COLORS) :] = np.random.default_rng(seed).standard_normal(DIM - len(COLORS))
        return out / np.linalg.norm(out)


class ColorImageEncoder:
    """Embeds areas of an image by their mean colour.

    Args:
        on_backbone: called at each frame's encoding, on the frame's thread. Let it wait for an event, and
            the encoder is as slow as a test needs it to be; let it raise, and the encoder fails.
    """

    STRIDE = 8
    PATCH = 16
    name = "fake-colours"
    dim = DIM
    logit_scale = 20.0
    device = "cpu"
    patches = 0

    def __init__(self, on_backbone: Callable[[], object] | None = None) -> None:
        self.on_backbone = on_backbone

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Embed the mean colours of the pixel grid, of the patch grid, and all of them together."""
        clock = StageClock()
        clock.stage("prepare")
        if self.on_backbone is not None:
            self.on_backbone()
        clock.stage("encode")
        height, width = image.shape[:2]
        down, right = -height % self.PATCH, -width % self.PATCH
        padded = np.pad(image, ((0, down), (0, right), (0, 0)), mode="edge").astype(np.float32)
        pixels = _mean_colors(padded, self.STRIDE)  # (ph, pw, 3)
        whole = embed_colors(pixels).mean(axis=(0, 1))
        features = Features(
            class_token=whole / np.linalg.norm(whole),
            patch_tokens=embed_colors(_mean_colors(pixels, self.PATCH // self.STRIDE)),
            head=CosineHead(embed_colors(pixels), self.logit_scale),
            valid=(height / (height + down), width / (width + right)),
            logit_scale=self.logit_scale,
            stages_ms=clock.stages_ms,
        )
        clock.stage("project")
        return features


class SlowColors(ColorImageEncoder):
    """The same, as slow as its patches are many; how many they are changes nothing else.

    Args:
        per_patch_s: seconds for each patch.
    """

    def __init__(self, per_patch_s: float) -> None:
        super().__init__(lambda: sleep(self.patches * per_patch_s))
        self.patches = 768

    def resize(self, patches: int) -> None:
        """See `ResizableEncoder.resize`."""
        self.patches = patches


def _mean_colors(image: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    return image.reshape(height // size, size, width // size, size, 3).mean(axis=(1, 3))


class TogetherImageEncoder(ColorImageEncoder):
    """Encodes images together, as a torch model on a GPU does.

    Attributes:
        batches: how many images each batch had.
    """

    most_at_once = 8

    def __init__(self, on_backbone: Callable[[], object] | None = None) -> None:
        super().__init__(on_backbone)
        self.batches: list[int] = []

    def encode_batch(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, Features]]:
        """Each image as `encode` has it."""
        self.batches.append(len(images))
        yield from ((index, self.encode(image)) for index, image in enumerate(images))


def color_segmenter(on_backbone: Callable[[], object] | None = None, **options: Any) -> Segmenter:
    """A segmenter that knows the names in COLORS; `options` are those of SegmenterOptions."""
    return Segmenter(Model(ColorImageEncoder(on_backbone), ColorTextEncoder()), SegmenterOptions(**options))


def load_color_segmenter(name: str, **arguments: Any) -> Segmenter:
    """`ovs_ros.load` with these encoders; it refuses other names than 'stream'."""
    if name != "stream":
        raise ValueError(f"expected the model to be one of stream, quality, got {name!r}")
    load = LoadOptions(
        **{one.name: arguments[one.name] for one in fields(LoadOptions) if one.name in arguments}
    )
    options = {one.name: arguments[one.name] for one in fields(SegmenterOptions) if one.name in arguments}
    segmenter = color_segmenter(**options)
    encoder = with_second(segmenter.model.image_encoder, load.second_encoder, load.fusion)
    return replace(
        segmenter,
        model=replace(segmenter.model, image_encoder=encoder),
        attributes=load_attributes(load.attributes, load.attribute_weight),
        negatives=read_negatives(load.negatives),
    )


def color_image(rows: Sequence[Sequence[str]], size: int = 32) -> NDArray[np.uint8]:
    """A picture (len(rows) * size, len(rows[0]) * size, 3) uint8 of plain squares, named row by row."""
    squares = np.array([[COLORS[name] for name in row] for row in rows], np.uint8)
    return squares.repeat(size, axis=0).repeat(size, axis=1)
