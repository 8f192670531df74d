"""Train the head on cached tokens: pixel labels, image names, captions.

Losses, each a softmax cross entropy over cosines times `LOGIT_SCALE`:

- pixels: every labelled position against the names of its set (or the set's fine names), some names exchanged
  for synonyms. Words that a set does not know stay out of it: they may well be there, unlabelled;
- captions: an image's score for a text is the softmax-weighted mean of its patches' cosines; images against
  their captions, both ways; the same for the class token;
- nouns: which of some hundred visible nouns an image's captions name, from its patches and its class token;
- image names: the salient patches of an image against all names; the same for the class token.
"""

import csv
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.training.data import IGNORE, caption_nouns, nouns_in, read_captions, read_image_names, read_names
from ovs_ros.training.head import SCALE, Head, PlainHead
from ovs_ros.training.vocabularies import LabelVocabulary, label_vocabularies

LOGIT_SCALE = 20.0
TEMPLATES = ("{}", "a photo of a {}", "there is a {} in the scene")
LARGE_SHARE, LARGE_WINDOW = 0.35, (28, 37)
"""How many batches are of large views, and the window of patches that is cut out of them."""

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
"""Texts to unit sentence embeddings (n, 384)."""


@dataclass
class TrainOptions:
    """What is trained on and how.

    Attributes:
        sets: labelled sets to learn from (folders of the data directory).
        captions, names: whether captions and named images are learned from.
        held_out: fine names (and with them their pixels) that are hidden from training.
        steps, batch, caption_batch, name_batch: length and sizes.
        rate: peak learning rate. words_rate: the same for the projection of words.
        plain: train the plain comparison head instead.
        start: weights that earlier runs saved, to go on from their mean.
        word_noise: standard deviation of what is added to each number of a label's sentence embedding, so
            that words near a learned one are learned with it.
    """

    sets: tuple[str, ...] = ("nyuv2", "camvid")
    captions: bool = True
    names: bool = True
    held_out: tuple[str, ...] = ()
    steps: int = 1500
    batch: int = 8
    caption_batch: int = 48
    name_batch: int = 16
    rate: float = 1e-3
    words_rate: float = 2e-4
    plain: bool = False
    start: tuple[Path, ...] = ()
    word_noise: float = 0.0
    seed: int = 0
    weights: dict[str, float] = field(
        default_factory=lambda: {"pixels": 1.0, "captions": 0.3, "nouns": 0.5, "names": 0.3}
    )


class Cache:
    """One folder of `features.write_cache`, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self.tokens, self.scales, self.guide, self.source = (
            np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("tokens", "scales", "guide", "source")
        )
        self.labels = [np.load(path, mmap_mode="r") for path in sorted(folder.glob("label_*.npy"))]
        self.grid = self.guide.shape[1] // GUIDE, self.guide.shape[2] // GUIDE

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, index: int, window: tuple[slice, slice] | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """One view's class token (1536,), patch tokens (h, w, 1536) and guide (3, 8h, 8w)."""
        raw = self.tokens[index].astype(np.float32) * self.scales[index].astype(np.float32)[:, None]
        patches = raw[1:].reshape(*self.grid, -1)
        guide = self.guide[index]
        if window:
            patches, guide = patches[window], guide[finer(window)]
        return (
            torch.from_numpy(raw[0]),
            torch.from_numpy(np.ascontiguousarray(patches)),
            torch.from_numpy(guide.astype(np.float32) / 255.0).permute(2, 0, 1),
        )


def finer(window: tuple[slice, slice]) -> tuple[slice, slice]:
    """A window of patches, in positions of the guide."""
    rows, columns = (slice(s.start * GUIDE, s.stop * GUIDE) for s in window)
    return rows, columns


