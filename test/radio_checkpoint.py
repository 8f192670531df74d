"""Checkpoints of C-RADIO with the real keys, small and with random weights, in both published layouts."""

import json
from argparse import Namespace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

WIDTH, DEPTH, TABLE, PREFIX, HIDDEN, DIM = 128, 3, 8, 8, 24, 32
TEACHERS = [
    {"name": "clip", "type": "open_clip", "model": "ViT-H-14-378-quickgelu", "use_summary": True},
    {"name": "siglip2", "type": "siglip2", "model": "siglip2-so400m", "use_summary": True},
    {"name": "sam", "type": "sam", "use_summary": False},
]


def radio_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of a .pth.tar: width 128, 3 blocks, heads by name for three teachers."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int, scale: float = 0.1) -> torch.Tensor:
        return scale * torch.randn(*shape, generator=generator)

    def linear(key: str, out: int, into: int) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": random(out, into, scale=into**-0.5), f"{key}.bias": random(out)}

    def norm(key: str, width: int) -> dict[str, torch.Tensor]:
        return {f"{key}.weight": 1 + random(width), f"{key}.bias": random(width)}

    tensors = {
        "input_conditioner.norm_mean": torch.tensor([0.48, 0.45, 0.40]).view(3, 1, 1),
        "input_conditioner.norm_std": torch.tensor([0.26, 0.27, 0.28]).view(3, 1, 1),
        "base_model.reg_token": random(1, 4, WIDTH),
        "base_model.patch_generator.pos_embed": random(1, TABLE**2, WIDTH, scale=0.5),
        "base_model.patch_generator.embedder.weight": random(WIDTH, 768, scale=768**-0.5),
        "base_model.patch_generator.cls_token.token": random(PREFIX, WIDTH, scale=0.5),
        "_loss_states.0.mean": random(4),
        "adaloss": random(1),
    }
    for number in range(DEPTH):
        block = f"base_model.blocks.{number}"
        tensors |= norm(f"{block}.norm1", WIDTH) | linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH)
        tensors |= linear(f"{block}.attn.proj", WIDTH, WIDTH) | {f"{block}.ls1.gamma": 0.5 + random(WIDTH)}
        tensors |= norm(f"{block}.norm2", WIDTH) | linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH)
        tensors |= linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH) | {f"{block}.ls2.gamma": 0.5 + random(WIDTH)}
    for teacher in TEACHERS:
        for kind in ("_heads", "_feature_projections"):
            head = f"{kind}.{teacher['name']}"
            tensors |= linear(f"{head}.fc1", HIDDEN, WIDTH)
            for number in range(2):
                tensors |= norm(f"{head}.blocks.{number}.0", HIDDEN)
                tensors |= linear(f"{head}.blocks.{number}.2", HIDDEN, HIDDEN)
            tensors |= norm(f"{head}.final.0", HIDDEN) | linear(f"{head}.final.2", DIM, HIDDEN)
    return tensors


def write_pth(path: Path, tensors: dict[str, torch.Tensor], **args: object) -> Path:
    """Write what the official training writes."""
    values = {"teachers": TEACHERS, "dtype": torch.float16, "cpe_max_size": 2048, **args}
    torch.save({"arch": "vit", "epoch": 1, "state_dict": tensors, "args": Namespace(**values)}, path)
    return path


def write_hub(folder: Path, tensors: dict[str, torch.Tensor]) -> Path:
    """Write model.safetensors and config.json as the hub's repositories have them."""
    from safetensors.torch import save_file

    renamed = {"radio_model.summary_idxs": torch.tensor([0, 1])}
    for key, tensor in tensors.items():
        parts = key.split(".", 2)
        if parts[0] == "base_model":
            new = "radio_model.model." + key.removeprefix("base_model.").replace(".gamma", ".grandma")
        elif parts[0] in ("_heads", "_feature_projections"):
            new = (
                f"radio_model.adaptors.{parts[1]}.{'head' if parts[0] == '_heads' else 'feat'}_mlp.{parts[2]}"
            )
        elif parts[0] == "input_conditioner":
            new = f"radio_model.{key}"
        else:
            continue
        renamed[new] = tensor
    folder.mkdir(exist_ok=True)
    save_file(renamed, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"args": {"teachers": TEACHERS}, "patch_size": 16}))
    return folder / "model.safetensors"
