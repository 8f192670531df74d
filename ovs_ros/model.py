"""A model: encoders of one space, and what was fitted for them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features, ImageEncoder
from ovs_ros.runtime.finite import require_finite
from ovs_ros.steps.network import Network
from ovs_ros.steps.selection_head import SelectionHead
from ovs_ros.vocabulary.knowledge import Knowledge, knowledge_of
from ovs_ros.vocabulary.text_encoder import TextEncoder


@dataclass(frozen=True, eq=False)
class Model:
    """An image encoder and a text encoder of one space, and what was fitted for them.

    Attributes:
        image_encoder: brings images into the space shared with words.
        text_encoder: brings words there.
        network: the trained coarse-to-fine network; None: the model has none.
        temperature: what logits are divided by so that confidences are calibrated (temperature scaling; see
            evaluation/temperature_scaling.py), beside the temperature of the options.
        knowledge: what the model was shown of words in training.
        digest: of the encoders' weights, which a network must have been trained over; '': it is not known.
        selection_head: trained for the selection rule `top_n`; None: the rule goes by cosines.

    Raises:
        ValueError: the encoders, or they and the network or the selection head, do not share one space, the
            network was trained over others, or the temperature is not positive.
    """

    image_encoder: ImageEncoder
    text_encoder: TextEncoder
    network: Network | None = None
    temperature: float = 1.0
    knowledge: Knowledge = Knowledge()
    digest: str = ""
    selection_head: SelectionHead | None = None

    def __post_init__(self) -> None:
        image, text = self.image_encoder, self.text_encoder
        if image.dim != text.dim:
            raise ValueError(
                "expected an image and a text encoder of one space, got "
                f"{image.name} with {image.dim} dimensions and {text.name} with {text.dim}; use a pair that "
                "was trained together"
            )
        if self.network is not None:
            self.network.record.check(self.name, self.digest, text.templates)
        for part in (self.network, self.selection_head):
            if part is not None and part.dim != text.dim:
                raise ValueError(
                    f"expected a network over words of {text.dim} dimensions, as {text.name} gives, got one "
                    f"over {part.dim}; use the one that was trained with these encoders"
                )
        if not 0 < self.temperature < float("inf"):
            raise ValueError(f"expected a positive temperature, got {self.temperature}; fit it again")

    def refined(self, network: Network, selection_head: SelectionHead | None) -> "Model":
        """This model with a trained network and its selection head; the names it was trained on are known.

        Raises:
            ValueError: see above.
        """
        seen = knowledge_of(network.record.names).labels
        knowledge = replace(self.knowledge, labels=self.knowledge.labels | seen)
        return replace(self, network=network, selection_head=selection_head, knowledge=knowledge)

    @property
    def name(self) -> str:
        """The image encoder's weights and resolution, for reports."""
        return self.image_encoder.name

    @cached_property
    def identity(self) -> str:
        """Tells what this model sees of an image from what others see: both names, of which one has a digest.

        It stays as it was when first asked for: a step of the memory fallback makes no other model.
        """
        return f"{self.image_encoder.name} {self.text_encoder.name}"

    @property
    def device(self) -> str:
        """Where images are encoded: 'cpu', 'cuda:0', …"""
        return self.image_encoder.device

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """What the model gave up when memory was full, one line a step; empty: nothing."""
        return tuple(getattr(self.image_encoder, "fallbacks", ()))

    def encode(self, image: NDArray[np.uint8]) -> Features:
        """Encode an image. Not for two threads at once.

        Args:
            image: (H, W, 3) uint8 RGB of any size; not changed, and not kept.

        Raises:
            TypeError: the image is not a uint8 array.
            ValueError: the image has another shape.
            NotFiniteError: the encoder gives NaN or infinity.
        """
        check_image(image)
        return self._finite(self.image_encoder.encode(image))

    @property
    def most_at_once(self) -> int:
        """How many images `encode_batch` encodes together at most; 1 where that saves no time."""
        return getattr(self.image_encoder, "most_at_once", 1)

    def encode_batch(self, images: Sequence[NDArray[np.uint8]]) -> Iterator[tuple[int, Features]]:
        """Encode several images, together where the image encoder gains from it. Not for two threads at once.

        Args:
            images: as in `encode`.

        Yields:
            (index, features) of each image, in any order. Those of a model with its own decoder are good
            until the next are asked for.

        Raises:
            TypeError, ValueError, NotFiniteError: as in `encode`, for the first image.
        """
        if self.most_at_once == 1:
            yield from ((index, self.encode(image)) for index, image in enumerate(images))
            return
        for image in images:
            check_image(image)
        for index, features in self.image_encoder.encode_batch(images):  # type: ignore[attr-defined]
            yield index, self._finite(features)

    def _finite(self, features: Features) -> Features:
        for array in (features.class_token, features.patch_tokens):
            require_finite(array, "image embeddings", self.name)
        return features


def check_image(image: object) -> None:
    """Refuse what is no RGB image.

    Raises:
        TypeError: it is not a uint8 array.
        ValueError: it has another shape than (H, W, 3), or no pixel.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        got = f"dtype {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        raise TypeError(f"expected an image as a uint8 array, got {got}; convert it to 8 bit RGB")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ValueError(f"expected an RGB image of shape (height, width, 3), got {image.shape}")