class Words:
    """Sentence embeddings of names, (n, templates, 384), made once."""

    def __init__(self, names: Sequence[str], encode: Encode) -> None:
        self.names = list(names)
        texts = [template.format(name) for name in self.names for template in TEMPLATES]
        self.sentences = torch.from_numpy(encode(texts)).view(len(self.names), len(TEMPLATES), -1)
        self.at = {name: i for i, name in enumerate(self.names)}

    def pick(self, names: Sequence[str], generator: torch.Generator) -> Tensor:
        """Each name's templates in a random mixture: (n, 384)."""
        chosen = self.sentences[[self.at[name] for name in names]]
        share = torch.rand(chosen.shape[:2], generator=generator) ** 2 + 1e-3
        return (chosen * (share / share.sum(1, keepdim=True))[..., None]).sum(1)

    def mean(self, names: Sequence[str]) -> Tensor:
        """The mean over the templates: (n, 384)."""
        return self.sentences[[self.at[name] for name in names]].mean(1)


@dataclass(frozen=True)
class LabelledSet:
    """A labelled set's caches, and the vocabulary of each label map."""

    name: str
    small: list[Cache]
    large: list[Cache]
    vocabularies: list[LabelVocabulary]


def load_labelled(name: str, data: Path, caches: Path, held_out: Sequence[str]) -> LabelledSet:
    """Open a labelled set's training caches; pixels of held-out fine names are ignored in the fine map."""
    small = [Cache(caches / f"{name}_train_{kind}_21") for kind in ("full", "flip", "crop")]
    large = [Cache(caches / f"{name}_train_color_36")]
    counts = [
        np.bincount(np.asarray(labels[:, ::4, ::4]).ravel(), minlength=256) for labels in small[0].labels
    ]
    return LabelledSet(name, small, large, label_vocabularies(data / name, counts, held_out))


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


