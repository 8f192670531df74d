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

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.training.data import IGNORE, caption_nouns, nouns_in, read_captions, read_image_names, read_names
from ovs_ros.training.head import SCALE, Head, PlainHead

LOGIT_SCALE = 20.0
TEMPLATES = ("{}", "a photo of a {}", "there is a {} in the scene")
LARGE_SHARE, LARGE_WINDOW = 0.35, (28, 37)
"""How many batches are of large views, and the window of patches that is cut out of them."""
SYNONYMS = Path(__file__).parent / "synonyms.yaml"

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
        start: weights that an earlier run saved, to go on from.
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
    start: Path | None = None
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


@dataclass
class LabelledSet:
    """A labelled set's caches and words.

    `vocabularies` holds, for each label map, (names of the lines, map from label value to column or IGNORE,
    weights of the columns).
    """

    name: str
    small: list[Cache]
    large: list[Cache]
    vocabularies: list[tuple[list[str], NDArray[np.uint8], Tensor]]
    synonyms: dict[str, list[str]]


def class_weights(caches: Sequence[Cache], which: int, lines: NDArray[np.uint8], count: int) -> Tensor:
    """Weights that lift rare classes: frequency to the power -0.35, mean 1 over pixels."""
    histogram = np.zeros(256, np.int64)
    for cache in caches:
        histogram += np.bincount(np.asarray(cache.labels[which][:, ::4, ::4]).ravel(), minlength=256)
    frequency = np.bincount(lines, weights=histogram, minlength=256)[:count] + 1.0
    frequency /= frequency.sum()
    weight = frequency**-0.35
    return torch.from_numpy((weight / (weight * frequency).sum()).clip(0.3, 6.0).astype(np.float32))


