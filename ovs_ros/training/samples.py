"""Which view of which image a training step sees: a function of the seed and the step alone.

So a resumed run sees what the run would have seen, whatever the number of processes and workers.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ovs_ros.training.data import IGNORE
from ovs_ros.training.datasets import VALUES, SegmentationDataset
from ovs_ros.training.distributed import Ranks
from ovs_ros.training.options import NetworkOptions
from ovs_ros.training.views import random_view


class Samples(Dataset):
    """Random views by their place in the run: place n is of image n % N of a shuffled pass over all sets.

    An item is the view (3, h, w) uint8, its labels (h, w) int32, columns or IGNORE, and its set's number.

    Args:
        datasets: what to draw from. They get one vocabulary; classes of one name are one.
        size: (h, w) of a view in pixels.
        seed: of the run.

    Attributes:
        names: of the vocabulary, K names, each once.
        known: (sets, K) bool, which names a set labels. Others may well be in its images, unlabelled.
    """

    def __init__(self, datasets: Sequence[SegmentationDataset], size: tuple[int, int], seed: int) -> None:
        self.size, self.seed = size, seed
        self.names = tuple(dict.fromkeys(name for dataset in datasets for name in dataset.names))
        self.known = np.zeros((len(datasets), len(self.names)), bool)
        self.datasets = []
        for row, dataset in enumerate(datasets):
            columns = np.array([self.names.index(name) for name in dataset.names])
            self.known[row, columns] = True
            table = np.full(VALUES, IGNORE, np.uint16)
            table[: len(columns)] = columns
            self.datasets.append(replace(dataset, names=self.names, lookup=table[dataset.lookup]))
        self._ends = np.cumsum([len(dataset) for dataset in datasets])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor, int]:
        turn, at = divmod(place, len(self))
        index = int(_shuffled(self.seed, turn, len(self))[at])
        which = int(np.searchsorted(self._ends, index, side="right"))
        dataset = self.datasets[which]
        before = int(self._ends[which]) - len(dataset)
        image, label = dataset.read(index - before)
        view, labels = random_view(image, label, self.size, np.random.default_rng((self.seed, 1, place)))
        return (
            torch.from_numpy(view).permute(2, 0, 1),
            torch.from_numpy(labels.astype(np.int32)),
            which,
        )


@lru_cache(maxsize=2)
def _shuffled(seed: int, turn: int, count: int) -> NDArray[np.int64]:
    """The order of one pass over all images."""
    return np.random.default_rng((seed, 0, turn)).permutation(count)


def places(options: NetworkOptions, ranks: Ranks, first: int) -> list[list[int]]:
    """The places that a process takes in each step from step `first` on."""
    own = options.batch // ranks.world
    starts = range(first * options.batch + ranks.rank * own, options.steps * options.batch, options.batch)
    return [list(range(start, start + own)) for start in starts]


def load_batches(
    samples: Samples, options: NetworkOptions, ranks: Ranks, first: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Read this process's batches from step `first` ahead: (B, 3, h, w), (B, h, w), (B,)."""
    loader = DataLoader(
        samples,
        batch_sampler=places(options, ranks, first),
        num_workers=options.workers,
        pin_memory=ranks.device.type == "cuda",
        worker_init_fn=_start_worker,
        # Workers' seeds must not be drawn from those that the step draws from.
        generator=torch.Generator(),
    )
    return iter(loader)


def _start_worker(worker: int) -> None:
    # One thread a worker: they share the cores already.
    cv2.setNumThreads(0)
