"""How good a head is: seen sets, sets left out, and words that no pixel label ever showed."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch.nn import functional as F

from ovs_ros.encoders.embedded import GUIDE
from ovs_ros.training.data import IGNORE, read_names
from ovs_ros.training.head import SCALE, Head
from ovs_ros.training.token_cache import LABELLED_SETS, LARGE, SMALL
from ovs_ros.training.train_head import Cache, Encode, Words

HELD_OUT = (
    "monitor", "keyboard", "bottle", "plant", "stove", "printer", "bench", "microwave", "toaster",
    "vase", "bicycle", "basket", "garbage bin", "computer", "dishwasher", "ladder",
    "faucet", "stool", "cup", "laptop",
)  # fmt: skip
"""Fine names of NYUv2 that `ovs train head --hold-out` hides from the pixel labels."""
LEAST_PIXELS = 40
"""How often a fine name must occur, on every fourth guide position of `val`, to be counted."""


@torch.no_grad()  # type: ignore[untyped-decorator]  # torch is not installed where types are checked
def evaluate(
    head: Head, cache: Cache, which: int, lines: NDArray[np.uint8], words: Words, names: Sequence[str]
) -> tuple[dict[str, float], float]:
    """Compare a head's answers with a label map of a cache, at the guide's resolution.

    Args:
        head: in evaluation mode.
        cache: encoded images.
        which: the label map.
        lines: (256,) uint8, label value to index in `names`, or IGNORE.
        words: holds the names.
        names: the vocabulary.

    Returns:
        IoU of each name that occurs, and pixel accuracy.
    """
    embedded = head.embed_words(words.mean(names))
    count = len(names)
    confusion = np.zeros((count, count), np.int64)
    for index in range(len(cache)):
        _, patches, guide = cache.read(index)
        hidden, embeddings = head.patches(patches[None])
        weights, details = head.upsampling(hidden, guide[None])
        cosines = head.pixel_cosines(embeddings, weights, details, embedded)
        got = F.interpolate(cosines, scale_factor=GUIDE // SCALE, mode="bilinear").argmax(1)[0].numpy()
        want = lines[np.asarray(cache.labels[which][index])]
        valid = want != IGNORE
        pairs = want[valid].astype(np.int64) * count + got[valid]
        confusion += np.bincount(pairs, minlength=count**2).reshape(count, count)
    hit, there = np.diag(confusion), confusion.sum(1)
    iou = hit / np.maximum(there + confusion.sum(0) - hit, 1)
    return {n: float(iou[i]) for i, n in enumerate(names) if there[i]}, float(hit.sum() / confusion.sum())


def report(head: Head, data: Path, caches: Path, encode: Encode, console: Console) -> None:
    """Print mIoU and pixel accuracy on the validation splits, and on fine names, the held-out ones apart."""
    table = Table("set", "grid", "mIoU", "pixel accuracy")
    for name in LABELLED_SETS:
        names = read_names(data / name / "classes.txt")
        lines = np.full(256, IGNORE, np.uint8)
        lines[: len(names)] = np.arange(len(names))
        for grid in (SMALL, LARGE):
            cache = Cache(caches / f"{name}_val_full_{grid[0]}")
            iou, accuracy = evaluate(head, cache, 0, lines, Words(names, encode), names)
            table.add_row(name, f"{grid[0]}x{grid[1]}", f"{mean(iou.values()):.3f}", f"{accuracy:.3f}")
    cache = Cache(caches / f"nyuv2_val_full_{SMALL[0]}")
    counts = np.bincount(np.asarray(cache.labels[1][:, ::4, ::4]).ravel(), minlength=256)
    lines = np.full(256, IGNORE, np.uint8)
    kept: list[str] = []
    for line, fine in enumerate(read_names(data / "nyuv2" / "fine_names.txt"), start=1):
        if fine != "unknown" and counts[line] > LEAST_PIXELS:
            lines[line] = len(kept)
            kept.append(fine)
    iou, accuracy = evaluate(head, cache, 1, lines, Words(kept, encode), kept)
    size = f"{SMALL[0]}x{SMALL[1]}"
    table.add_row(f"nyuv2, {len(kept)} fine names", size, f"{mean(iou.values()):.3f}", f"{accuracy:.3f}")
    held = [n for n in HELD_OUT if n in iou]
    table.add_row(
        f"… {len(held)} of them that --hold-out hides", size, f"{mean(iou[n] for n in held):.3f}", ""
    )
    for line, index in enumerate(lines):
        if index != IGNORE:
            lines[line] = held.index(kept[index]) if kept[index] in held else IGNORE
    iou, accuracy = evaluate(head, cache, 1, lines, Words(held, encode), held)
    table.add_row("… these among themselves", size, f"{mean(iou.values()):.3f}", f"{accuracy:.3f}")
    console.print(table)


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean."""
    return float(np.mean(list(values)))
