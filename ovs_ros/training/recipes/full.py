"""`CoarseToFine` over frozen encoders on labelled sets.

Each image is decided among the categories that it truly has, those that selection names (DCP-CLIP,
equations 1 to 5), and a few that neither knows. The losses are those of the papers: per-pixel BCE over these
categories, FGAseg's text-pixel alignment, and the auxiliary selection loss. The run's folder becomes a model
folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ovs_ros.encoders.model_file import MODEL_FILE, ModelFile
from ovs_ros.encoders.patches import blank, fit_grid, place
from ovs_ros.evaluation.metrics import ConfusionMatrix
from ovs_ros.training.datasets import SegmentationDataset
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.encoder_pair import DinoMiniLM, EncoderPair, OpenClip
from ovs_ros.training.export_network import export_network
from ovs_ros.training.loop import Recipe
from ovs_ros.training.networks.candidates import Candidates, choose, elected, present
from ovs_ros.training.networks.objective import Objective
from ovs_ros.training.options import FullOptions
from ovs_ros.training.samples import Samples, load_batches
from ovs_ros.zoo.coarse_to_fine import checkpoint
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig
from ovs_ros.zoo.coarse_to_fine.network_inputs import ImageFeatures

BIAS_IMAGES = 8
"""How many views the pixel loss's bias is fitted on before the first step."""
NETWORK = "network.pt"


def prepare(size: str, file: ModelFile | None = None) -> tuple[EncoderPair, NetworkConfig]:
    """Frozen encoders and the configuration of a network over them.

    Args:
        size: "full" or "embedded".
        file: a ViT of open_clip with attention 'maskclip'; None: the embedded model.

    Raises:
        ValueError: no such model.
        FileNotFoundError: weights are missing.
        ModuleNotFoundError: open_clip is not installed.
    """
    pair: EncoderPair = DinoMiniLM() if file is None else OpenClip(file)
    make = NetworkConfig.full if size == "full" else NetworkConfig.embedded
    # The embedded model's head upsamples what a network gives.
    levels = {"levels": 0} if file is None else {}
    return pair, make(
        **levels,
        dim=pair.dim,
        prompts=pair.prompts,
        shallow=pair.shallow,
        attention=pair.attention,
        logit_scale=pair.logit_scale,
    )


