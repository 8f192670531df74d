"""The spatial enhanced decoder (DCP-CLIP, equations 13 to 16).

Each of its layers is windowed attention, plain and then shifted, whose queries and keys see the encoder's
earlier layers E and its class token's attention A, upsampled to the layer's grid, and whose values see the
cost features Z alone; then the grid is doubled. The paper gives what goes in, not the shape of A, nor the
order of layers: these are readings, as in CAT-Seg.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.zoo.coarse_to_fine.layers import Mlp, join_heads, split_axis, split_heads, zero
from ovs_ros.zoo.coarse_to_fine.window_partition import WindowBias, cut, join


class EncoderContext(nn.Module):
    """[E ‖ A]: the encoder's earlier layers, projected and normalised, beside its class token's attention.

    A is one channel for each of the encoder's heads. It sums up to 1 over the grid; it is brought to a scale
    that does not depend on the grid's size, and its peaks are flattened.
    """

    def __init__(self, shallow: tuple[int, ...], width: int, attention: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Sequential(nn.Linear(c, width), nn.LayerNorm(width)) for c in shallow)
        self.attention = attention
        self.width = len(shallow) * width + attention

    def forward(self, shallow: tuple[Tensor, ...], attention: Tensor | None) -> Tensor:
        """(B, h, w, C_i) each, and (B, h, w, heads), to (B, h, w, width).

        Raises:
            ValueError: `attention` is missing, or the number of layers is not that of the configuration.
        """
        if len(shallow) != len(self.layers):
            raise ValueError(f"expected {len(self.layers)} shallow features, got {len(shallow)}")
        parts = [layer(x) for layer, x in zip(self.layers, shallow, strict=True)]
        if self.attention:
            if attention is None:
                raise ValueError(f"expected attention of {self.attention} heads, got None; set attention=0")
            parts.append(torch.log1p(attention * (attention.shape[1] * attention.shape[2])))
        return torch.cat(parts, dim=-1)


class SharedWindowAttention(nn.Module):
    """Windowed attention whose queries and keys see [E ‖ A] only (not Z).

    A reading of equation 13 for two CPU cores: one affinity serves all categories, so that its cost does not
    grow with their number.
    """

    def __init__(self, width: int, context: int, heads: int, window: int, offset: int) -> None:
        super().__init__()
        self.heads, self.window, self.offset = heads, window, offset
        self.context_norm = nn.LayerNorm(context)
        self.query_key = nn.Linear(context, 2 * width)
        self.norm = nn.LayerNorm(width)
        self.value = nn.Linear(width, width, bias=False)
        self.out = zero(nn.Linear(width, width, bias=False))
        self.bias = WindowBias(window, offset, heads)

    def forward(self, cost: Tensor, context: Tensor) -> Tensor:
        """(B, h, w, M, width) and (B, h, w, context) to what is added to the former."""
        batch, h, w, _, width = cost.shape
        context = self.query_key(self.context_norm(context))  # (B, h, w, 2 * width)
        query, key = (
            split_heads(x, self.heads)  # (B, windows, heads, window**2, width / heads)
            for x in cut(context, self.window, self.offset).chunk(2, dim=-1)
        )
        value = split_axis(self.value(self.norm(cost)), -1, self.heads, -1)
        value = value.transpose(3, 4).flatten(3)  # (B, h, w, heads * M * width / heads)
        value = split_heads(cut(value, self.window, self.offset), self.heads)
        seen = F.scaled_dot_product_attention(query, key, value, self.bias(context).to(query.dtype))
        seen = join(join_heads(seen), h, w, self.window, self.offset)  # (B, h, w, heads * M * width / heads)
        seen = seen.reshape(batch, h, w, self.heads, -1, width // self.heads)
        return self.out(seen.transpose(3, 4).flatten(4))


class CategoryWindowAttention(nn.Module):
    """Windowed attention whose queries and keys see [Z ‖ E ‖ A], each category for itself (eq. 13)."""

    def __init__(self, width: int, context: int, heads: int, window: int, offset: int) -> None:
        super().__init__()
        self.heads, self.window, self.offset = heads, window, offset
        self.norm = nn.LayerNorm(width)
        self.from_cost = nn.Linear(width, 3 * width, bias=False)
        # The linear layer of [Z ‖ E ‖ A] is one of Z plus one of the rest, which all categories share.
        self.from_context = nn.Linear(context, 2 * width, bias=False) if context else None
        self.out = zero(nn.Linear(width, width, bias=False))
        self.bias = WindowBias(window, offset, heads)

    def forward(self, cost: Tensor, context: Tensor | None) -> Tensor:
        """(B, h, w, M, width) and (B, h, w, context), if there is any, to what is added to the former."""
        batch, h, w, _, width = cost.shape
        both = self.from_cost(self.norm(cost)).permute(0, 3, 1, 2, 4)  # (B, M, h, w, 3 * width)
        if self.from_context is not None and context is not None:
            both = both + F.pad(self.from_context(context), (0, width)).unsqueeze(1)
        query, key, value = (
            split_heads(x, self.heads)  # (B * M, windows, heads, window**2, width / heads)
            for x in cut(both.flatten(0, 1), self.window, self.offset).chunk(3, dim=-1)
        )
        seen = F.scaled_dot_product_attention(query, key, value, self.bias(both[:, 0]).to(query.dtype))
        seen = join(join_heads(seen), h, w, self.window, self.offset)  # (B * M, h, w, width)
        return split_axis(self.out(seen), 0, batch, -1).permute(0, 2, 3, 1, 4)


class SpatialPair(nn.Module):
    """Equations 13 and 14: windowed, then shifted windowed attention, each with its residual and an MLP."""

    def __init__(self, kind: str, width: int, context: int, heads: int, window: int, mlp_ratio: int) -> None:
        super().__init__()
        attention = SharedWindowAttention if kind == "shared" else CategoryWindowAttention
        self.attentions = nn.ModuleList(
            attention(width, context, heads, window, offset) for offset in (0, window // 2)
        )
        self.mlps = nn.ModuleList(Mlp(width, mlp_ratio) for _ in range(2))

    def forward(self, cost: Tensor, context: Tensor | None) -> Tensor:
        """(B, h, w, M, width) and (B, h0, w0, context) of the patches, or None, to the former's shape."""
        if context is not None and context.shape[1:3] != cost.shape[1:3]:
            size = (cost.shape[1], cost.shape[2])
            context = context.permute(0, 3, 1, 2)
            context = F.interpolate(context, size, mode="bilinear", align_corners=False).permute(0, 2, 3, 1)
        for attention, mlp in zip(self.attentions, self.mlps, strict=True):
            cost = cost + attention(cost, context)
            cost = cost + mlp(cost)
        return cost


