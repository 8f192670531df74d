"""A torch model's text tower behind the text encoder's protocol."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ovs_ros.encoders.clip.dense_model import DenseModel
from ovs_ros.encoders.clip.imports import import_open_clip

BATCH = 256
"""How many texts go through the tower at once."""


class ClipTextEncoder:
    """Embeds texts with a torch model, in batches, on the model's device.

    Its name is the model's, which holds a digest of the weights, so that no cache mixes two models.

    Args:
        model: whose `embed_texts` does the work.
        templates: prompt templates, each with one '{}'; empty: the model's, or `imagenet_templates()`.
    """

    def __init__(self, model: DenseModel, templates: Sequence[str] = ()) -> None:
        self.name = model.name
        self.dim = model.dim
        self.templates = tuple(templates) or model.templates or imagenet_templates()
        self.keeps_prompts = model.keeps_prompts
        self._model = model

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `TextEncoder.encode`."""
        embeddings = np.empty((len(texts), self.dim), np.float32)
        with torch.inference_mode():
            for start in range(0, len(texts), BATCH):
                batch = self._model.embed_texts(texts[start : start + BATCH])  # (up to BATCH, D)
                embeddings[start : start + BATCH] = batch.float().cpu().numpy()
        return embeddings


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of CLIP for ImageNet, each with one '{}' (Radford et al. 2021, section 3.1.4).

    open_clip evaluates all its models with them, SigLIP, ConvNeXt and MobileCLIP included.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
    """
    return tuple(template("{}") for template in import_open_clip().OPENAI_IMAGENET_TEMPLATES)
