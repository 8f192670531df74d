"""The trained network that refines cosines: DCP-CLIP's alignment and spatial decoder (eq. 6 to 16).

What it computes is told, part by part, where it is trained (`ovs_ros/zoo/coarse_to_fine/`); here it is run.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import spread
from ovs_ros.runtime.onnx import FAILURES, open_session
from ovs_ros.steps.network_record import RECORD_KEY, NetworkRecord

NETWORK_FILE = "network.onnx"
"""Its name in a model's folder."""
REFINED = 12
"""How many of a frame's selected words it refines, so that its time hardly depends on the vocabulary."""
MOST_WORDS = 1024
"""How many words it refines at once at most: its memory grows with them, by megabytes a word."""
_INPUTS = {"patches", "image", "words"}


class Network:
    """A network that `ovs train` exported, over one pair of encoders.

    Attributes:
        dim: the width of the space of words that it was made for.
        record: what it was trained over and on.

    Args:
        model: the ONNX file.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such network.
    """

    def __init__(self, model: Path) -> None:
        if not model.is_file():
            raise FileNotFoundError(
                f"expected a network that 'ovs train network' wrote at {model}, found none"
            )
        try:
            self._session = open_session(model)
        except FAILURES as error:
            raise ValueError(
                f"expected a network that 'ovs train network' wrote in {model}, got a file that is no ONNX "
                "network; name its network.onnx"
            ) from error
        stored = self._session.get_modelmeta().custom_metadata_map
        self.record = NetworkRecord.from_text(stored.get(RECORD_KEY, ""))
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        outputs = [o.name for o in self._session.get_outputs()]
        if not set(inputs) >= _INPUTS or set(inputs) - _INPUTS - {"shallow"} or outputs != ["logits"]:
            raise ValueError(
                f"expected a network with the inputs patches, image, words and perhaps shallow, and the "
                f"output logits in {model}, got {', '.join(inputs)} and {', '.join(outputs)}; "
                "name a network.onnx of 'ovs train network'"
            )
        if inputs["words"][1] != 1:
            raise ValueError(
                f"expected a network over one embedding a word in {model}, got {inputs['words'][1]}; such a "
                "one runs by its model.yaml"
            )
        self._sees_hidden = "shallow" in inputs
        self.dim = int(inputs["words"][2])

    def logits(
        self,
        features: Features,
        words: NDArray[np.float32],
        most: int = MOST_WORDS,
        evidence: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Logits of words as `Features.logits` gives them, refined.

        The network works on patches, or on a finer grid of them where it has levels; what it adds to the
        scaled cosines is spread with them. Of more than
        `most` words, it refines those that lack the least to be the best of some patch. The others, which
        hardly win anything, get the mean of what these get, so that the comparison stays fair.

        Args:
            features: of one image.
            words: (M, D) float32 unit rows.
            most: how many words are refined.
            evidence: (h, w, M) what examples add to the logits; None: there are no examples.

        Raises:
            ValueError: the network needs what the encoder does not give.
        """
        h, w, dim = features.patch_tokens.shape
        cosines = features.patch_tokens.reshape(-1, dim) @ words.T  # (h*w, M)
        if len(words) <= most:
            best = np.arange(len(words))
        else:
            rank = cosines
            if evidence is not None:
                rank = cosines + evidence.reshape(cosines.shape) / np.float32(features.logit_scale)
            lacks = (rank - rank.max(axis=1, keepdims=True)).max(axis=0)  # (M,)
            best = np.sort(np.argpartition(-lacks, most)[:most])
        added = self._run(features, words[best])  # (s*h, s*w, most)
        plain = (cosines[:, best] * np.float32(features.logit_scale)).reshape(h, w, -1)
        added -= spread(plain, added.shape[:2])
        if len(best) < len(words):
            refined, added = added, np.repeat(added.mean(axis=2, keepdims=True), len(words), axis=2)
            added[..., best] = refined
        if evidence is not None:
            added = added + spread(evidence, added.shape[:2])
        return features.logits(words, added)

    def _run(self, features: Features, words: NDArray[np.float32]) -> NDArray[np.float32]:
        """Refined logits, (s*h, s*w, M)."""
        given = {"patches": features.patch_tokens, "image": features.class_token, "words": words[:, None]}
        if self._sees_hidden:
            if features.hidden is None:
                raise ValueError(
                    "expected an image encoder that gives hidden features, got one without; use the network "
                    "with the encoder that it was trained with"
                )
            given["shallow"] = features.hidden
        logits: NDArray[np.float32] = self._session.run(None, given)[0]
        return logits
