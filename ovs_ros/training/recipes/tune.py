"""The encoder's last blocks together with the head, on images instead of cached tokens.

Dense tasks want more of DINOv2's last blocks than the frozen ones give. The first blocks stay as they are and
run in int8, so a step costs little more than the head's; every view is a new random crop, which keeps 795
rooms from being learned by heart. Losses are those of `head`; captions and image names come every few steps,
so that the blocks do not forget what labels never show.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.runtime.images import read_image
from ovs_ros.training.data import read_image_names, resize_labels
from ovs_ros.training.dino_torch import DEPTH, PATCH, TUNED, DinoV2, Tail, write_encoder
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.head import SCALE
from ovs_ros.training.options import TuneOptions
from ovs_ros.training.originals import SaliencyModel
from ovs_ros.training.recipes.head import SMALL, SQUARE, HeadRecipe, Jobs, guide_of, patch_means
from ovs_ros.training.views import View, labelled_views, middle_square, random_crop, resize_image
from ovs_ros.training.vocabularies import count_values, label_vocabularies
from ovs_ros.training.weights import load_weights, mean_state

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


class TuneRecipe(HeadRecipe):
    """Tune the last blocks and the head.

    Args:
        options: how; `rate` is the head's.
        ranks: this process among its fellows.
        data: holds the labelled sets, flickr8k and imagenet_samples; all images are held in memory.
        models: holds the text encoder.
        start: earlier runs, to go on from the mean of their weights.
        encoder: the original.
    """

    # Captions and image names come less often, and count more when they do.
    loss_weights = {"pixels": 1.0, "captions": 0.6, "nouns": 1.0, "names": 0.6}
    open_every = 5
    caption_batch, word_noise = 20, 0.01
    options: TuneOptions

    def __init__(
        self,
        options: TuneOptions,
        ranks: Ranks,
        data: Path,
        models: Path,
        start: Sequence[Path],
        encoder: DinoV2,
    ) -> None:
        self.front, self.tail = Front(encoder), Tail(encoder)
        # The tail starts from what earlier runs left, if they had one.
        tuned = [run["tail"] for run in map(load_weights, start) if "tail" in run]
        if tuned:
            self.tail.load_state_dict(mean_state(tuned))
        super().__init__(options, ranks, data, data, models, start)
        self.model["tail"] = self.tail.to(self.device)

    def open_images(self) -> None:
        """Read all images (about 1 MB each)."""
        self.views: dict[str, list[View]] = {}
        size = (SMALL[1] * 2, SMALL[0] * 2)
        for name in self.set_names:
            views = self.views[name] = list(labelled_views(self.data / name / "train"))
            counts = np.sum(
                [[count_values(resize_labels(labels, size)) for labels in view.labels] for view in views], 0
            )
            self.vocabularies[name] = label_vocabularies(self.data / name, counts, held_out=self.held_out)
        self.captioned, self.named = (
            [resize_square(read_image(path)) for path in paths]
            for paths in (
                self._captioned_files(),
                [path for path, _ in read_image_names(self.data / "imagenet_samples")],
            )
        )
        saliency = SaliencyModel()
        self.saliency = patch_means(np.stack([saliency(image) for image in self.named]), SQUARE)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Recipe`."""
        tail = {"params": list(self.tail.parameters()), "lr": self.options.tail_rate, "weight_decay": 0.05}
        return [*super().parameter_groups(), tail]

    def labelled_batch(
        self, rng: np.random.Generator
    ) -> tuple[Jobs, Tensor, Tensor, list[list[NDArray[np.uint8]]]]:
        """Random crops, two of three from the first set."""
        step = GUIDE // SCALE
        start = rng.integers(0, step, 2)
        jobs, images, guides, maps = [], [], [], []
        fine = (SMALL[1] * GUIDE, SMALL[0] * GUIDE)
        for i in range(self._share(self.options.batch)):
            name = self.set_names[-1] if i % 3 == 1 else self.set_names[0]
            jobs.append((name, int(rng.integers(len(self.vocabularies[name])))))
            views = self.views[name]
            view = random_crop(views[rng.integers(len(views))], rng, SMALLEST)
            images.append(resize_image(view.image, (SMALL[1] * PATCH, SMALL[0] * PATCH)))
            guides.append(cv2.resize(images[-1], fine, interpolation=cv2.INTER_AREA))
            maps.append([resize_labels(m, fine)[start[0] :: step, start[1] :: step] for m in view.labels])
        return jobs, self._tokens(images)[:, 1:].unflatten(1, SMALL), guide_of(guides), maps

    def whole_batch(
        self, rng: np.random.Generator, images: Any, chosen: NDArray[np.intp]
    ) -> tuple[Tensor, Tensor]:
        """See `HeadRecipe.whole_batch`; half of the images are turned over."""
        turned = rng.random(len(chosen)) < 0.5
        views = [
            np.ascontiguousarray(images[i][:, ::-1]) if turn else images[i]
            for i, turn in zip(chosen, turned, strict=True)
        ]
        return self._tokens(views), torch.from_numpy(turned)

    def _tokens(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """(B, 1 + N, 1536), with gradients for the last blocks."""
        front = torch.from_numpy(np.stack([self.front(image) for image in images]))
        with self.autocast():
            tokens: Tensor = self.tail(front.to(self.device))
        return tokens


def resize_square(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image's middle square, (224, 224, 3) uint8."""
    size = (SQUARE[1] * PATCH, SQUARE[0] * PATCH)
    return cv2.resize(middle_square(image), size, interpolation=cv2.INTER_AREA)
