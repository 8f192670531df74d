"""all-MiniLM-L6-v2 in torch: what `text_encoder.onnx` is written from.

The weights are only stored in int8: names are short and cached, so their cost does not matter, and an
embedding must not depend on the texts that happen to share its batch, as it would if activations were
quantised over the batch.
"""

from pathlib import Path

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.runtime.quantisation import store_in_8_bits
from ovs_ros.runtime.torch_to_onnx import attention, write_free

DEPTH, WIDTH, HEADS = 6, 384, 12
LONGEST = 64
"""Tokens a text; names and captions are far shorter."""
EPSILON = 1e-12


class MiniLM(nn.Module):
    """all-MiniLM-L6-v2 under the names that its file has."""

    def __init__(self) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(30522, WIDTH),
                "position_embeddings": nn.Embedding(512, WIDTH),
                "token_type_embeddings": nn.Embedding(2, WIDTH),
                "LayerNorm": nn.LayerNorm(WIDTH, eps=EPSILON),
            }
        )
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(_layer() for _ in range(DEPTH))})

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """The mean of the last layer's tokens, (B, 384) of unit norm.

        Args:
            ids: (B, L) int64.
            mask: (B, L) int32, 1 where there is a token.
        """
        parts = self.embeddings
        places = parts["position_embeddings"].weight[:LONGEST] + parts["token_type_embeddings"].weight[0]
        x = parts["LayerNorm"](parts["word_embeddings"](ids) + places[: ids.shape[1]])  # (B, L, 384)
        for layer in self.encoder["layer"]:
            inner, outer = layer["attention"]["self"], layer["attention"]["output"]
            query, key, value = (inner[name](x) for name in ("query", "key", "value"))
            x = outer["LayerNorm"](x + outer["dense"](attention(query, key, value, HEADS, mask)))
            wide = F.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](x + layer["output"]["dense"](wide))
        # The norm makes the mean's divisor superfluous.
        return F.normalize((x * mask[:, :, None].float()).sum(1), dim=-1)


def _layer() -> nn.ModuleDict:
    def linear(inputs: int, outputs: int, *, norm: bool) -> nn.ModuleDict:
        parts: dict[str, nn.Module] = {"dense": nn.Linear(inputs, outputs)}
        return nn.ModuleDict(parts | ({"LayerNorm": nn.LayerNorm(outputs, eps=EPSILON)} if norm else {}))

    heads = nn.ModuleDict({name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")})
    return nn.ModuleDict(
        {
            "attention": nn.ModuleDict({"self": heads, "output": linear(WIDTH, WIDTH, norm=True)}),
            "intermediate": linear(WIDTH, 4 * WIDTH, norm=False),
            "output": linear(4 * WIDTH, WIDTH, norm=True),
        }
    )


def write_text_encoder(encoder: MiniLM, path: Path) -> None:
    """Write the encoder as ONNX.

    Inputs: `ids` (B, L) int64 and `mask` (B, L) int32, 1 where there is a token, texts from the left. Output:
    `embeddings` (B, 384) float32, of unit norm.
    """
    arguments = torch.ones((2, 3), dtype=torch.int64), torch.ones((2, 3), dtype=torch.int32)
    both = {0: "texts", 1: "length"}
    free = {"ids": both, "mask": both, "embeddings": {0: "texts"}}
    write_free(encoder.eval(), arguments, path, ["ids", "mask"], ["embeddings"], free)
    onnx.save(store_in_8_bits(onnx.load(path)), path)
