"""A small labelled set and a small pair of encoders, to train on in seconds."""

from pathlib import Path

import cv2
import numpy as np
import torch
from fakes import ColorImageEncoder, ColorTextEncoder

from ovs_ros.encoders.embedded import MODELS
from ovs_ros.model import Model
from ovs_ros.training.efficientnet import EfficientNetLite
from ovs_ros.training.embedded_model import EmbeddedModel
from ovs_ros.training.encoder_pair import RunTimePair
from ovs_ros.training.export_embedded import save_words, write_image_encoder

COLOURS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "yellow": (220, 220, 30)}


def write_tree(root: Path, *, images: int = 6, height: int = 40, width: int = 48) -> None:
    """Rectangles of named colours, in the project's own form."""
    rng = np.random.default_rng(0)
    (root / "classes.txt").parent.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text("\n".join(COLOURS) + "\n")
    palette = np.array(list(COLOURS.values()), np.uint8)
    for split in ("train", "val"):
        for kind in ("image", "label"):
            (root / split / kind).mkdir(parents=True, exist_ok=True)
        for index in range(images):
            label = np.full((height, width), 3, np.uint8)
            for value in rng.permutation(3):
                top, left = rng.integers(0, height - 12), rng.integers(0, width - 12)
                label[top : top + rng.integers(8, 24), left : left + rng.integers(8, 24)] = value
            label[:, 0] = 255
            noise = rng.integers(-20, 20, (height, width, 3))
            image = np.clip(palette[np.minimum(label, 3)] + noise, 0, 255).astype(np.uint8)
            cv2.imwrite(str(root / split / "image" / f"{index}.png"), image[..., ::-1])
            cv2.imwrite(str(root / split / "label" / f"{index}.png"), label)


PARTS = "width=8,text_width=8,guide_width=8,shallow_width=4,heads=2,window=4,levels=1"
"""Of a network of a few thousand weights."""


def colour_pair(side: int = 48) -> RunTimePair:
    """Encoders that know colours and their names; side: of views in pixels, in patches of 16."""
    return RunTimePair(Model(ColorImageEncoder(), ColorTextEncoder()), {"model": "made-up"}, side)


def write_pyramid(folder: Path) -> Path:
    """The folder of an embedded model with random weights, but for the sentence encoder."""
    torch.manual_seed(0)
    model = EmbeddedModel(EfficientNetLite("lite0")).eval()
    folder.mkdir(parents=True, exist_ok=True)
    write_image_encoder(model, folder / "image_encoder.onnx")
    save_words(model.words, folder / "text_head.npz")
    for name in ("text_encoder.onnx", "tokenizer.json"):
        (folder / name).symlink_to(MODELS / name)
    (folder / "seen_words.txt").write_text("car\n")
    return folder
