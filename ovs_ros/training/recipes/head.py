"""The head over the frozen encoder, on cached tokens: pixel labels, image names, captions.

Losses, each a softmax cross entropy over cosines times `LOGIT_SCALE`:

- pixels: every labelled position against the names of its set (or the set's fine names), some names exchanged
  for synonyms. Words that a set does not know stay out of it: they may well be there, unlabelled;
- captions: an image's score for a text is the softmax-weighted mean of its patches' cosines; images against
  their captions, both ways; the same for the class token;
- nouns: which of some hundred visible nouns an image's captions name, from its patches and its class token;
- image names: the salient patches of an image against all names; the same for the class token.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.dino import DinoEncoder
from ovs_ros.encoders.embedded import GUIDE, LOGIT_SCALE
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.encoders.patches import IMAGENET_MEAN_RGB, fit_grid, place
from ovs_ros.evaluation.labelled_folder import labelled_pairs
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.images import read_image
from ovs_ros.training.cache import Array, Cache, write_cache
from ovs_ros.training.data import (
    IGNORE,
    UNLABELLED,
    caption_nouns,
    nouns_in,
    read_captions,
    read_image_names,
    resize_labels,
)
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.head import SCALE, Head
from ovs_ros.training.options import HeadOptions, TuneOptions
from ovs_ros.training.originals import SaliencyModel
from ovs_ros.training.recipes.stage import StageRecipe
from ovs_ros.training.views import View, labelled_views, middle_square, random_crop
from ovs_ros.training.vocabularies import HELD_OUT, LabelVocabulary, count_values, label_vocabularies
from ovs_ros.training.weights import State, load_weights, mean_state, save_weights, write_models

TEMPLATES = ("{}", "a photo of a {}", "there is a {} in the scene")
SMALL, LARGE, SQUARE = (21, 28), (36, 48), (16, 16)
"""Grids that views are fitted into: labelled ones, large labelled ones, captioned and named ones."""
LARGE_SHARE, LARGE_WINDOW = 0.35, (28, 37)
"""How many batches are of large views, and the window of patches that is cut out of them."""

Change = Callable[[View], View]
Jobs = Sequence[tuple[str, int]]
"""Of each view, its set and which of the set's vocabularies it is told apart by."""


class Words:
    """Sentence embeddings of names, (n, templates, 384), made once."""

    def __init__(self, names: Sequence[str], text: SentenceEncoder, device: torch.device) -> None:
        texts = [template.format(name) for name in names for template in TEMPLATES]
        sentences = torch.from_numpy(text.encode(texts)).view(len(names), len(TEMPLATES), -1)
        self.sentences = sentences.to(device)
        self._at = {name: i for i, name in enumerate(names)}

    def mixed(self, names: Sequence[str]) -> Tensor:
        """Each name's templates in a random mixture: (n, 384)."""
        chosen = self.sentences[[self._at[name] for name in names]]
        share = torch.rand(chosen.shape[:2]).to(chosen.device) ** 2 + 1e-3
        return (chosen * (share / share.sum(1, keepdim=True))[..., None]).sum(1)