class Doubling(nn.Module):
    """Z to twice its grid (eq. 15): convolutions of [ConvT(Z) ‖ Up(C0) ‖ Up(E)].

    The first convolution is computed in two halves, so that E, the same for all categories, is not repeated
    for each. C0 comes as the map of the mean over prompts, beside those of words' kernels, if there are any.
    """

    def __init__(self, width: int, out: int, maps: int, shallow: int, shallow_out: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(width, out, 2, stride=2)
        self.project = nn.Conv2d(shallow, shallow_out, 1) if shallow else None
        self.from_shallow = nn.Conv2d(shallow_out, out, 3, padding=1, bias=False) if shallow else None
        self.from_cost = nn.Conv2d(out + maps, out, 3, padding=1)
        self.norm1 = nn.GroupNorm(max(out // 16, 1), out)
        self.conv = nn.Conv2d(out, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(max(out // 16, 1), out)

    def forward(self, cost: Tensor, maps: Tensor, shallow: Tensor | None) -> Tensor:
        """Double the grid.

        Args:
            cost: (B, h, w, M, width); maps: (B, M, maps, h0, w0), on the patches' grid.
            shallow: (B, h0, w0, C), an earlier layer of the encoder, or None.

        Returns:
            (B, 2h, 2w, M, out).
        """
        batch = cost.shape[0]
        z = self.up(cost.permute(0, 3, 4, 1, 2).flatten(0, 1))  # (B * M, out, 2h, 2w)
        size = (z.shape[2], z.shape[3])
        raw = F.interpolate(maps.flatten(0, 1).to(z.dtype), size, mode="bilinear", align_corners=False)
        z = split_axis(self.from_cost(torch.cat([z, raw], dim=1)), 0, batch, -1)
        if self.project is not None and self.from_shallow is not None and shallow is not None:
            e = self.project(shallow.permute(0, 3, 1, 2))
            e = self.from_shallow(F.interpolate(e, size, mode="bilinear", align_corners=False))
            z = z + e.unsqueeze(1)
        z = F.relu(self.norm1(z.flatten(0, 1)))
        z = F.relu(self.norm2(self.conv(z)))
        return split_axis(z, 0, batch, -1).permute(0, 3, 4, 1, 2)
