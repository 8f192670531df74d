"""A pair of frozen encoders from open_clip, by name and local weights."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.training.networks.features import ImageFeatures


class OpenClip(nn.Module):
    """Any ViT of open_clip. Patches are the last block's values, projected as the class token is (MaskCLIP).

    Zhou, Loy, Dai, "Extract Free Dense Labels from CLIP", ECCV 2022, section 3.2. Earlier layers are those
    after a third and two thirds of the blocks, as in CAT-Seg. The text goes into open_clip's 80 templates.

    Args:
        model: the name that open_clip knows the architecture by, such as ViT-B-16.
        weights: a file with its weights.

    Raises:
        ModuleNotFoundError: open_clip is not installed.
        FileNotFoundError: there is no such file.
        ValueError: open_clip knows no such model, or it is no ViT of its own kind.
    """

    def __init__(self, model: str, weights: Path) -> None:
        super().__init__()
        if find_spec("open_clip") is None:
            raise ModuleNotFoundError(
                "expected the package open_clip, and it is not installed; install it with:"
                " pip install open_clip_torch"
            )
        import open_clip

        if model not in open_clip.list_models():
            raise ValueError(f"expected a model out of open_clip.list_models(), got {model!r}")
        if not weights.is_file():
            raise FileNotFoundError(
                f"expected the weights of {model} in {weights}, and there is no such file"
            )
        clip = open_clip.create_model(model, pretrained=str(weights))
        visual = clip.visual
        if not isinstance(visual, open_clip.transformer.VisionTransformer) or visual.attn_pool is not None:
            raise ValueError(f"expected a plain ViT of open_clip, got {model}; take one such as ViT-B-16")
        self.name = f"open_clip {model} ({weights.name})"
        self.clip: Any = clip
        self.clip.requires_grad_(False).eval()
        self.tokenizer = open_clip.get_tokenizer(model)
        self.templates = open_clip.OPENAI_IMAGENET_TEMPLATES
        self.patch = visual.conv1.kernel_size[0]
        self.dim = visual.proj.shape[1]
        self.prompts = len(self.templates)
        width, depth = visual.conv1.out_channels, len(visual.transformer.resblocks)
        self.taken = (depth // 3, 2 * depth // 3)
        self.shallow = (width,) * len(self.taken)
        self.attention = visual.transformer.resblocks[-1].attn.num_heads
        self.logit_scale = float(clip.logit_scale.detach().exp())
        mean, deviation = (
            255.0 * torch.tensor(v).view(3, 1, 1) for v in (visual.image_mean, visual.image_std)
        )
        self.register_buffer("mean", mean)
        self.register_buffer("deviation", deviation)

    def features(self, images: Tensor) -> ImageFeatures:
        """See `EncoderPair.features`."""
        visual = self.clip.visual
        with torch.no_grad():
            x = visual.conv1((images - self.mean) / self.deviation)  # (B, C, h, w)
            grid = (x.shape[2], x.shape[3])
            x = x.flatten(2).transpose(1, 2)
            cls = visual.class_embedding.to(x.dtype).expand(len(x), 1, -1)
            x = visual.ln_pre(torch.cat([cls, x], dim=1) + self._positions(grid).to(x.dtype))  # (B, 1 + N, C)
            shallow = []
            *early, last = visual.transformer.resblocks
            batch_first = getattr(visual.transformer, "batch_first", False)
            for index, block in enumerate(early, start=1):
                x = block(x) if batch_first else block(x.transpose(0, 1)).transpose(0, 1)
                if index in self.taken:
                    shallow.append(x[:, 1:].unflatten(1, grid))
            query, key, value = self._heads(last, x)
            whole = F.scaled_dot_product_attention(query[:, :, :1], key, value)  # (B, heads, 1, C / heads)
            whole = x[:, :1] + last.ls_1(last.attn.out_proj(whole.transpose(1, 2).flatten(2)))
            whole = whole + last.ls_2(last.mlp(last.ln_2(whole)))
            values = last.attn.out_proj(value.transpose(1, 2).flatten(2))[:, 1:]  # (B, N, C)
            scores = (query[:, :, :1] @ key[:, :, 1:].transpose(2, 3))[:, :, 0] / query.shape[3] ** 0.5
            return ImageFeatures(
                patches=F.normalize((visual.ln_post(values) @ visual.proj).float(), dim=-1).unflatten(
                    1, grid
                ),
                image=F.normalize((visual.ln_post(whole[:, 0]) @ visual.proj).float(), dim=-1),
                shallow=tuple(shallow),
                attention=scores.float().softmax(-1).transpose(1, 2).unflatten(1, grid),
            )

    def words(self, names: Sequence[str]) -> Tensor:
        """See `EncoderPair.words`."""
        device = self.mean.device
        found = []
        with torch.no_grad():
            for name in names:
                tokens = self.tokenizer([template(name) for template in self.templates]).to(device)
                found.append(F.normalize(self.clip.encode_text(tokens).float(), dim=-1).cpu())
        return torch.stack(found)

    def _heads(self, block: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Query, key and value of a block, each (B, heads, 1 + N, C / heads)."""
        attn = block.attn
        both = F.linear(block.ln_1(x), attn.in_proj_weight, attn.in_proj_bias)
        query, key, value = both.unflatten(2, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The position table (1 + N, C), resampled to a grid."""
        table = self.clip.visual.positional_embedding
        side = round((len(table) - 1) ** 0.5)
        if grid == (side, side):
            return table
        laid = table[1:].T.unflatten(1, (side, side))[None]  # (1, C, side, side)
        laid = F.interpolate(laid, grid, mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([table[:1], laid[0].flatten(1).T])
