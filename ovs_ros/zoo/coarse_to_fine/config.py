"""Which parts a network has, and how wide they are."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

CategoryAttentionKind = Literal["none", "full", "linear"]
"""Attention between the patches of one category (see `CategoryAttention`)."""
SpatialKind = Literal["none", "category", "shared"]
"""Whose queries and keys windowed attention takes (see spatial_decoder.py)."""

_CHOICES: dict[str, tuple[str, ...]] = {
    "category_attention": get_args(CategoryAttentionKind),
    "spatial": get_args(SpatialKind),
}
_LEAST = {
    **dict.fromkeys(("dim", "prompts", "width", "text_width", "guide_width", "shallow_width"), 1),
    **dict.fromkeys(("local_channels", "heads", "window", "mlp_ratio"), 1),
    **dict.fromkeys(("attention", "levels", "local_kernels", "class_layers"), 0),
}


@dataclass(frozen=True)
class NetworkConfig:
    """The parts and widths of `CoarseToFine`; an ablation's rows are values of this class.

    Attributes:
        dim: D, the width of the space that patches and words share.
        prompts: P, prompts a category; 1 where words come as the mean over their prompts.
        shallow: C_i, the widths of the earlier encoder layers that the network sees.
        attention: channels of the encoder's class token attention that the network sees (reading of A in
            equation 13); 0 for none.
        logit_scale: what cosines are multiplied with.
        residual: add the scaled cosines to the logits, so that training starts from them; False: as in the
            paper.
        cross_attention: show the words to the patches (eq. 7 to 10).
        category_attention: attention over the patches of each category (eq. 11 and 12).
        class_layers: layers of attention over the categories at each patch: FGAseg has two, DCP-CLIP none.
        spatial: windowed attention with the encoder's earlier layers in queries and keys (eq. 13 and 14), one
            pair of it in each of the decoder's layers.
        levels: L, how many layers the decoder has, each of which doubles the grid (eq. 15 and 16); 0: one
            pair of windowed attention, and the grid stays.
        pixel_to_text: show the image to the words (FGAseg's P2Tformer).
        local_kernels: side of the kernels that words make (FGAseg's local category supplementation); odd, or
            0 for none.
        local_channels: how many maps these kernels give beside the cost's P.
        width: d_c, the width of a category's features at a patch.
        text_width: d, the width of the words' guidance and of queries and keys over it.
        guide_width: d_g, the width of the patches' features beside the cost (eq. 11).
        shallow_width: what each earlier layer is projected to.
        heads: of every attention.
        window: a window's side in patches.
        mlp_ratio: how much wider the MLPs are inside than `width`.

    Raises:
        ValueError: a field is out of range, or a part is on that needs one that is off.
    """

    dim: int
    prompts: int = 1
    shallow: tuple[int, ...] = ()
    attention: int = 0
    logit_scale: float = 20.0
    residual: bool = True
    cross_attention: bool = True
    category_attention: CategoryAttentionKind = "full"
    class_layers: int = 0
    spatial: SpatialKind = "category"
    levels: int = 2
    pixel_to_text: bool = False
    local_kernels: int = 0
    local_channels: int = 16
    width: int = 128
    text_width: int = 128
    guide_width: int = 128
    shallow_width: int = 32
    heads: int = 4
    window: int = 12
    mlp_ratio: int = 4

    def __post_init__(self) -> None:
        # A checkpoint or a YAML file gives a list.
        object.__setattr__(self, "shallow", tuple(self.shallow))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"expected {name} to be one of {', '.join(choices)}, got {getattr(self, name)!r}"
                )
        numbers = [(name, getattr(self, name), least) for name, least in _LEAST.items()]
        for name, value, least in (*numbers, *(("each of shallow", width, 1) for width in self.shallow)):
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"expected {name} to be a whole number of at least {least}, got {value!r}")
        if self.local_kernels and self.local_kernels % 2 == 0:
            raise ValueError(f"expected local_kernels to be odd or 0, got {self.local_kernels}")
        widths = [(name, getattr(self, name)) for name in ("dim", "width", "text_width")]
        if self.spatial != "none":
            widths += [
                (f"the width of layer {n} of the decoder", w) for n, w in enumerate(self.widths[:-1], 1)
            ]
        for name, value in widths:
            if value % self.heads:
                raise ValueError(f"expected {name} to be a multiple of heads {self.heads}, got {value}")
        if self.spatial == "shared" and not (self.shallow or self.attention):
            raise ValueError(
                "expected shallow or attention for spatial='shared', got neither; use 'category'"
            )

    @property
    def widths(self) -> tuple[int, ...]:
        """The width of a category's features in each layer of the decoder, and after the last."""
        found = [self.width]
        for _ in range(self.levels):
            found.append(max(found[-1] // 2, 8))
        return tuple(found)

    @classmethod
    def embedded(cls, dim: int, **fields: Any) -> "NetworkConfig":
        """Small enough for two CPU cores; the head of the embedded model upsamples what it gives.

        `fields` are those that differ from it. Without earlier layers there is nothing to share.
        """
        seen = fields.get("shallow") or fields.get("attention")
        small: dict[str, Any] = {
            "category_attention": "linear",
            "spatial": "shared" if seen else "category",
            "levels": 0,
            "width": 32,
            "text_width": 64,
            "guide_width": 32,
            "shallow_width": 64,
            "heads": 1,
            "window": 7,
            "mlp_ratio": 2,
        }
        return cls(dim=dim, **{**small, **fields})

    @classmethod
    def full(cls, dim: int, **fields: Any) -> "NetworkConfig":
        """CAT-Seg's widths (DCP-CLIP's are not published), for GPUs. `fields` are those that differ."""
        return cls(dim=dim, **fields)
