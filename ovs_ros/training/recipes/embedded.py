"""The embedded model, from the original image encoder to the files that the run time takes.

All is trained at once: EfficientNet-Lite whole (its batch norms keep ImageNet's statistics), the decoder, and
the words' side over frozen sentence embeddings. Losses, softmax cross entropies over `LOGIT_SCALE` times
cosines unless said otherwise:

- own: labelled positions against the classes of their set, a union by the maximum over its words; the logits
  of frequent classes are raised by a share of the log of their frequencies (logit adjustment, Menon et al.
  2021, equation 10), so that a rare class does not lose to a frequent one that looks nearly the same;
- joint: labelled positions, and unlabelled ones that are known to be none of a set's words, against the words
  of all sets: the right ones against those that are not unsure (see `label_spaces`);
- fine: positions with finer labels against all finer names of their set;
- distillation: what the encoder's own classifier says of each cell of 32 pixels and of the whole picture,
  learned under the classes' names, so that what ImageNet taught is not forgotten;
- captions: pictures against all captions by the image embedding, and against some by their patches;
- nouns: which of the visible nouns a picture's captions name, from its patches and its image embedding;
- names: named pictures against the names of their set; with the encoder's own classes, cells as well, as far
  as the classifier sees the class in them.

An image is evaluated on as `ovs evaluate` does, with the quantised files, at the preset `stream`.
"""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders import embedded
from ovs_ros.encoders.embedded import LOGIT_SCALE, EmbeddedTextEncoder
from ovs_ros.encoders.minilm import SentenceEncoder
from ovs_ros.evaluation.labelled_folder import NAMELESS, labelled_pairs, read_mask
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.model import Model
from ovs_ros.runtime.checksums import write_checksums
from ovs_ros.runtime.files import write_atomically
from ovs_ros.runtime.images import read_image
from ovs_ros.segmenter import Segmenter
from ovs_ros.training.data import caption_nouns, nouns_in, read_captions, read_image_names
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.efficientnet import EfficientNetLite
from ovs_ros.training.embedded_model import EmbeddedModel, Maps
from ovs_ros.training.export_embedded import save_words, write_card, write_image_encoder
from ovs_ros.training.joint_samples import (
    Batch,
    JointSamples,
    Pictures,
    PixelSet,
    check_classes,
    load_batches,
    nameless,
)
from ovs_ros.training.label_spaces import JointVocabulary, LabelSpace, shipped_label_spaces
from ovs_ros.training.loop import Recipe
from ovs_ros.training.options import EmbeddedOptions
from ovs_ros.vocabulary.knowledge import CAPTIONS_FILE, LABELS_FILE
from ovs_ros.vocabulary.vocabulary import Vocabulary

WEIGHTS = {
    "own": 1.0, "joint": 0.5, "fine": 0.25, "distillation": 1.0, "captions": 0.15, "nouns": 0.25,
    "names": 0.2,
}  # fmt: skip
"""How much each loss counts; distillation's weight is an option."""
OWN_NAME = 0.65
"""How often a word is said as it is, not by a synonym."""
MORE_CAPTIONS = 120
"""Captions of other pictures that patches are told apart by, beside those of the batch."""
LEFT_OUT = -1e4
"""The logit of what does not take part in a softmax."""
RAREST = 1e-4
"""The frequency that a class's logit adjustment takes at least."""
CALIBRATION = 32
"""Images that activations are measured on for int8."""
MODELS = "models"
"""The folder in a run's folder that `--models` and `ovs_ros.load` take."""


@dataclass(frozen=True)
class Names:
    """The names of one set of named pictures: a part of all names.

    Attributes:
        part: of the rows of all names.
        classifier: whether they are those of the encoder's classifier, in its order.
    """

    part: slice
    classifier: bool


