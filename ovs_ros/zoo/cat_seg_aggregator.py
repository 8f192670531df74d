"""CAT-Seg's cost aggregation: from cosines of patches and words to logits on a grid four times as fine.

S. Cho et al., CAT-Seg, CVPR 2024, sections 3.2 to 3.4 and its inference code (MIT licence). Written for one
image and M words: what does not depend on the word (projections of the guidance) is computed once, not M
times, and the 256 - M equal padding tokens of the class attention are counted, not computed: both are exact.
The modules are named as in the official checkpoint.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.window_partition import cut, join

_LEAST = 1e-6 / 256
"""Keeps a mean over 256 words from being zero where it divides; of their sum, 1e-6."""
_CROSS_REGION = -100.0
"""What Swin adds to attention logits between regions that are no neighbours."""


@dataclass(frozen=True)
class AggregatorSizes:
    """Widths; the defaults are those of both published models.

    Attributes:
        hidden: C, of a cost embedding.
        guidance: G, of the projected guidance by image and by text.
        decoder: channels after each of the two upsampling steps.
        skips: channels of the two skips before their projection.
        projected_skips: channels after it.
        heads: of both attentions.
        layers: of spatial and class aggregation.
        window: side of Swin's windows in patches.
        words: to how many tokens the class attention pads.
    """

    hidden: int = 128
    guidance: int = 128
    decoder: tuple[int, int] = (64, 32)
    skips: tuple[int, int] = (256, 128)
    projected_skips: tuple[int, int] = (32, 16)
    heads: int = 4
    layers: int = 2
    window: int = 12
    words: int = 256


class Guidance(NamedTuple):
    """What the aggregation takes from an image, the same for all words.

    Attributes:
        patches: (B, G, h, w).
        skip2: (B, sizes.projected_skips[0], 2h, 2w).
        skip4: (B, sizes.projected_skips[1], 4h, 4w).
    """

    patches: Tensor
    skip2: Tensor
    skip4: Tensor


class Aggregator(nn.Module):
    """Refines cosines over space and over words, and brings them to a finer grid.

    Args:
        dim: D, of the space that patches and words share.
        sizes: the widths.
    """

    def __init__(self, dim: int, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, sizes.hidden, 7, padding=3)
        self.guidance_projection = nn.Sequential(nn.Conv2d(dim, sizes.guidance, 3, padding=1), nn.ReLU())
        self.text_guidance_projection = nn.Sequential(nn.Linear(dim, sizes.guidance), nn.ReLU())
        self.decoder_guidance_projection = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.ReLU())
            for before, after in zip(sizes.skips, sizes.projected_skips, strict=True)
        )
        self.layers = nn.ModuleList(_Layer(sizes) for _ in range(sizes.layers))
        self.decoder1 = _Up(sizes.hidden, sizes.decoder[0], sizes.projected_skips[0])
        self.decoder2 = _Up(sizes.decoder[0], sizes.decoder[1], sizes.projected_skips[1])
        self.head = nn.Conv2d(sizes.decoder[1], 1, 3, padding=1)

    def guide(self, patches: Tensor, skips: Sequence[Tensor]) -> Guidance:
        """Project the guidance of B images.

        Args:
            patches: (B, h, w, D) dense tokens of CLIP, not normalised.
            skips: (B, ., 2h, 2w) and (B, ., 4h, 4w), of earlier blocks.
        """
        projected = (layer(skip) for layer, skip in zip(self.decoder_guidance_projection, skips, strict=True))
        return Guidance(self.guidance_projection(patches.permute(0, 3, 1, 2)), *projected)

    def forward(self, patches: Tensor, words: Tensor, guidance: Guidance) -> Tensor:
        """Logits of one image.

        Args:
            patches: (h, w, D) of unit norm.
            words: (M, D) of unit norm; rows of zeros are no words: they change nothing for the others.
            guidance: of that image (B = 1).

        Returns:
            (M, 4h, 4w).
        """
        h, w, _ = patches.shape
        cost = torch.einsum("hwd,md->mhw", patches, words)
        x = self.conv1(cost[:, None]).permute(0, 2, 3, 1)  # (M, h, w, C)
        image = guidance.patches[0].permute(1, 2, 0)  # (h, w, G)
        text = self.text_guidance_projection(words)  # (M, G)
        present = (words != 0).any(dim=1)  # (M,)
        for layer in self.layers:
            x = layer(x, image, text, present)
        x = x.permute(0, 3, 1, 2)  # (M, C, h, w)
        x = self.decoder2(self.decoder1(x, guidance.skip2), guidance.skip4)
        return self.head(x)[:, 0]


class _Layer(nn.Module):
    """One round of aggregation: over space, then over words."""

    def __init__(self, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.swin_block = _SwinPair(sizes)
        self.attention = ClassAttention(sizes)

    def forward(self, x: Tensor, image: Tensor, text: Tensor, present: Tensor) -> Tensor:
        return self.attention(self.swin_block(x, image), text, present)


class _SwinPair(nn.Module):
    """Two Swin blocks, the second with windows shifted by half; guided by the image."""

    def __init__(self, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.block_1 = SwinBlock(sizes, shifted=False)
        self.block_2 = SwinBlock(sizes, shifted=True)
        self.guidance_norm = nn.LayerNorm(sizes.guidance)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        image = self.guidance_norm(image)
        return self.block_2(self.block_1(x, image), image)


class SwinBlock(nn.Module):
    """A Swin block whose queries and keys see the guidance and whose values do not.

    A grid that is no multiple of the window is padded at the bottom and the right; no patch attends to
    padding. A grid of one window or less along one side is not shifted.
    """

    def __init__(self, sizes: AggregatorSizes, shifted: bool) -> None:
        super().__init__()
        self.window = sizes.window
        self.shifted = shifted
        self.norm1 = nn.LayerNorm(sizes.hidden)
        self.attn = _WindowAttention(sizes)
        self.norm2 = nn.LayerNorm(sizes.hidden)
        self.mlp = _Mlp(sizes.hidden)

    def forward(self, x: Tensor, image: Tensor) -> Tensor:
        """(M, h, w, C), guided by (h, w, G), to (M, h, w, C)."""
        h, w = image.shape[:2]
        side = self.window
        height, width = h + -h % side, w + -w % side
        shift = side // 2 if self.shifted and min(h, w) > side else 0

        def laid(maps: Tensor) -> Tensor:
            """(M, h, w, .) padded and shifted: (M, height, width, .)."""
            if (height, width) != (h, w):
                maps = F.pad(maps, (0, 0, 0, width - w, 0, height - h))
            return torch.roll(maps, (-shift, -shift), (1, 2)) if shift else maps

        y, mask = self.norm1(x), None
        if shift or (height, width) != (h, w):
            # Shifting brings the top and the left edge beside the bottom and the right one: patches of
            # separate regions do not see each other, and none sees the padding, which is region 0.
            rows, columns = (torch.arange(n, device=x.device) >= n - shift for n in (height, width))
            regions = (1 + 2 * rows.long()[:, None] + columns.long())[None, :, :, None]
            regions = regions * laid(torch.ones((1, h, w, 1), dtype=torch.long, device=x.device))
            regions = cut(regions, side, 0)[0, :, :, 0]  # (n, window**2)
            apart = regions[:, :, None] != regions[:, None, :]
            mask = torch.zeros_like(apart, dtype=y.dtype).masked_fill_(apart, _CROSS_REGION)
        guide = cut(laid(image[None]), side, 0)[0]  # (n, window**2, G)
        y = self.attn(cut(laid(y), side, 0), guide, mask)  # (M, n, window**2, C)
        y = join(y, height, width, side, 0)
        if shift:
            y = torch.roll(y, (shift, shift), (1, 2))
        x = x + y[:, :h, :w]
        return x + self.mlp(self.norm2(x))


class _WindowAttention(nn.Module):
    """Attention within windows: softmax(Q Kᵀ / √d + mask) V with Q, K of [cost | guidance] and V of cost."""

    def __init__(self, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.q = nn.Linear(sizes.hidden + sizes.guidance, sizes.hidden)
        self.k = nn.Linear(sizes.hidden + sizes.guidance, sizes.hidden)
        self.v = nn.Linear(sizes.hidden, sizes.hidden)
        self.proj = nn.Linear(sizes.hidden, sizes.hidden)

    def forward(self, x: Tensor, guide: Tensor, mask: Tensor | None) -> Tensor:
        """(M, n, p, C), guided by (n, p, G), masked by (n, p, p), to (M, n, p, C)."""
        m, n, p, channels = x.shape
        q, k, v = guided_linear(self.q, x, guide), guided_linear(self.k, x, guide), self.v(x)
        # Windows and heads share an axis, so that the mask needs no copy for each word.
        q, k, v = (
            t.reshape(m, n, p, self.heads, -1).transpose(2, 3).reshape(m, n * self.heads, p, -1)
            for t in (q, k, v)
        )
        if mask is not None:
            mask = mask.repeat_interleave(self.heads, dim=0)[None]  # (1, n*heads, p, p)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.proj(x.reshape(m, n, self.heads, p, -1).transpose(2, 3).reshape(m, n, p, channels))


class ClassAttention(nn.Module):
    """Linear attention (feature map elu + 1) over the words at each patch, guided by the words' embeddings.

    A. Katharopoulos et al., Transformers are RNNs, ICML 2020, equation 5. Fewer than `sizes.words` words are
    filled up with one learned token, which stands for absent words too; more are taken as they are
    (officially the 256 that are most like some patch stay: selecting the categories of an image before it is
    decoded does that and more).
    """

    def __init__(self, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.words = sizes.words
        self.attention = _LinearAttention(sizes)
        self.MLP = nn.Sequential(
            nn.Linear(sizes.hidden, 4 * sizes.hidden), nn.ReLU(), nn.Linear(4 * sizes.hidden, sizes.hidden)
        )
        self.norm1 = nn.LayerNorm(sizes.hidden)
        self.norm2 = nn.LayerNorm(sizes.hidden)
        self.padding_tokens = nn.Parameter(torch.zeros(1, 1, sizes.hidden))
        self.padding_guidance = nn.Parameter(torch.zeros(1, 1, sizes.guidance))

    def forward(self, x: Tensor, text: Tensor, present: Tensor) -> Tensor:
        """(M, h, w, C), guided by (M, G), to (M, h, w, C); `present` (M,) says which words there are."""
        m, h, w, channels = x.shape
        y = x.reshape(m, h * w, channels)
        shares = present.float() / max(m, self.words)  # (M,)
        padding = self.norm1(self.padding_tokens), self.padding_guidance[0]
        y = y + self.attention(self.norm1(y), text[:, None], *padding, shares)
        y = y + self.MLP(self.norm2(y))
        return x + y.reshape(x.shape)


class _LinearAttention(nn.Module):
    """phi(q) (sum_j s_j phi(k_j) v_j) / (phi(q) sum_j s_j phi(k_j)); one token has the rest of the shares s.

    Equal shares give the plain sums; as means they stay within half precision.
    """

    def __init__(self, sizes: AggregatorSizes) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.q = nn.Linear(sizes.hidden + sizes.guidance, sizes.hidden)
        self.k = nn.Linear(sizes.hidden + sizes.guidance, sizes.hidden)
        self.v = nn.Linear(sizes.hidden, sizes.hidden)

    def forward(self, x: Tensor, text: Tensor, token: Tensor, guide: Tensor, shares: Tensor) -> Tensor:
        """(M, p, C) with guidance (M, 1, G) and shares (M,), and a token (1, 1, C) with its own (1, G)."""
        q, k = _positive(guided_linear(self.q, x, text)), _positive(guided_linear(self.k, x, text))
        q, k, v = (t.unflatten(2, (self.heads, -1)) for t in (q, k, self.v(x)))  # (M, p, heads, d)
        rest = 1 - shares.sum()
        key = _positive(guided_linear(self.k, token, guide)).reshape(self.heads, -1) * rest  # (heads, d)
        value = self.v(token).reshape(self.heads, -1)
        k = k * shares[:, None, None, None].to(k.dtype)
        keys = k.sum(dim=0) + key  # (p, heads, d)
        pairs = torch.einsum("mphd,mphv->phdv", k, v) + key[:, :, None] * value[:, None]
        norm = torch.einsum("mphd,phd->mph", q, keys) + _LEAST
        return (torch.einsum("mphd,phdv->mphv", q, pairs) / norm[..., None]).flatten(2)


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Up(nn.Module):
    """Twice as fine, joined with a skip, and two convolutions."""

    def __init__(self, before: int, after: int, skip: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(before, before - skip, 2, stride=2)
        self.conv = DoubleConv(before, after)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(M, before, h, w) and (1, skip, 2h, 2w) to (M, after, 2h, 2w)."""
        return self.conv(self.up(x), skip)


class DoubleConv(nn.Module):
    """Two 3 x 3 convolutions with GroupNorm over several maps side by side (CAT-Seg's and SED's decoders)."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        groups = after // 16
        self.double_conv = nn.Sequential(
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            nn.GroupNorm(groups, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.GroupNorm(groups, after),
            nn.ReLU(),
        )

    def forward(self, *parts: Tensor) -> Tensor:
        """Maps (M or 1, ., h, w), `before` channels together, to (M, after, h, w).

        The first convolution is the sum of one of each part, so that no map of the image is repeated for
        every word.
        """
        weights = self.double_conv[0].weight.split([part.shape[1] for part in parts], dim=1)
        joined = sum(F.conv2d(part, weight, padding=1) for part, weight in zip(parts, weights, strict=True))
        return self.double_conv[1:](joined)


def guided_linear(layer: nn.Linear, x: Tensor, guide: Tensor) -> Tensor:
    """layer([x | guide]) for guidance that repeats along x's axes, without repeating it."""
    own = x.shape[-1]
    return F.linear(x, layer.weight[:, :own]) + F.linear(guide, layer.weight[:, own:], layer.bias)


def _positive(x: Tensor) -> Tensor:
    """The feature map of linear attention."""
    return F.elu(x) + 1