class HeadRecipe(StageRecipe):
    """Train the head.

    Args:
        options: how.
        ranks: this process among its fellows.
        data: holds the labelled sets, flickr8k and imagenet_samples.
        cache: gets the encoded images.
        models: holds the encoders.
        start: earlier runs, to go on from the mean of their weights.
    """

    loss_names = ("pixels", "captions", "nouns", "names")
    loss_weights = {"pixels": 1.0, "captions": 0.3, "nouns": 0.5, "names": 0.3}
    open_every = 1
    """Every so many steps captions and image names take turns."""
    caption_batch, name_batch = 48, 16
    word_noise = 0.0
    """Standard deviation of what is added to each number of a label's sentence embedding, so that words near
    a learned one are learned with it."""
    options: HeadOptions | TuneOptions
    captioned: Any
    named: Any

    def __init__(
        self,
        options: HeadOptions | TuneOptions,
        ranks: Ranks,
        data: Path,
        cache: Path,
        models: Path,
        start: Sequence[Path] = (),
    ) -> None:
        super().__init__(options, ranks, data, models)
        self.cache = cache
        self.set_names = options.sets.split(",")
        self.held_out = HELD_OUT if options.hold_out else ()
        self.vocabularies: dict[str, list[LabelVocabulary]] = {}
        self.open_images()
        self.image_names = [name for _, name in read_image_names(data / "imagenet_samples")]
        self.nouns = caption_nouns()
        text = SentenceEncoder(models)
        learned = [word for own in self.vocabularies.values() for one in own for word in one.words]
        names = list(dict.fromkeys([*self.nouns, *self.image_names, *learned]))
        self.words = Words(names, text, self.device)
        self._read_captions(text)
        self.head = Head()
        runs = [load_weights(run) for run in start]
        if runs:
            self.head.load_state_dict(mean_state([run["head"] for run in runs]))
        else:
            self._start_words()
        self.head.to(self.device)
        self.model = nn.ModuleDict({"head": self.head})
        self.identity = {"names": learned, "start": [str(run) for run in start]}

    def open_images(self) -> None:
        """Encode the images that are not encoded yet, and open all; fills `vocabularies`."""
        self.encoder = DinoEncoder(
            self.models / "image_encoder.onnx",
            np.load(self.models / "position_table.npy", allow_pickle=False),
        )
        rng = np.random.default_rng(0)
        kinds: dict[str, tuple[tuple[int, int], Change]] = {
            "full": (SMALL, lambda view: view),
            "flip": (SMALL, View.flipped),
            "crop": (SMALL, lambda view: random_crop(view, rng, 0.45)),
            "color": (LARGE, lambda view: random_crop(view, rng, 0.85)),
        }
        self.small: dict[str, list[Cache]] = {}
        self.large: dict[str, list[Cache]] = {}
        for name in self.set_names:
            split = self.data / name / "train"
            *small, large = (
                self._cached(
                    f"{name}_{kind}", labelled_views(split, change), len(labelled_pairs(split)), grid
                )
                for kind, (grid, change) in kinds.items()
            )
            self.small[name], self.large[name] = small, [large]
            counts = [count_values(labels[:, ::4, ::4]) for labels in small[0].labels]
            self.vocabularies[name] = label_vocabularies(self.data / name, counts, held_out=self.held_out)
        captioned = self._captioned_files()
        views = (View(middle_square(read_image(path)), ()) for path in captioned)
        self.captioned = self._cached("flickr8k", views, len(captioned), SQUARE)
        named = read_image_names(self.data / "imagenet_samples")
        saliency = SaliencyModel()
        squares = (middle_square(read_image(path)) for path, _ in named)
        views = (View(square, (saliency(square),)) for square in squares)
        self.named = self._cached("imagenet", views, len(named), SQUARE)
        self.saliency = patch_means(self.named["label_0"], SQUARE)

    def _cached(self, name: str, views: Iterator[View], count: int, grid: tuple[int, int]) -> Cache:
        digest = file_digest(self.models / "image_encoder.onnx")[:8]
        folder = self.cache / f"tokens_{digest}_{name}_{grid[0]}x{grid[1]}"
        if self.ranks.first:
            write_cache(folder, (encode_tokens(self.encoder, view, grid) for view in views), count=count)
        self.ranks.wait()
        return Cache(folder)

    def _captioned_files(self) -> list[Path]:
        return sorted((self.data / "flickr8k" / "image").glob("*"))

    def _read_captions(self, text: SentenceEncoder) -> None:
        """Embed five captions an image, and note which nouns they name."""
        captions = read_captions(self.data / "flickr8k")
        texts = [captions[file.name][:5] for file in self._captioned_files()]
        flat = text.encode([caption for five in texts for caption in five])
        self.captions = torch.from_numpy(flat).view(len(texts), 5, -1).to(self.device)
        self.mentioned, self.named_once = (
            torch.zeros(len(texts), len(self.nouns), device=self.device) for _ in range(2)
        )
        for i, five in enumerate(texts):
            self.mentioned[i, nouns_in(five, self.nouns, least=2)] = 1.0
            self.named_once[i, nouns_in(five, self.nouns)] = 1.0

    def _start_words(self) -> None:
        """Start the words' projection at the principal components of all names."""
        sentences = self.words.sentences.mean(1).cpu()
        mean = sentences.mean(0)
        _, _, components = torch.linalg.svd(sentences - mean, full_matrices=False)
        weight = self.head.words.weight
        with torch.no_grad():
            weight[: len(components)] = components[: len(weight)]
            self.head.words.bias.copy_(-weight @ mean)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Recipe`."""
        rate = self.options.rate
        words = list(self.head.words.parameters())
        rest = [p for name, p in self.head.named_parameters() if not name.startswith("words.")]
        return [
            {"params": rest, "lr": rate, "weight_decay": 0.05},
            {"params": words, "lr": rate / 5, "weight_decay": 0.0},
        ]

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`; captions and image names take turns: each costs as much as the pixels."""
        losses = {"pixels": self.pixel_loss(rng, *self.labelled_batch(rng))}
        turn, rest = divmod(step + 1, self.open_every)
        if rest == 0 and turn % 2:
            chosen = self._draw(rng, len(self.captioned), self.caption_batch)
            losses["captions"], losses["nouns"] = self.caption_losses(rng, chosen)
        elif rest == 0:
            losses["names"] = self.name_loss(rng, self._draw(rng, len(self.named), self.name_batch))
        return {name: self.loss_weights[name] * loss for name, loss in losses.items()}

    def _share(self, batch: int) -> int:
        """This process's share of a batch."""
        return max(1, batch // self.ranks.world)

    def _draw(self, rng: np.random.Generator, count: int, batch: int) -> NDArray[np.intp]:
        return rng.choice(count, min(self._share(batch), count), replace=False)

    def labelled_batch(
        self, rng: np.random.Generator
    ) -> tuple[Jobs, Tensor, Tensor, list[list[NDArray[np.uint8]]]]:
        """Labelled views, small ones or windows of large ones, most of them of the first set.

        Returns:
            The jobs, tokens (B, h, w, 1536), guides (B, 3, 8h, 8w), and of each view its label maps (4h, 4w).
        """
        jobs: list[tuple[str, int]] = []
        tokens, guides, maps = [], [], []
        large = rng.random() < LARGE_SHARE
        batch = self._share(self.options.batch)
        for i in range(max(1, batch // 2) if large else batch):
            name = self.set_names[i % len(self.set_names)] if i % 3 else self.set_names[0]
            jobs.append((name, int(rng.integers(len(self.vocabularies[name])))))
            caches = (self.large if large else self.small)[name]
            cache = caches[rng.integers(len(caches))]
            grid = LARGE if large else SMALL
            h, w = LARGE_WINDOW if large else grid
            y, x = (int(rng.integers(0, big - s + 1)) for big, s in zip(grid, (h, w), strict=True))
            index, step = int(rng.integers(len(cache))), GUIDE // SCALE
            start = rng.integers(0, step, 2)
            rows, columns = slice(y * GUIDE, (y + h) * GUIDE), slice(x * GUIDE, (x + w) * GUIDE)
            tokens.append(read_tokens(cache, index)[1:].unflatten(0, grid)[y : y + h, x : x + w])
            guides.append(cache["guide"][index, rows, columns])
            maps.append(
                [labels[index, rows, columns][start[0] :: step, start[1] :: step] for labels in cache.labels]
            )
        return jobs, torch.stack(tokens), guide_of(guides), maps

    def whole_batch(
        self, rng: np.random.Generator, images: Any, chosen: NDArray[np.intp]
    ) -> tuple[Tensor, Tensor]:
        """Tokens (B, 1 + N, 1536) of captioned or named images, and which of them (B,) are turned over."""
        return torch.stack([read_tokens(images, int(i)) for i in chosen]), torch.zeros(len(chosen)) > 0

    def pixel_loss(
        self,
        rng: np.random.Generator,
        jobs: Jobs,
        tokens: Tensor,
        guides: Tensor,
        maps: list[list[NDArray[np.uint8]]],
    ) -> Tensor:
        """The loss of labelled views; see `labelled_batch`."""
        tokens = F.dropout2d(tokens.to(self.device).permute(0, 3, 1, 2), 0.1).permute(0, 2, 3, 1)
        with self.autocast():
            hidden, embeddings = self.head.patches(tokens)
            weights, details = self.head.upsampling(hidden, guides.to(self.device))
        total, count = torch.zeros((), device=self.device), 0
        for name, which in sorted(set(jobs)):
            members = [i for i, job in enumerate(jobs) if job == (name, which)]
            vocabulary = self.vocabularies[name][which]
            sentences = self.words.mixed(vocabulary.shown(rng, 0.4))
            noise = torch.randn(sentences.shape).to(self.device) * self.word_noise
            cosines = self.head.pixel_cosines(
                embeddings[members].float(),
                weights[members].float(),
                details[members].float(),
                self.head.embed_words(sentences + noise),
            )
            target = torch.from_numpy(vocabulary.lines[np.stack([maps[i][which] for i in members])])
            loss = F.cross_entropy(
                cosines * LOGIT_SCALE,
                target.to(self.device),
                weight=vocabulary.weights.to(self.device),
                ignore_index=IGNORE,
            )
            if torch.isfinite(loss):  # Some pixel is labelled.
                total = total + loss * len(members)
                count += len(members)
        return total / max(count, 1)

    def _embed(
        self, rng: np.random.Generator, images: Any, chosen: NDArray[np.intp]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embeddings of whole images (B, D), of patches (B, h, w, D), and which images are turned over."""
        tokens, turned = self.whole_batch(rng, images, chosen)
        tokens = tokens.to(self.device)
        with self.autocast():
            _, patches = self.head.patches(tokens[:, 1:].unflatten(1, SQUARE))
        return self.head.whole(tokens[:, 0].float()), patches.float(), turned

    def caption_losses(self, rng: np.random.Generator, chosen: NDArray[np.intp]) -> tuple[Tensor, Tensor]:
        """Captions against images, and nouns that captions name."""
        whole, patches, _ = self._embed(rng, self.captioned, chosen)
        patches = patches.flatten(1, 2)
        texts = self.head.embed_words(self.captions[chosen, rng.integers(0, 5, len(chosen))])
        answer = torch.arange(len(chosen), device=self.device)
        contrast = torch.zeros((), device=self.device)
        for scores in (text_score(patches, texts), whole @ texts.T):
            logits = scores * LOGIT_SCALE
            contrast = contrast + F.cross_entropy(logits, answer) / 2 + F.cross_entropy(logits.T, answer) / 2
        words = self.head.embed_words(self.words.mixed(self.nouns))
        positive = self.mentioned[chosen]
        # A noun that one caption of five names may well be there: neither yes nor no.
        unsure = (self.named_once[chosen] > 0) & (positive == 0)
        nouns = torch.zeros((), device=self.device)
        for scores in (text_score(patches, words), whole @ words.T):
            logits = (scores * LOGIT_SCALE).masked_fill(unsure, -1e4)
            share = positive / positive.sum(1, keepdim=True).clamp(min=1)
            nouns = nouns - (share * logits.log_softmax(1)).sum(1).mean()
            share = positive / positive.sum(0, keepdim=True).clamp(min=1)
            seen = (positive.sum(0) > 0).float()
            nouns = nouns - (share * logits.log_softmax(0)).sum(0) @ seen / seen.sum().clamp(min=1)
        return contrast / 2, nouns / 4

    def name_loss(self, rng: np.random.Generator, chosen: NDArray[np.intp]) -> Tensor:
        """Salient patches and class tokens against all image names."""
        whole, patches, turned = self._embed(rng, self.named, chosen)
        saliency = self.saliency[chosen]
        salient = torch.where(turned[:, None, None], saliency.flip(2), saliency).to(self.device) > 0.6
        words = self.head.embed_words(self.words.mixed(self.image_names))
        answer = torch.from_numpy(chosen).to(self.device)
        target = answer[:, None, None].expand_as(salient)[salient]
        loss = F.cross_entropy(whole @ words.T * LOGIT_SCALE, answer)
        logits = patches[salient] @ words.T * LOGIT_SCALE
        return (loss + F.cross_entropy(logits, target)) / 2 if len(target) else loss

    def _parts(self) -> dict[str, State]:
        return {
            name: {key: value.cpu() for key, value in part.state_dict().items()}
            for name, part in self.model.items()
        }

    def write(self, models: Path) -> None:
        """See `StageRecipe`."""
        write_models(models, self._parts())

    def save(self, folder: Path) -> None:
        """See `Recipe`."""
        save_weights(folder, **self._parts())


def encode_tokens(encoder: DinoEncoder, view: View, grid: tuple[int, int]) -> dict[str, Array]:
    """A view fitted into a grid (h, w), for `write_cache`.

    Returns:
        tokens int8 (1 + h*w, 1536), scales float16 (1 + h*w,), guide uint8 (8h, 8w, 3), and label_0 … uint8
        (8h, 8w) with `UNLABELLED` in the padding.

    Raises:
        ValueError: the view does not fit.
    """
    rows, columns = grid
    fitted = fit_grid(*view.image.shape[:2], patches=rows * columns, patch=encoder.patch)
    if fitted.rows > rows or fitted.columns > columns:
        raise ValueError(f"expected a view that fits {rows} x {columns} patches, got {view.image.shape}")
    canvas = np.empty((rows * encoder.patch, columns * encoder.patch, 3), np.uint8)
    canvas[:] = IMAGENET_MEAN_RGB
    place(view.image, fitted, canvas)
    raw = encoder.tokens(canvas)  # (1 + N, 1536)
    scales = np.abs(raw).max(axis=1) / 127.0
    fine = (rows * GUIDE, columns * GUIDE)
    record: dict[str, Array] = {
        "tokens": np.round(raw / scales[:, None]).astype(np.int8),
        "scales": scales.astype(np.float16),
        "guide": cv2.resize(canvas, fine[::-1], interpolation=cv2.INTER_AREA),
    }
    h, w = (round(n * GUIDE / encoder.patch) for n in (fitted.height, fitted.width))
    for which, labels in enumerate(view.labels):
        record[f"label_{which}"] = padded = np.full(fine, UNLABELLED, np.uint8)
        padded[:h, :w] = resize_labels(labels, (w, h))
    return record


def read_tokens(cache: Cache, index: int) -> Tensor:
    """One view's tokens (1 + N, 1536) float32."""
    scales = cache["scales"][index].astype(np.float32)
    return torch.from_numpy(cache["tokens"][index].astype(np.float32) * scales[:, None])


def guide_of(images: Sequence[NDArray[Any]]) -> Tensor:
    """RGB images (H, W, 3) uint8 as the head takes them: (B, 3, H, W) from 0 to 1."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255.0


def patch_means(maps: NDArray[Any], grid: tuple[int, int]) -> Tensor:
    """Maps (n, H, W) from 0 to 255 as means over patches, (n, h, w) from 0 to 1."""
    cells = maps.reshape(len(maps), grid[0], maps.shape[1] // grid[0], grid[1], -1)
    return torch.from_numpy(cells.mean((2, 4), dtype=np.float32) / 255.0)


def text_score(embeddings: Tensor, words: Tensor) -> Tensor:
    """Images' scores for words: the softmax-weighted mean of the patches' cosines.

    Args:
        embeddings: (B, N, D) unit patch embeddings.
        words: (M, D) unit.

    Returns:
        (B, M), from -1 to 1.
    """
    cosines = embeddings @ words.T  # (B, N, M)
    return (cosines * (cosines * LOGIT_SCALE).softmax(dim=1)).sum(dim=1)