class Trainer:
    """Holds the data, the head and its moving average."""

    longest_average = 0.995

    def __init__(self, options: TrainOptions, data: Path, caches: Path, encode: Encode) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.data, self.caches = data, caches
        self.rng = np.random.default_rng(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        self._open_sets()
        self.nouns = caption_nouns()
        named = [name for _, name in read_image_names(data / "imagenet_samples")]
        bank = dict.fromkeys(self.nouns + named + list(options.held_out))
        for name in ("nyuv2", "camvid"):
            bank.update(dict.fromkeys(read_names(data / name / "classes.txt")))
        for vocabularies in self.vocabularies.values():
            for vocabulary in vocabularies:
                bank.update(dict.fromkeys(vocabulary.names))
                bank.update(dict.fromkeys(word for own in vocabulary.synonyms.values() for word in own))
        self.words = Words(list(bank), encode)
        if options.captions:
            self._open_captions(encode)
        if options.names:
            self.image_names = named
            self._open_names()
        self.head: Head = PlainHead() if options.plain else Head()
        if options.start:
            self.head.load_state_dict(mean_state(options.start, "head"))
        elif not options.plain:
            self._start_words()
        self.modules: dict[str, nn.Module] = {"head": self.head}
        self._start_averages()

    def _start_averages(self) -> None:
        self.averages = {
            name: {key: value.detach().clone() for key, value in module.state_dict().items()}
            for name, module in self.modules.items()
        }

    def _open_sets(self) -> None:
        self.sets = [
            load_labelled(name, self.data, self.caches, self.options.held_out) for name in self.options.sets
        ]
        self.vocabularies = {labelled.name: labelled.vocabularies for labelled in self.sets}

    def _open_names(self) -> None:
        self.named = Cache(self.caches / "imagenet")
        saliency = np.asarray(self.named.labels[0]).astype(np.float32) / 255.0
        n = self.named.grid[0]
        self.saliency = torch.from_numpy(saliency.reshape(len(saliency), n, GUIDE, n, GUIDE).mean((2, 4)))

    def _open_captioned(self) -> None:
        self.captioned = Cache(self.caches / "flickr8k")

    def _open_captions(self, encode: Encode) -> None:
        self._open_captioned()
        captions = read_captions(self.data / "flickr8k")
        files = sorted((self.data / "flickr8k" / "image").glob("*"))
        texts = [captions[f.name][:5] for f in files]
        flat = encode([text for five in texts for text in five])
        self.captions = torch.from_numpy(flat).view(len(files), 5, -1)
        self.mentioned = torch.zeros(len(files), len(self.nouns))
        self.named_once = torch.zeros(len(files), len(self.nouns))
        for i, five in enumerate(texts):
            self.mentioned[i, nouns_in(five, self.nouns, least=2)] = 1.0
            self.named_once[i, nouns_in(five, self.nouns)] = 1.0

    def _start_words(self) -> None:
        """Start the words' projection at the principal components of the bank of names."""
        sentences = self.words.sentences.mean(1)
        mean = sentences.mean(0)
        _, _, components = torch.linalg.svd(sentences - mean, full_matrices=False)
        dim = self.head.words.out_features
        with torch.no_grad():
            self.head.words.weight.copy_(components[:dim])
            self.head.words.bias.copy_(-components[:dim] @ mean)

    def _view(self, labelled: LabelledSet, large: bool) -> tuple[Tensor, Tensor, list[NDArray[np.uint8]]]:
        """A random view, small or a window of a large one: tokens, guide, label maps at pixel positions."""
        caches = labelled.large if large else labelled.small
        cache = caches[self.rng.integers(len(caches))]
        h, w = LARGE_WINDOW if large else cache.grid
        y, x = (int(self.rng.integers(0, big - s + 1)) for big, s in zip(cache.grid, (h, w), strict=True))
        window = (slice(y, y + h), slice(x, x + w))
        index = int(self.rng.integers(len(cache)))
        _, patches, guide = cache.read(index, window)
        step = GUIDE // SCALE
        start = self.rng.integers(0, step, 2)
        maps = [np.asarray(m[index][finer(window)])[start[0] :: step, start[1] :: step] for m in cache.labels]
        return patches, guide, maps

    def pixel_loss(self) -> Tensor:
        """The loss of one batch of labelled views, shared out over the sets and their vocabularies."""
        jobs: list[tuple[LabelledSet, int]] = []
        large = self.rng.random() < LARGE_SHARE
        for i in range(self.options.batch // 2 if large else self.options.batch):
            labelled = self.sets[i % len(self.sets)] if i % 3 else self.sets[0]
            jobs.append((labelled, int(self.rng.integers(len(labelled.vocabularies)))))
        views = [self._view(labelled, large) for labelled, _ in jobs]
        return self.labelled_loss(
            [(labelled.name, which) for labelled, which in jobs],
            torch.stack([view[0] for view in views]),
            torch.stack([view[1] for view in views]),
            [view[2] for view in views],
        )

    def labelled_loss(
        self,
        jobs: Sequence[tuple[str, int]],
        tokens: Tensor,
        guides: Tensor,
        maps: list[list[NDArray[np.uint8]]],
    ) -> Tensor:
        """The pixel loss of views.

        Args:
            jobs: of each view, its set and which of the set's vocabularies it is told apart by.
            tokens: (B, h, w, 1536).
            guides: (B, 3, 8h, 8w).
            maps: of each view, its label maps (4h, 4w).
        """
        tokens = F.dropout2d(tokens.permute(0, 3, 1, 2), 0.1).permute(0, 2, 3, 1)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, embeddings = self.head.patches(tokens)
            weights, details = self.head.upsampling(hidden, guides)
        total, count = torch.zeros(()), 0
        for name, which in sorted(set(jobs)):
            members = [i for i, job in enumerate(jobs) if job == (name, which)]
            vocabulary = self.vocabularies[name][which]
            sentences = self.words.pick(vocabulary.shown(self.rng, 0.4), self.generator)
            noise = torch.randn(sentences.shape, generator=self.generator) * self.options.word_noise
            cosines = self.head.pixel_cosines(
                embeddings[members].float(),
                weights[members].float(),
                details[members].float(),
                self.head.embed_words(sentences + noise),
            )
            target = torch.from_numpy(vocabulary.lines[np.stack([maps[i][which] for i in members])]).long()
            loss = F.cross_entropy(
                cosines * LOGIT_SCALE, target, weight=vocabulary.weights, ignore_index=IGNORE
            )
            if torch.isfinite(loss):
                total = total + loss * len(members)
                count += len(members)
        return total / max(count, 1)

    def caption_losses(self) -> tuple[Tensor, Tensor]:
        """Captions against images, and nouns that captions name."""
        chosen = self.rng.choice(len(self.captioned), self.options.caption_batch, replace=False)
        read = [self.captioned.read(int(i)) for i in chosen]
        tokens = torch.stack([r[1] for r in read])
        with torch.autocast("cpu", torch.bfloat16):
            _, embeddings = self.head.patches(tokens)
        return self.captioned_losses(
            chosen, embeddings.float().flatten(1, 2), self.head.whole(torch.stack([r[0] for r in read]))
        )

    def captioned_losses(
        self, chosen: NDArray[np.intp], embeddings: Tensor, whole: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The losses of captioned images: indices (B,), patches (B, N, D) and whole images (B, D)."""
        which = torch.from_numpy(self.rng.integers(0, 5, len(chosen)))
        texts = self.head.embed_words(self.captions[chosen, which])
        answer = torch.arange(len(chosen))
        contrast = torch.zeros(())
        for scores in (text_score(embeddings, texts), whole @ texts.T):
            logits = scores * LOGIT_SCALE
            contrast = contrast + F.cross_entropy(logits, answer) / 2 + F.cross_entropy(logits.T, answer) / 2
        words = self.head.embed_words(self.words.pick(self.nouns, self.generator))
        positive = self.mentioned[chosen]
        # A noun that one caption of five names may well be there: neither yes nor no.
        unsure = (self.named_once[chosen] > 0) & (positive == 0)
        nouns = torch.zeros(())
        for scores in (text_score(embeddings, words), whole @ words.T):
            logits = (scores * LOGIT_SCALE).masked_fill(unsure, -1e4)
            share = positive / positive.sum(1, keepdim=True).clamp(min=1)
            nouns = nouns - (share * logits.log_softmax(1)).sum(1).mean()
            share = positive / positive.sum(0, keepdim=True).clamp(min=1)
            seen = positive.sum(0) > 0
            nouns = nouns - (share * logits.log_softmax(0)).sum(0)[seen].mean()
        return contrast / 2, nouns / 4

    def name_loss(self) -> Tensor:
        """Salient patches and class tokens against all image names."""
        chosen = self.rng.choice(len(self.named), self.options.name_batch, replace=False)
        read = [self.named.read(int(i)) for i in chosen]
        with torch.autocast("cpu", torch.bfloat16):
            _, embeddings = self.head.patches(torch.stack([r[1] for r in read]))
        whole = self.head.whole(torch.stack([r[0] for r in read]))
        return self.named_loss(chosen, embeddings.float(), whole, self.saliency[chosen])

    def named_loss(
        self, chosen: NDArray[np.intp], embeddings: Tensor, whole: Tensor, saliency: Tensor
    ) -> Tensor:
        """The loss of named images: indices (B,), patches (B, h, w, D), whole images (B, D), saliency."""
        words = self.head.embed_words(self.words.pick(self.image_names, self.generator))
        salient = saliency > 0.6  # (B, h, w)
        target = torch.from_numpy(chosen)[:, None, None].expand_as(salient)[salient]
        logits = embeddings[salient] @ words.T * LOGIT_SCALE
        loss = F.cross_entropy(whole @ words.T * LOGIT_SCALE, torch.from_numpy(chosen))
        return (loss + F.cross_entropy(logits, target)) / 2 if len(target) else loss

    def losses(self, step: int) -> dict[str, Tensor]:
        """The losses of one step; captions and image names take turns: each costs as much as the pixels."""
        options = self.options
        losses = {"pixels": self.pixel_loss()} if self.sets else {}
        if options.captions and (step % 2 or not options.names):
            losses["captions"], losses["nouns"] = self.caption_losses()
        elif options.names:
            losses["names"] = self.name_loss()
        return losses

    def groups(self) -> list[dict[str, Any]]:
        """What is trained, with the peak rate of each group."""
        options = self.options
        words = [p for n, p in self.head.named_parameters() if n.startswith("words.")]
        rest = [p for n, p in self.head.named_parameters() if not n.startswith("words.")]
        groups: list[dict[str, Any]] = [{"params": rest, "lr": options.rate, "peak": options.rate}]
        if words:
            groups.append(
                {"params": words, "lr": options.words_rate, "peak": options.words_rate, "weight_decay": 0.0}
            )
        return groups

    def train(self, log: Path, console: Console) -> None:
        """Run all steps; writes a line of losses every 25 steps to `log` (CSV)."""
        options = self.options
        optimiser = torch.optim.AdamW(self.groups(), weight_decay=0.05)
        weights, started = options.weights, time.perf_counter()
        sums: dict[str, float] = {}
        with log.open("w", newline="") as file:
            writer = csv.writer(file)
            for step in range(1, options.steps + 1):
                share = min(step / 60, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.005)
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * share
                losses = self.losses(step)
                optimiser.zero_grad()
                sum((weights[k] * v for k, v in losses.items()), torch.zeros(())).backward()
                trained = (p for module in self.modules.values() for p in module.parameters())
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                decay = min(self.longest_average, step / (step + 20))
                for name, module in self.modules.items():
                    for key, value in module.state_dict().items():
                        self.averages[name][key].lerp_(value, 1 - decay)
                for key, loss in losses.items():
                    sums[key] = sums.get(key, 0.0) + float(loss.detach()) / 25
                if step % 25 == 0:
                    if step == 25:
                        writer.writerow(["step", "seconds", *sums])
                    writer.writerow(
                        [step, f"{time.perf_counter() - started:.0f}", *(f"{v:.4f}" for v in sums.values())]
                    )
                    file.flush()
                    console.print(
                        f"step {step}/{options.steps}",
                        {k: round(v, 3) for k, v in sums.items()},
                        f"{(time.perf_counter() - started) / step:.2f} s a step",
                    )
                    sums = {}

    def averaged(self) -> Head:
        """The head with the moving average of its weights, for evaluation and shipping."""
        head: Head = PlainHead() if self.options.plain else Head()
        head.load_state_dict(self.averages["head"])
        return head.eval()

    def save(self, path: Path) -> None:
        """Write the averaged weights and the options (a file that loads with weights_only)."""
        torch.save({**self.averages, "options": {k: str(v) for k, v in asdict(self.options).items()}}, path)


def is_tuned(path: Path) -> bool:
    """Whether a run tuned the encoder's last blocks too."""
    return "tail" in torch.load(path, weights_only=True)


def mean_state(
    paths: Sequence[Path],
    part: str,
    shares: Sequence[float] | None = None,
    untrained: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The mean of the weights that several runs saved under one name.

    Args:
        paths: of the runs.
        part: 'head' or 'tail'.
        shares: how much each run counts; None: all the same.
        untrained: what a run without that part counts as.
    """
    files = [torch.load(path, weights_only=True) for path in paths]
    states = [file[part] if untrained is None else file.get(part, untrained) for file in files]
    counts = [1.0] * len(states) if shares is None else list(shares)
    return {
        key: sum(count * state[key] for count, state in zip(counts, states, strict=True)) / sum(counts)
        for key in states[0]
    }
