import pytest
from clip_models import open_clip_or_skip
from slow_clip import slow_cosines, slow_pool

open_clip_or_skip()
import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from ovs_ros.encoders.clip.dinoiser import DinoiserHead, load_head  # noqa: E402

KEYS = {
    "obj_proj.weight": (256, 64, 3, 3),
    "obj_proj.bias": (256,),
}


@pytest.fixture
def weights():
    generator = torch.Generator().manual_seed(0)
    return {key: torch.randn(shape, generator=generator) for key, shape in KEYS.items()}


def test_reads_the_published_form(tmp_path, weights):
    torch.save({"epoch": 3, "model_state_dict": weights}, tmp_path / "last.pt")
    state = load_head(tmp_path / "last.pt", 64).state_dict()
    assert state.keys() == KEYS.keys()
    assert all(torch.equal(state[key], weights[key]) for key in KEYS)


def test_leaves_the_other_head_clip_and_teachers_in_a_checkpoint_of_the_whole_model(tmp_path, weights):
    whole = {
        **weights,
        "bkg_decoder.bias": torch.ones(1),
        "clip_backbone.backbone.logit_scale": torch.ones(()),
    }
    save_file(whole, tmp_path / "model.safetensors")
    heads = load_head(tmp_path / "model.safetensors", 64)
    assert torch.equal(heads.obj_proj.weight, weights["obj_proj.weight"])


def test_says_what_is_missing_foreign_and_of_another_shape(tmp_path, weights):
    weights["other.weight"] = weights.pop("obj_proj.bias")
    torch.save({"model_state_dict": weights}, tmp_path / "last.pt")
    with pytest.raises(ValueError) as error:
        load_head(tmp_path / "last.pt", 32)
    for part in ("missing: obj_proj.bias", "foreign: other.weight", "expected (256, 32, 3, 3)"):
        assert part in str(error.value)


def test_never_runs_code(tmp_path, weights):
    class Harm:
        def __reduce__(self):
            return (exec, ("raise SystemExit",))

    torch.save({"model_state_dict": weights, "args": Harm()}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match="refused"):
        load_head(tmp_path / "last.pt", 64)


def make_heads(weights):
    heads = DinoiserHead(64)
    heads.load_state_dict(weights)
    return heads.requires_grad_(False)


@pytest.mark.parametrize("grid", [(3, 5), (4, 2)])
def test_pooling_is_its_formula(weights, grid):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, *grid, 64, generator=generator)
    features = torch.randn(2, grid[0] * grid[1], 12, generator=generator)
    pooled = make_heads(weights).pooled(hidden, features)
    kernel, bias = weights["obj_proj.weight"].double(), weights["obj_proj.bias"].double()
    for index in range(2):
        seen = []
        for y in range(grid[0]):
            for x in range(grid[1]):
                total = bias.clone()
                for dy in range(3):
                    for dx in range(3):
                        v, u = min(max(y + dy - 1, 0), grid[0] - 1), min(max(x + dx - 1, 0), grid[1] - 1)
                        total += kernel[:, :, dy, dx] @ hidden[index, v, u].double()
                seen.append(total)
        expected = slow_pool(features[index], slow_cosines(torch.stack(seen)), 0.2)
        torch.testing.assert_close(pooled[index].double(), expected, atol=1e-5, rtol=1e-4)
