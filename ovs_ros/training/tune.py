"""Tune the encoder's last blocks together with the head, on images instead of cached tokens.

Dense tasks want more of DINOv2's last blocks than the frozen ones give. The first blocks stay as they are and
run in int8, so a step costs little more than the head's; every view is a new random crop, which keeps 795
rooms from being learned by heart. Losses are those of `train_head`; captions and image names come every few
steps, so that the blocks do not forget what labels never show.
"""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import labelled_images, read_image_names, resize_labels
from ovs_ros.training.dino_torch import DEPTH, PATCH, WIDTH, DinoV2, write_encoder
from ovs_ros.training.head import SCALE
from ovs_ros.training.originals import SaliencyModel
from ovs_ros.training.token_cache import SMALL, SQUARE, View, random_crop, read_grey
from ovs_ros.training.train_head import Encode, Trainer, TrainOptions, is_tuned, mean_state
from ovs_ros.training.vocabularies import LabelVocabulary, label_vocabularies

TUNED = 3
"""How many blocks at the end are tuned."""
SMALLEST = 0.38
"""The least side of a random crop, as a share of the image's."""


class Front:
    """The first blocks in int8, on ONNX Runtime."""

    def __init__(self, encoder: DinoV2) -> None:
        with TemporaryDirectory() as folder:
            path = Path(folder) / "front.onnx"
            write_encoder(encoder, path, depth=DEPTH - TUNED)
            self._dino = DinoEncoder(path, encoder.positions)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """RGB (14 h, 14 w, 3) uint8 to tokens (1 + h*w, 1536): layers 3, 6, 9, and what block 10 takes."""
        return self._dino.tokens(image)


class Tail(nn.Module):
    """Copies of the last blocks and the final normalisation, to be trained."""

    def __init__(self, encoder: DinoV2) -> None:
        super().__init__()
        self.blocks = deepcopy(encoder.blocks[-TUNED:])
        self.norm = deepcopy(encoder.last_norm)
        self.requires_grad_()

    def forward(self, front: Tensor) -> Tensor:
        """(B, 1 + N, 1536) of `Front` to the tokens of the layers 3, 6, 9 and 12, of the same shape."""
        x = front[..., 3 * WIDTH :]
        for block in self.blocks:
            x = block(x)
        return torch.cat([front[..., : 3 * WIDTH], self.norm(x)], dim=-1)


def with_tail(encoder: DinoV2, tail: dict[str, Tensor]) -> DinoV2:
    """A copy of the encoder with tuned last blocks.

    Args:
        encoder: the original.
        tail: what `Tail.state_dict` gives.
    """
    tuned, part = deepcopy(encoder), Tail(encoder)
    part.load_state_dict(tail)
    tuned.blocks = nn.ModuleList([*tuned.blocks[:-TUNED], *part.blocks])
    tuned.last_norm = part.norm
    return tuned.requires_grad_(False)


@dataclass(frozen=True)
class ImageSet:
    """A labelled set in memory: every image with its class labels and fine labels, and the vocabularies."""

    name: str
    views: list[View]
    vocabularies: list[LabelVocabulary]


def load_images(folder: Path, held_out: Sequence[str]) -> ImageSet:
    """Read a labelled set's training images (about 1 MB each)."""
    views = []
    for index, files in enumerate(labelled_images(folder / "train")):
        label = read_grey(files.label)
        fine = read_grey(files.fine) if files.fine else np.zeros_like(label)
        views.append(View(read_image(files.image), (label, fine), index))
    size = (SMALL[1] * 2, SMALL[0] * 2)
    counts = [np.zeros(256, np.int64) for _ in views[0].labels]
    for view in views:
        for count, labels in zip(counts, view.labels, strict=True):
            small = resize_labels(labels, size)
            count += np.bincount(small.ravel(), minlength=256)
    return ImageSet(folder.name, views, label_vocabularies(folder, counts, held_out))


