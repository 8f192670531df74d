"""Labelled, captioned and named images in the form that the recipes of the embedded model read."""

from pathlib import Path

import cv2
import numpy as np


def write_data(root: Path) -> None:
    """Two small images with floor below and wall above, two captioned and three named ones."""
    rng = np.random.default_rng(0)
    label = np.zeros((60, 80), np.uint8)
    label[30:] = 1
    label[:, :4] = 255

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.where(label[..., None] == 1, 90, 200) + rng.integers(-20, 20, (60, 80, 3))
        cv2.imwrite(str(path), image.astype(np.uint8))

    for split in ("train", "val"):
        for name in ("a", "b"):
            write(root / "rooms" / split / "image" / f"{name}.png")
            (root / "rooms" / split / "label").mkdir(exist_ok=True)
            cv2.imwrite(str(root / "rooms" / split / "label" / f"{name}.png"), label)
    (root / "rooms" / "classes.txt").write_text("wall\nfloor\nlamp\n")
    names = {"a.png": "lion", "b.png": "tiger", "c.png": "seal"}
    for name in names:
        write(root / "imagenet_samples" / "image" / name)
        write(root / "flickr8k" / "image" / name)
    (root / "imagenet_samples" / "names.tsv").write_text("".join(f"{f}\t{n}\n" for f, n in names.items()))
    captions = [f"{name}\t{what} number {i} .\n" for name in names for i, what in enumerate(CAPTIONS)]
    (root / "flickr8k" / "captions.tsv").write_text("".join(captions))


CAPTIONS = ("A dog on the floor", "The dog", "A brown dog by a wall", "A wall and a dog", "Nothing")