class EmbeddedRecipe(Recipe):
    """Train the embedded model.

    Args:
        options: how.
        ranks: this process among its fellows.
        data: holds a folder for each set.
        encoder: with the original weights.
        models: holds `text_encoder.onnx` and `tokenizer.json`.

    Raises:
        ValueError: a set is not known, there is none with labels of pixels, or one's classes are others.
        FileNotFoundError: a set's files are missing.
    """

    loss_names = tuple(WEIGHTS)
    model: EmbeddedModel
    options: EmbeddedOptions

    def __init__(
        self, options: EmbeddedOptions, ranks: Ranks, data: Path, encoder: EfficientNetLite, models: Path
    ) -> None:
        super().__init__(options, ranks)
        self.data, self.models = data, models
        known = shipped_label_spaces()
        self.spaces, self.left_out = choose_spaces(known, options.sets, options.without)
        of_pixels = [space for space in self.spaces if space.of_pixels]
        self.vocabulary = JointVocabulary(of_pixels, known.values())
        self.sets = [PixelSet(data / space.name, space, hold_out=options.hold_out) for space in of_pixels]
        self._text = SentenceEncoder(models)
        self.described: set[str] = set()  # Words of captions, and names of pictures.
        self._read_words()
        pictures = [*self._read_captions(), *self._read_names()]
        self.samples = JointSamples(self.sets, [pictured for _, pictured in pictures], options, ranks)
        self.kinds = [kind for kind, _ in pictures]
        self.teacher = encoder.to(self.device).requires_grad_(False).eval()
        self.model = EmbeddedModel(encoder).requires_grad_(True).to(self.device)
        self.model = self.model.to(memory_format=torch.channels_last)
        self.identity = {
            "words": list(self.vocabulary.words),
            "images": {one.space.name: len(one) for one in self.sets},
        }
        self.results: dict[str, dict[str, float]] = {}
        self._batches: Iterator[Batch] | None = None

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See `Recipe`."""
        model, options = self.model, self.options
        parts = (
            (model.encoder, options.encoder_rate),
            (model.decoder, options.rate),
            (model.words, options.words_rate),
        )
        return [{"params": list(part.parameters()), "lr": rate, "weight_decay": 0.03} for part, rate in parts]

    def _sentences(self, names: Sequence[str]) -> Tensor:
        """Sentence embeddings of names in every template, (n, templates, 384)."""
        texts = [template.format(name) for name in names for template in EmbeddedTextEncoder.templates]
        sentences = torch.from_numpy(self._text.encode(texts))
        return sentences.view(len(names), len(EmbeddedTextEncoder.templates), -1).to(self.device)

    def _read_words(self) -> None:
        """What the labels of pixels need: words and synonyms, answers, columns of classes, finer names."""
        said = [name for choices in self.vocabulary.choices for name in choices]
        self.said = self._sentences(said)
        ends = np.cumsum([len(choices) for choices in self.vocabulary.choices])
        self.first = ends - [len(choices) for choices in self.vocabulary.choices]
        self.synonyms = ends - self.first - 1
        self.answers, self.columns, self.priors, self.fine = [], [], [], {}
        for number, one in enumerate(self.sets):
            name = one.space.name
            self.answers.append(torch.from_numpy(self.vocabulary.answers[name]).to(self.device))
            groups = self.vocabulary.columns[name]
            most = max(map(len, groups))
            padded = [[*group, *[group[0]] * (most - len(group))] for group in groups]
            self.columns.append(torch.tensor(padded, device=self.device))  # (classes, most)
            frequencies = np.log(np.maximum(one.frequencies, RAREST)) * self.options.adjustment
            self.priors.append(torch.from_numpy(frequencies).float().to(self.device))
            if one.fine_names:
                names = [name for name in one.fine_names if name != NAMELESS]
                table = torch.from_numpy(nameless(one.fine_names)).to(self.device)
                self.fine[number] = table, self._sentences(names)

    def _read_captions(self) -> Iterator[tuple[str, Pictures]]:
        """Captioned pictures, and what their captions say."""
        spaces = [space for space in self.spaces if space.form == "captions"]
        captions = {
            self.data / space.name / "image" / file: texts
            for space in spaces
            for file, texts in sorted(read_captions(self.data / space.name).items())
        }
        captions = {file: texts for file, texts in captions.items() if file.is_file()}
        if not captions:
            return
        five = [text for texts in captions.values() for text in (texts * 5)[:5]]
        self.captions = torch.from_numpy(self._text.encode(five)).view(len(captions), 5, -1).to(self.device)
        nouns = caption_nouns()
        self.nouns = self._sentences(nouns)
        counts = torch.zeros(len(captions), len(nouns))
        for row, texts in zip(counts, captions.values(), strict=True):
            # One caption may err or name what is hardly seen; two say that it is there.
            row[nouns_in(texts, nouns)] = 1
            row[nouns_in(texts, nouns, least=2)] = 2
        self.described |= {noun for noun, named in zip(nouns, counts.any(0).tolist(), strict=True) if named}
        self.mentions = counts.to(self.device)
        yield "captions", Pictures(tuple(captions), np.arange(len(captions)), whole=True)

    def _read_names(self) -> Iterator[tuple[str, Pictures]]:
        """Named pictures, and their names."""
        self.names: list[Names] = []
        files: list[Path] = []
        targets: list[int] = []
        names: list[str] = []
        for space in self.spaces:
            if space.form != "names":
                continue
            pairs = read_image_names(self.data / space.name)
            # A classifier's names are in its own order, and two of its classes may have one name.
            own = [name for _, name in pairs] if space.classifier else sorted({name for _, name in pairs})
            at = {name: place for place, name in reversed(list(enumerate(own, len(names))))}
            targets += (
                range(len(names), len(names) + len(own)) if space.classifier else [at[n] for _, n in pairs]
            )
            files += [file for file, _ in pairs]
            self.names.append(Names(slice(len(names), len(names) + len(own)), space.classifier))
            names += own
        self.described |= set(names)
        if names:
            self.named = self._sentences(names)
            yield "names", Pictures(tuple(files), np.array(targets), whole=False)

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`."""
        if self._batches is None:
            self._batches = load_batches(self.samples, step)
        batch = next(self._batches)
        losses = self.pixel_losses(batch, rng)
        if batch.kind >= 0:
            losses |= self.picture_losses(batch)
        weights = {**WEIGHTS, "distillation": self.options.distillation}
        return {name: weights[name] * value for name, value in losses.items()}

    def _maps(self, images: Tensor) -> tuple[Tensor, Maps]:
        """Images (B, H, W, 3) uint8 as the networks take them, and what the model gives of them."""
        pixels = images.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float()
        pixels = pixels.contiguous(memory_format=torch.channels_last)
        with self.autocast():
            return pixels, self.model(pixels)

    def pixel_losses(self, batch: Batch, rng: np.random.Generator) -> dict[str, Tensor]:
        """own, joint and fine."""
        _, maps = self._maps(batch.images)
        places, classes, finer = (
            tensor.to(self.device, non_blocking=True) for tensor in (batch.places, batch.classes, batch.fine)
        )
        other = (rng.random(len(self.first)) > OWN_NAME) & (self.synonyms > 0)
        chosen = self.first + np.where(other, rng.integers(1, np.maximum(self.synonyms, 1) + 1), 0)
        words = self.model.words(self.said[torch.from_numpy(chosen).to(self.device)])  # (n, D)
        embeddings, details = self.model.at(maps, places)
        logits = self.model.logits(embeddings, details, words)  # (B, P, n)
        sums: dict[str, list[Tensor]] = {"own": [], "joint": [], "fine": []}
        for number in batch.sets.unique().tolist():
            members = (batch.sets == number).to(self.device)
            known = classes[members] >= 0
            target, own = classes[members][known], logits[members][known]  # (N,), (N, n)
            answers = self.answers[number][target]
            competing = own.masked_fill(answers == 0, LEFT_OUT).logsumexp(1)
            sums["joint"].append(competing - own.masked_fill(answers != 1, LEFT_OUT).logsumexp(1))
            named = target < len(self.columns[number])
            classed = own[named][:, self.columns[number]].amax(2)  # (N', classes)
            adjusted = classed + self.priors[number]
            sums["own"].append(F.cross_entropy(adjusted, target[named], reduction="none"))
            if number in self.fine:
                table, sentences = self.fine[number]
                line = torch.where(members[:, None], table[finer], -1)  # (B, P)
                known = line >= 0
                fine = self.model.logits(embeddings[known], details[known], self.model.words(sentences))
                sums["fine"].append(F.cross_entropy(fine, line[known], reduction="none"))
        # Every process gives the same losses, whatever sets its images are of.
        if not self.fine:
            del sums["fine"]
        none = logits.new_zeros(0)
        losses = {name: torch.cat([none, *parts]) for name, parts in sums.items()}
        return {name: loss.sum() / max(len(loss), 1) for name, loss in losses.items()}

    def picture_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The losses of the step's kind of pictures."""
        pixels, maps = self._maps(batch.pictures)
        targets = batch.targets.to(self.device)
        words = self.model.words(self.named) if self.names else None
        classes = next((one.part for one in self.names if one.classifier), None)
        captioned = self.kinds[batch.kind] == "captions"
        losses = self._caption_losses(maps, targets) if captioned else {}
        seen = None
        if words is not None and classes is not None:
            # Other pictures' names may be none of the classifier's.
            taught = (targets >= classes.start) & (targets < classes.stop) | captioned
            seen = self._classified(pixels[taught])  # (b, h, w, classes)
            cells = _cells(maps.embeddings[taught])
            losses["distillation"] = distillation(seen, cells, maps.image[taught], words[classes])
        if words is not None and not captioned:
            losses["names"] = self._name_loss(maps, targets, words, seen)
        return losses

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def _classified(self, pixels: Tensor) -> Tensor:
        """The classifier's logits of every cell of 32 pixels, (B, h, w, classes)."""
        with self.autocast():
            last = self.teacher.head(self.teacher.pyramid(pixels)[-1])
            logits: Tensor = self.teacher.classifier(last.permute(0, 2, 3, 1)).float()
        return logits

    def _caption_losses(self, maps: Maps, targets: Tensor) -> dict[str, Tensor]:
        which = torch.randint(0, 5, (len(self.captions),)).to(self.device)
        texts = self.model.words.texts(self.captions[torch.arange(len(which), device=self.device), which])
        patches = F.normalize(F.avg_pool2d(maps.embeddings, 2), dim=1).flatten(2).transpose(1, 2)
        others = torch.randperm(len(texts))[:MORE_CAPTIONS].to(self.device)
        some = torch.cat([targets, others[~torch.isin(others, targets)]])
        by_patches = LOGIT_SCALE * text_score(patches, texts[some])
        captions = F.cross_entropy(LOGIT_SCALE * maps.image @ texts.T, targets)
        captions = captions + F.cross_entropy(by_patches, torch.arange(len(targets), device=self.device))
        words = self.model.words(self.nouns)
        mentions = self.mentions[targets]
        share = (mentions == 2).float()
        share = share / share.sum(1, keepdim=True).clamp(min=1)
        nouns = torch.zeros((), device=self.device)
        for scores in (text_score(patches, words), maps.image @ words.T):
            logits = (LOGIT_SCALE * scores).masked_fill(mentions == 1, LEFT_OUT)
            nouns = nouns - (share * logits.log_softmax(1)).sum(1).mean()
        return {"captions": captions, "nouns": nouns}

    def _name_loss(self, maps: Maps, targets: Tensor, words: Tensor, seen: Tensor | None) -> Tensor:
        """Named pictures; `seen`: what the classifier says of those whose names are its own."""
        loss = torch.zeros((), device=self.device)
        for one in self.names:
            members = (targets >= one.part.start) & (targets < one.part.stop)
            if not members.any():
                continue
            own, target = words[one.part], targets[members] - one.part.start
            part = F.cross_entropy(LOGIT_SCALE * maps.image[members] @ own.T, target)
            if one.classifier and seen is not None:
                cells = _cells(maps.embeddings[members])
                logits = LOGIT_SCALE * cells @ own.T  # (b, h, w, names)
                at = target[:, None, None].expand(logits.shape[:3])
                weights = seen.softmax(-1).gather(-1, at[..., None])[..., 0]
                each = F.cross_entropy(logits.permute(0, 3, 1, 2), at, reduction="none")
                part = part + (each * weights).sum() / weights.sum().clamp(min=1)
            loss = loss + part * members.float().mean()
        return loss

    def write(self, models: Path) -> None:
        """Write the files that the run time takes into a folder."""
        for name in ("text_encoder.onnx", "tokenizer.json") if models != self.models else ():
            shutil.copyfile(self.models / name, models / name)
        write_image_encoder(self.model, models / "image_encoder.onnx", self._calibration_images())
        save_words(self.model.words, models / "text_head.npz")
        fine = [name for one in self.sets for name in one.fine_names if name != NAMELESS]
        for file, words in (
            (LABELS_FILE, {*self.vocabulary.words, *fine}),
            (CAPTIONS_FILE, self.described),
        ):
            text = "".join(f"{word}\n" for word in sorted(words))
            write_atomically(models / file, text.encode())

    def _calibration_images(self) -> list[NDArray[np.uint8]]:
        rng = np.random.default_rng(0)
        size = self.options.height, self.options.width
        return [self.sets[i % len(self.sets)].draw(size, rng).image for i in range(CALIBRATION)]

    def evaluate(self) -> dict[str, dict[str, float]]:
        """mIoU and pixel accuracy on held-out images, and on sets left out; processes share the images."""
        self.results = {}
        with TemporaryDirectory() as folder:
            self.write(Path(folder))
            segmenter = Segmenter(Model(*embedded.load("stream", models=Path(folder))))
            for space in (*self.spaces, *self.left_out):
                if space.form == "masks":
                    pairs = evaluation_pairs(self.data / space.name, space, space in self.left_out)
                    pairs = pairs[:: -(-len(pairs) // self.options.images)]
                    matrix = self._measure(segmenter, space, pairs[self.ranks.rank :: self.ranks.world])
                    self.results[space.name] = self.figures(matrix)
        return self.results

    def _measure(
        self, segmenter: Segmenter, space: LabelSpace, pairs: Sequence[tuple[Path, Path]]
    ) -> ConfusionMatrix:
        words = segmenter.embed(Vocabulary.from_names(space.words))
        table = space.class_of_words
        matrix = ConfusionMatrix(len(space.classes))
        for image, labels in pairs:
            named = segmenter.segment(read_image(image), words).labels
            known = named < len(table)
            given = np.where(known, table[np.where(known, named, 0)], len(space.classes))
            matrix.add(read_mask(labels), given)
        return matrix

    def save(self, folder: Path) -> None:
        """Write the model's folder `models`, its card, and the weights (`weights.pt`)."""
        models = folder / MODELS
        models.mkdir(exist_ok=True)
        self.write(models)
        write_checksums(models, (*embedded.ENCODER_FILES, LABELS_FILE, CAPTIONS_FILE))
        write_card(
            models / "image_encoder.md", self.options.encoder, self.spaces, self.left_out, self.results
        )
        torch.save(self.model.state_dict(), folder / "weights.pt")


def choose_spaces(
    known: dict[str, LabelSpace], sets: str, without: str
) -> tuple[list[LabelSpace], list[LabelSpace]]:
    """The sets to train on, and those left out.

    Args:
        known: by name.
        sets: "all", "permissive", or names separated by commas.
        without: names separated by commas.

    Raises:
        ValueError: a name is not known, or no set with labels of pixels is left.
    """
    if sets in ("all", "permissive"):
        names = [name for name, space in known.items() if sets == "all" or space.commercial]
    else:
        names = [name.strip() for name in sets.split(",")]
    left_out = [name.strip() for name in without.split(",") if name.strip()]
    if foreign := sorted({*names, *left_out} - set(known)):
        raise ValueError(f"expected sets out of {', '.join(known)}, got {', '.join(foreign)}")
    kept = [known[name] for name in names if name not in left_out]
    if not any(space.of_pixels for space in kept):
        raise ValueError(f"expected a set with masks or boxes to train on, got {', '.join(names) or 'none'}")
    return kept, [known[name] for name in left_out]


def evaluation_pairs(folder: Path, space: LabelSpace, left_out: bool) -> list[tuple[Path, Path]]:
    """The (image, label) files to evaluate on: the split val, or the held-out part of train; all of it of a
    set that is left out of training."""
    check_classes(folder, space)
    if (folder / "val").is_dir():
        return labelled_pairs(folder / "val")
    pairs = labelled_pairs(folder / "train")
    return [
        pair
        for index, pair in enumerate(pairs)
        if left_out or (space.hold_out is not None and space.hold_out.keeps(index))
    ]


def distillation(seen: Tensor, cells: Tensor, image: Tensor, words: Tensor) -> Tensor:
    """The cross entropy of the classes' words with what the classifier says.

    Cells count as much as the classifier is sure of them.

    Args:
        seen: (B, h, w, C), the classifier's logits.
        cells: (B, h, w, D) unit embeddings.
        image: (B, D), those of the images.
        words: (C, D), those of the classes' names.
    """
    sure = seen.softmax(-1)
    each = -(sure * (LOGIT_SCALE * cells @ words.T).log_softmax(-1)).sum(-1)  # (B, h, w)
    weights = sure.amax(-1).clamp(min=0.02)
    whole = seen.mean((1, 2)).softmax(-1) * (LOGIT_SCALE * image @ words.T).log_softmax(-1)
    loss: Tensor = 0.5 * (each * weights).sum() / weights.sum().clamp(min=1e-6)
    return loss - 0.5 * whole.sum() / max(len(whole), 1)


def _cells(embeddings: Tensor) -> Tensor:
    """Embeddings at stride 8 as those of cells of 32 pixels: (B, D, h, w) to (B, h/4, w/4, D)."""
    return F.normalize(F.avg_pool2d(embeddings, 4), dim=1).permute(0, 2, 3, 1)


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