class Tuner(Trainer):
    """Tunes the last blocks and the head; see `Trainer` for the losses."""

    longest_average = 0.99
    open_every, open_weight = 5, 2.0
    """Every so many steps captions and image names take turns, and count so much."""

    def __init__(
        self, options: TrainOptions, tail_rate: float, data: Path, encode: Encode, encoder: DinoV2
    ) -> None:
        """Read the images.

        Args:
            options: as for the head; `rate` is the head's.
            tail_rate: peak learning rate of the last blocks.
            data: the folder of the sets.
            encode: of sentences.
            encoder: the original.
        """
        self.front, self.tail, self.tail_rate = Front(encoder), Tail(encoder), tail_rate
        # The tail starts from what earlier runs left, if they had one.
        tuned = [path for path in options.start if is_tuned(path)]
        if tuned:
            self.tail.load_state_dict(mean_state(tuned, "tail"))
        super().__init__(options, data, data, encode)
        self.modules = {"head": self.head, "tail": self.tail}
        self._start_averages()

    def _open_sets(self) -> None:
        self.images = [load_images(self.data / name, self.options.held_out) for name in self.options.sets]
        self.vocabularies = {images.name: images.vocabularies for images in self.images}

    def _open_names(self) -> None:
        saliency = SaliencyModel()
        self.pictures = [self._square(path) for path, _ in read_image_names(self.data / "imagenet_samples")]
        maps = np.stack([saliency(picture) for picture in self.pictures])  # (n, 224, 224)
        n, side = SQUARE[0], self.pictures[0].shape[0] // SQUARE[0]
        cells = maps.reshape(len(maps), n, side, n, side).mean((2, 4), dtype=np.float32)
        self.saliency = torch.from_numpy(cells / 255.0)

    def _open_captioned(self) -> None:
        self.photographs = [
            self._square(path) for path in sorted((self.data / "flickr8k" / "image").glob("*"))
        ]

    def _square(self, path: Path) -> NDArray[np.uint8]:
        """An image's middle square, (224, 224, 3) uint8."""
        image = read_image(path)
        side = min(image.shape[:2])
        y, x = ((n - side) // 2 for n in image.shape[:2])
        size = (SQUARE[1] * PATCH, SQUARE[0] * PATCH)
        return cv2.resize(image[y : y + side, x : x + side], size, interpolation=cv2.INTER_AREA)

    def losses(self, step: int) -> dict[str, Tensor]:
        """The losses of one step."""
        losses = {"pixels": self.pixel_loss()}
        turn, rest = divmod(step, self.open_every)
        if rest == 0 and turn % 2:
            captions, nouns = self.caption_losses()
            losses |= {"captions": captions * self.open_weight, "nouns": nouns * self.open_weight}
        elif rest == 0:
            losses["names"] = self.name_loss() * self.open_weight
        return losses

    def groups(self) -> list[dict[str, Any]]:
        """What is trained, with the peak rate of each group."""
        tail = {"params": list(self.tail.parameters()), "lr": self.tail_rate, "peak": self.tail_rate}
        return [*super().groups(), tail]

    def pixel_loss(self) -> Tensor:
        """The loss of one batch of random crops, two of three from the first set."""
        step = GUIDE // SCALE
        start = self.rng.integers(0, step, 2)
        jobs, images, guides, maps = [], [], [], []
        for i in range(self.options.batch):
            chosen = self.images[-1] if i % 3 == 1 else self.images[0]
            jobs.append((chosen.name, int(self.rng.integers(len(chosen.vocabularies)))))
            view = random_crop(chosen.views[self.rng.integers(len(chosen.views))], self.rng, SMALLEST)
            size = (SMALL[1] * PATCH, SMALL[0] * PATCH)
            fine = (SMALL[1] * GUIDE, SMALL[0] * GUIDE)
            shrinks = view.image.shape[1] > size[0]
            image = cv2.resize(
                view.image, size, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
            )
            images.append(image)
            guides.append(cv2.resize(image, fine, interpolation=cv2.INTER_AREA))
            labels = [resize_labels(m, fine) for m in view.labels]
            maps.append([m[start[0] :: step, start[1] :: step] for m in labels])
        tokens = self._tokens(images)[:, 1:].unflatten(1, SMALL)
        guide = torch.from_numpy(np.stack(guides)).permute(0, 3, 1, 2).float() / 255.0
        return self.labelled_loss(jobs, tokens, guide, maps)

    def caption_losses(self) -> tuple[Tensor, Tensor]:
        """See `Trainer.caption_losses`."""
        chosen = self.rng.choice(len(self.photographs), self.options.caption_batch, replace=False)
        whole, embeddings, _ = self._embedded([self.photographs[i] for i in chosen])
        return self.captioned_losses(chosen, embeddings.flatten(1, 2), whole)

    def name_loss(self) -> Tensor:
        """See `Trainer.name_loss`."""
        chosen = self.rng.choice(len(self.pictures), self.options.name_batch, replace=False)
        whole, embeddings, turned = self._embedded([self.pictures[i] for i in chosen])
        saliency = self.saliency[chosen]
        saliency = torch.where(turned[:, None, None], saliency.flip(2), saliency)
        return self.named_loss(chosen, embeddings, whole, saliency)

    def _embedded(self, images: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of whole images (B, D) and patches (B, h, w, D), and which images were turned over."""
        turned = self.rng.random(len(images)) < 0.5
        views = [
            np.ascontiguousarray(image[:, ::-1]) if turn else image
            for image, turn in zip(images, turned, strict=True)
        ]
        tokens = self._tokens(views)
        with torch.autocast("cpu", torch.bfloat16):
            _, embeddings = self.head.patches(tokens[:, 1:].unflatten(1, SQUARE))
        return self.head.whole(tokens[:, 0].float()), embeddings.float(), torch.from_numpy(turned)

    def _tokens(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(B, 1 + N, 1536), with gradients for the last blocks."""
        front = torch.from_numpy(np.stack([self.front(image) for image in images]))
        with torch.autocast("cpu", torch.bfloat16):
            tokens: Tensor = self.tail(front)
        return tokens
