"""A torch model's text tower behind the text encoder's protocol."""

import logging
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ovs_ros.encoders.clip.dense_model import DenseModel
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.tokenizer import HubTokenizer
from ovs_ros.encoders.text_cleaning import reads
from ovs_ros.runtime.torch_device import MOVING, is_out_of_memory
from ovs_ros.vocabulary.text_encoder import is_latin

LOG = logging.getLogger(__name__)
BATCH = 256
"""How many texts go through the tower at once."""


class ClipTextEncoder:
    """Embeds texts with a torch model, in batches, on the model's device.

    Where memory is full, batches are halved from then on, down to single texts.

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
        self._batch = BATCH

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """See `TextEncoder.encode`.

        Raises:
            RuntimeError: the device fails, or its memory is too small for a single text.
        """
        embeddings = np.empty((len(texts), self.dim), np.float32)
        start = 0
        while start < len(texts):
            part = texts[start : start + self._batch]
            try:
                with MOVING, torch.inference_mode():
                    embeddings[start : start + len(part)] = (
                        self._model.embed_texts(part).float().cpu().numpy()
                    )
            except RuntimeError as error:
                if len(part) == 1 or not is_out_of_memory(error):
                    raise
                self._batch = len(part) // 2
                LOG.warning(
                    "%s embeds %d texts at once from now on, because memory was full", self.name, self._batch
                )
            else:
                start += len(part)
        return embeddings

    def reads(self, text: str) -> bool:
        """See `TextEncoder.reads`."""
        tokenizer = getattr(self._model, "tokenizer", None)
        return reads(tokenizer.tokenizer, text) if isinstance(tokenizer, HubTokenizer) else is_latin(text)


def imagenet_templates() -> tuple[str, ...]:
    """The 80 templates of CLIP for ImageNet, each with one '{}' (Radford et al. 2021, section 3.1.4).

    open_clip evaluates all its models with them, SigLIP, ConvNeXt and MobileCLIP included.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
    """
    return tuple(template("{}") for template in import_open_clip().OPENAI_IMAGENET_TEMPLATES)