class FullRecipe(Recipe):
    """Train one network.

    Args:
        options: how.
        ranks: this process among its fellows.
        config: of the network.
        pair: the frozen encoders.
        training: sets to learn from.
        evaluation: sets to measure on.
        file: what the pair was made from, for the model folder; None: the embedded model.
    """

    loss_names = ("pixels", "alignment", "selection")
    model: Objective
    options: FullOptions

    def __init__(
        self,
        options: FullOptions,
        ranks: Ranks,
        config: NetworkConfig,
        pair: EncoderPair,
        training: Sequence[SegmentationDataset],
        evaluation: Sequence[SegmentationDataset],
        file: ModelFile | None = None,
    ) -> None:
        super().__init__(options, ranks)
        self.pair, self.file, self.evaluation = pair.to(self.device), file, evaluation
        side = options.crop * pair.patch
        self.samples = Samples(training, (side, side), options.seed)
        self.words = self._words(self.samples.names)  # (K, P, D)
        self.means = F.normalize(self.words.mean(1), dim=-1)
        self.known = torch.from_numpy(self.samples.known).to(self.device)  # (sets, K)
        self.model = Objective(config, autocast=self.autocast).to(self.device)
        self.identity = {
            **{f"network.{key}": value for key, value in asdict(config).items()},
            "encoders": pair.name,
            "names": self.samples.names,
            "images": len(self.samples),
        }
        self._batches: Iterator[tuple[Tensor, Tensor, Tensor]] | None = None
        self._fit_bias()

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Matrices and kernels, which decay; biases, norms and scales, which do not."""
        parameters, rate = list(self.model.parameters()), self.options.rate
        return [
            {"params": [p for p in parameters if p.dim() > 1], "lr": rate, "weight_decay": 1e-2},
            {"params": [p for p in parameters if p.dim() <= 1], "lr": rate, "weight_decay": 0.0},
        ]

    def loss(self, step: int, rng: np.random.Generator) -> dict[str, Tensor]:
        """See `Recipe`."""
        if self._batches is None:
            self._batches = load_batches(self.samples, self.options, self.ranks, step)
        features, labels, candidates = self.look(*next(self._batches))
        return self.model(features, candidates.pick(self.words), labels, candidates)

    def look(self, images: Tensor, labels: Tensor, which: Tensor) -> tuple[ImageFeatures, Tensor, Candidates]:
        """Features, labels and candidates of a batch, on the device; see `Samples`."""
        images, labels, which = (t.to(self.device, non_blocking=True) for t in (images, labels, which))
        features, known = self._features(images), self.known[which]  # (B, K)
        candidates = choose(
            present(labels, len(self.words)),
            elected(features, self.means, known, self.pair.logit_scale),
            distractors=self.options.distractors,
            pool=known,
            most=self.options.candidates,
        )
        return features, labels, candidates

    @torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
    def _fit_bias(self) -> None:
        found = []
        for place_ in range(BIAS_IMAGES):
            image, labels, which = self.samples[place_]
            features, _, candidates = self.look(image[None], labels[None], torch.tensor([which]))
            with self.autocast():
                output = self.model.network(features, candidates.pick(self.words), candidates.mask)
            found.append(output.logits[0].flatten(1).float())  # (M, h * w)
        self.model.fit_bias(found)

    def _features(self, images: Tensor) -> ImageFeatures:
        with self.autocast():
            return self.pair.features(images.float())

    def _words(self, names: Sequence[str]) -> Tensor:
        return self.pair.words(names).to(self.device)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """mIoU at the images' own resolution, every process on its share of the images."""
        results = {}
        for dataset in self.evaluation:
            words, matrix = self._words(dataset.names), ConfusionMatrix(len(dataset.names))
            for index in range(self.ranks.rank, len(dataset), self.ranks.world):
                image, truth = dataset.read(index)
                matrix.add(truth, self.segment(image, words))
            results[dataset.name] = self.figures(matrix)
        return results

    def segment(self, image: NDArray[np.uint8], words: Tensor) -> NDArray[np.int64]:
        """Columns (H, W) of an RGB image (H, W, 3) uint8, decided among those of words (K, P, D) that
        selection names."""
        height, width = image.shape[:2]
        grid = fit_grid(height, width, patches=self.options.crop**2, patch=self.pair.patch)
        pixels = torch.from_numpy(place(image, grid, blank(grid))).to(self.device)
        features = self._features(pixels.permute(2, 0, 1)[None])
        known = torch.ones(1, len(words), dtype=torch.bool, device=self.device)
        named = elected(features, F.normalize(words.mean(1), dim=-1), known, self.pair.logit_scale)
        columns = named[0].nonzero()[:, 0]  # (M,)
        with self.autocast():
            logits = self.model.network(features, words[columns][None], named[:, columns]).logits
        # The whole grid is brought to the image's resolution, then its padding is cut off.
        y, x = grid.valid
        size = (round(height / y), round(width / x))
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
        return columns[logits[0, :, :height, :width].argmax(dim=0)].cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write the network, and a model file that names it and the encoders.

        For the embedded model the network is also written as ONNX.
        """
        checkpoint.save(self.model.network, folder / NETWORK)
        if self.file is None:
            export_network(self.model.network, folder / "network.onnx")
            described = {"model": "stream", "network": "network.onnx"}
        else:
            weights = Path(self.file.weights).expanduser()
            described = {
                "model": self.file.model,
                "weights": str(weights.absolute()) if weights.exists() else self.file.weights,
                **({"cache": str(Path(self.file.cache).expanduser().absolute())} if self.file.cache else {}),
                "attention": self.file.attention,
                "network": NETWORK,
            }
        (folder / MODEL_FILE).write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
