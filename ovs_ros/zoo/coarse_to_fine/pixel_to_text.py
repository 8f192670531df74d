"""P2Tformer: texts attend to the image (FGAseg, "Pixel-to-Text Transformer").

A text embedding does not depend on the image; here every category gathers from the visual map what goes
with it, and so its embedding moves towards what the category looks like in this image.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class PixelToText(nn.Module):
    """E = E_T + gamma E_CA: one layer of cross-attention from texts to the visual map.

    The queries are the texts; keys and values are the flattened visual tokens with sinusoidal positions; the
    softmax runs over the positions. After it a text belongs to one image: what a stream can cache of its
    words is only what goes in.

    Readings, where the paper's text is lost: gamma's form and start (those of DenseCLIP: one number a
    channel, almost 0, so that training begins with the texts as they were), layer normalisation of what goes
    in, several heads, the positions' unit (the image is one turn, so that any grid has them), and unit norm
    of what comes out, for the cosines. A category with several prompts asks once, with their mean, and all
    of them move alike.

    Args:
        text_width: D of the words.
        visual_width: C of the visual map, a multiple of 4.
        heads: of the attention; they divide D.
        start: gamma before training.

    Raises:
        ValueError: the visual width does not allow it.
    """

    def __init__(self, text_width: int, visual_width: int, *, heads: int = 4, start: float = 1e-4) -> None:
        super().__init__()
        if visual_width % 4:
            raise ValueError(f"expected a visual width that is a multiple of 4, got {visual_width}")
        self.heads = heads
        self.text_norm = nn.LayerNorm(text_width)
        self.visual_norm = nn.LayerNorm(visual_width)
        self.query = nn.Linear(text_width, text_width)
        # Softmax does not see a number added to all keys of a query, which is all that a bias could do.
        self.key = nn.Linear(visual_width, text_width, bias=False)
        self.value = nn.Linear(visual_width, text_width)
        self.out = nn.Linear(text_width, text_width)
        self.gamma = nn.Parameter(torch.full((text_width,), start))

    def forward(self, words: Tensor, visual: Tensor) -> Tensor:
        """Words of this image.

        Args:
            words: (B, M, P, D) unit norm, P prompts a category; padding may be among the categories, which do
                not see each other.
            visual: (B, h, w, C).

        Returns:
            (B, M, P, D) unit norm.
        """
        _, rows, cols, width = visual.shape
        positions = sinusoidal_positions(rows, cols, width, visual.device)  # (h, w, C)
        tokens = (self.visual_norm(visual) + positions).flatten(1, 2)  # (B, N, C)
        query, key, value = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, heads, M or N, D / heads)
            for x in (self.query(self.text_norm(words.mean(dim=2))), self.key(tokens), self.value(tokens))
        )
        gathered = F.scaled_dot_product_attention(query, key, value)  # (B, heads, M, D / heads)
        gathered = self.out(gathered.transpose(1, 2).flatten(2))  # (B, M, D)
        return F.normalize(words + (self.gamma * gathered)[:, :, None], dim=-1)


def sinusoidal_positions(rows: int, cols: int, width: int, device: torch.device) -> Tensor:
    """Sines and cosines of where a patch lies, half of the channels for the rows and half for the columns.

    As in DETR the image is one turn wide and high, so that a place has the same position on any grid.

    Args:
        rows, cols: the grid's size.
        width: number of channels, a multiple of 4.
        device: where the positions are made.

    Returns:
        (rows, cols, width) float32.
    """
    exponents = torch.arange(width // 4, device=device) / (width // 4)
    frequencies = 10000.0**-exponents  # (width / 4,)
    down, across = (
        (torch.arange(size, device=device) + 0.5)[:, None] * (2 * math.pi / size) * frequencies
        for size in (rows, cols)
    )
    vertical = torch.cat([down.sin(), down.cos()], dim=1)[:, None].expand(-1, cols, -1)
    horizontal = torch.cat([across.sin(), across.cos()], dim=1)[None].expand(rows, -1, -1)
    return torch.cat([vertical, horizontal], dim=2)
