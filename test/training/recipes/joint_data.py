"""A few small images of some of the sets that the embedded model is trained on, in their own forms."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ovs_ros.training.label_spaces import shipped_label_spaces

HEIGHT, WIDTH = 64, 80
SETS = ("nyuv2", "voc", "idd", "doordetect", "grocery", "imagenet_samples", "flickr8k")


def write_data(root: Path) -> None:
    """Images of two regions each, whose brightness is that of their classes."""
    rng = np.random.default_rng(0)
    spaces = shipped_label_spaces()
    for name, train, val in (("nyuv2", 4, 2), ("voc", 10, 0), ("idd", 10, 0)):
        classes = spaces[name].classes
        (root / name).mkdir(parents=True)
        (root / name / "classes.txt").write_text("".join(f"{line}\n" for line in classes))
        for split, count in (("train", train), ("val", val)):
            for index in range(count):
                label = np.full((HEIGHT, WIDTH), index % 3, np.uint8)
                label[HEIGHT // 2 :] = 3 + index % 2
                label[:, :10] = 255
                folder = root / name / split
                write(folder / "image" / f"{index}.jpg", picture(label, rng))
                write(folder / "label" / f"{index}.png", label)
                if name == "nyuv2":
                    write(folder / "fine" / f"{index}.png", np.where(label == 255, 0, label % 3 + 1))
    (root / "nyuv2" / "fine_names.txt").write_text("wall\nunknown\nkettle\n")
    blank = np.zeros((HEIGHT, WIDTH), np.uint8)
    for name in ("doordetect", "grocery", "imagenet_samples", "flickr8k"):
        for index in range(3):
            write(root / name / "image" / f"{index}.jpg", picture(blank + index, rng))
    boxes = "".join(f"{i}.jpg\tdoor\t10\t10\t40\t50\n{i}.jpg\thandle\t30\t30\t36\t34\n" for i in range(3))
    (root / "doordetect" / "boxes.tsv").write_text("file\tword\tx0\ty0\tx1\ty1\n" + boxes)
    (root / "grocery" / "names.tsv").write_text("file\tname\n0.jpg\toat milk\n1.jpg\tapple\n2.jpg\tapple\n")
    thousand = "".join(f"{i % 3}.jpg\tkind {i % 999}\n" for i in range(1000))
    (root / "imagenet_samples" / "names.tsv").write_text(thousand)
    captions = "".join(f"{i}.jpg\t{text}\n" for i in range(3) for text in ("A dog runs .", "A dog", "Grass"))
    (root / "flickr8k" / "captions.tsv").write_text(captions)


def picture(label: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Grey of the label's value, with noise: (H, W, 3)."""
    noise = rng.integers(-10, 10, (*label.shape, 3))
    return np.clip(label.astype(int)[..., None] * 40 % 256 + noise, 0, 255).astype(np.uint8)


def write(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image.astype(np.uint8))