def load_labelled(name: str, data: Path, caches: Path, held_out: Sequence[str]) -> LabelledSet:
    """Open a labelled set's training caches; pixels of held-out fine names are ignored in the fine map."""
    small = [Cache(caches / f"{name}_train_{kind}_21") for kind in ("full", "flip", "crop")]
    large = [Cache(caches / f"{name}_train_color_36")]
    names = read_names(data / name / "classes.txt")
    vocabularies: list[tuple[list[str], NDArray[np.uint8], Tensor]] = []
    lines = np.full(256, IGNORE, np.uint8)
    lines[: len(names)] = np.arange(len(names))
    vocabularies.append((names, lines, class_weights(small[:1], 0, lines, len(names))))
    fine_file = data / name / "fine_names.txt"
    if fine_file.is_file():
        fine_names = read_names(fine_file)
        counts = np.bincount(np.asarray(small[0].labels[1][:, ::4, ::4]).ravel(), minlength=256)
        lines = np.full(256, IGNORE, np.uint8)
        kept: list[str] = []
        for line, fine in enumerate(fine_names, start=1):
            if fine != "unknown" and counts[line] > 150 and fine not in held_out:
                lines[line] = len(kept)
                kept.append(fine)
        vocabularies.append((kept, lines, class_weights(small[:1], 1, lines, len(kept))))
    synonyms = yaml.safe_load(SYNONYMS.read_text()).get(name, {})
    return LabelledSet(name, small, large, vocabularies, synonyms)


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

    def __init__(self, options: TrainOptions, data: Path, caches: Path, encode: Encode) -> None:
        torch.manual_seed(options.seed)
        self.options = options
        self.data, self.caches = data, caches
        self.rng = np.random.default_rng(options.seed)
        self.generator = torch.Generator().manual_seed(options.seed)
        self.sets = [load_labelled(name, data, caches, options.held_out) for name in options.sets]
        self.nouns = caption_nouns()
        named = [name for _, name in read_image_names(data / "imagenet_samples")]
        bank = dict.fromkeys(self.nouns + named + list(options.held_out))
        for name in ("nyuv2", "camvid"):
            bank.update(dict.fromkeys(read_names(data / name / "classes.txt")))
        for labelled in self.sets:
            for names, _, _ in labelled.vocabularies:
                bank.update(dict.fromkeys(names))
            for others in labelled.synonyms.values():
                bank.update(dict.fromkeys(others))
        self.words = Words(list(bank), encode)
        if options.captions:
            self._open_captions(encode)
        if options.names:
            self.named = Cache(caches / "imagenet")
            self.image_names = named
            saliency = np.asarray(self.named.labels[0]).astype(np.float32) / 255.0
            n = self.named.grid[0]
            self.saliency = torch.from_numpy(saliency.reshape(len(saliency), n, GUIDE, n, GUIDE).mean((2, 4)))
        self.head: Head = PlainHead() if options.plain else Head()
        if options.start is not None:
            self.head.load_state_dict(torch.load(options.start, weights_only=True)["head"])
        elif not options.plain:
            self._start_words()
        self.average = {k: v.detach().clone() for k, v in self.head.state_dict().items()}

    def _open_captions(self, encode: Encode) -> None:
        self.captioned = Cache(self.caches / "flickr8k")
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
        tokens = torch.stack([v[0] for v in views])
        tokens = F.dropout2d(tokens.permute(0, 3, 1, 2), 0.1).permute(0, 2, 3, 1)
        with torch.autocast("cpu", torch.bfloat16):
            hidden, embeddings = self.head.patches(tokens)
            weights, details = self.head.upsampling(hidden, torch.stack([v[1] for v in views]))
        total, count = torch.zeros(()), 0
        keys = sorted({(labelled.name, which) for labelled, which in jobs})
        for key in keys:
            members = [i for i, (labelled, which) in enumerate(jobs) if (labelled.name, which) == key]
            labelled, which = jobs[members[0]]
            names, lines, balance = labelled.vocabularies[which]
            shown = [
                str(self.rng.choice(labelled.synonyms[n]))
                if n in labelled.synonyms and self.rng.random() < 0.4
                else n
                for n in names
            ]
            words = self.head.embed_words(self.words.pick(shown, self.generator))
            cosines = self.head.pixel_cosines(
                embeddings[members].float(), weights[members].float(), details[members].float(), words
            )
            target = torch.from_numpy(lines[np.stack([views[i][2][which] for i in members])]).long()
            loss = F.cross_entropy(cosines * LOGIT_SCALE, target, weight=balance, ignore_index=IGNORE)
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
        embeddings = embeddings.float().flatten(1, 2)
        whole = self.head.whole(torch.stack([r[0] for r in read]))
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
        words = self.head.embed_words(self.words.pick(self.image_names, self.generator))
        salient = self.saliency[chosen] > 0.6  # (B, h, w)
        target = torch.from_numpy(chosen)[:, None, None].expand_as(salient)[salient]
        logits = embeddings.float()[salient] @ words.T * LOGIT_SCALE
        whole = self.head.whole(torch.stack([r[0] for r in read])) @ words.T * LOGIT_SCALE
        loss = F.cross_entropy(whole, torch.from_numpy(chosen))
        return (loss + F.cross_entropy(logits, target)) / 2 if len(target) else loss

    def train(self, log: Path, console: Console) -> None:
        """Run all steps; writes a line of losses every 25 steps to `log` (CSV)."""
        options = self.options
        words = [p for n, p in self.head.named_parameters() if n.startswith("words.")]
        rest = [p for n, p in self.head.named_parameters() if not n.startswith("words.")]
        groups = [{"params": rest, "lr": options.rate, "peak": options.rate}]
        if words:
            groups.append(
                {"params": words, "lr": options.words_rate, "peak": options.words_rate, "weight_decay": 0.0}
            )
        optimiser = torch.optim.AdamW(groups, weight_decay=0.05)
        weights, started = options.weights, time.perf_counter()
        sums: dict[str, float] = {}
        with log.open("w", newline="") as file:
            writer = csv.writer(file)
            for step in range(1, options.steps + 1):
                share = min(step / 60, 0.5 * (1 + math.cos(math.pi * step / options.steps)) + 0.005)
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * share
                losses = {"pixels": self.pixel_loss()} if self.sets else {}
                # Captions and image names take turns: each costs as much as the pixels.
                if options.captions and (step % 2 or not options.names):
                    losses["captions"], losses["nouns"] = self.caption_losses()
                elif options.names:
                    losses["names"] = self.name_loss()
                optimiser.zero_grad()
                sum((weights[k] * v for k, v in losses.items()), torch.zeros(())).backward()
                torch.nn.utils.clip_grad_norm_(self.head.parameters(), 1.0)
                optimiser.step()
                decay = min(0.995, step / (step + 20))
                for key, value in self.head.state_dict().items():
                    self.average[key].lerp_(value, 1 - decay)
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
        head.load_state_dict(self.average)
        return head.eval()

    def save(self, path: Path) -> None:
        """Write the averaged weights and the options (a file that loads with weights_only)."""
        torch.save(
            {"head": self.average, "options": {k: str(v) for k, v in asdict(self.options).items()}}, path
        )
