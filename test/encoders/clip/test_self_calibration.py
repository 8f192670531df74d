import pytest
from clip_models import open_clip_or_skip, small_clip
from slow_clip import (
    slow_affinities,
    slow_cosines,
    slow_mixed,
    slow_outlier_factors,
    slow_pool,
    slow_repair,
)

open_clip_or_skip()
import torch  # noqa: E402

from ovs_ros.encoders.clip.self_calibration import calibrate, level  # noqa: E402


def test_levels_of_other_depths_lie_at_the_same_share():
    assert [level(block, 12) for block in (4, 9, 10)] == [3, 8, 9]
    assert [level(block, 24) for block in (4, 9, 10)] == [7, 17, 19]
    for depth in range(2, 40):
        assert 0 <= level(4, depth) <= level(10, depth) < depth - 1


@pytest.mark.parametrize("grid", [(5, 7), (3, 8)])
def test_calibration_is_its_formula(grid):
    clip, _ = small_clip(seed=1)
    block = clip.visual.transformer.resblocks[-1]
    block.attn.in_proj_weight.mul_(4)
    count = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    common = torch.randn(1, 1, 64, generator=generator)
    outputs = [torch.randn(2, 1 + count, 64, generator=generator) + common for _ in range(11)]
    patches = calibrate(block, outputs, grid)

    for index in range(2):
        tokens = outputs[10][index]
        factors = torch.tensor(slow_outlier_factors(tokens[1:], min(30, count - 1)))
        outliers = set((factors > torch.quantile(factors, 0.95)).nonzero()[:, 0].tolist())
        alike = slow_cosines(slow_repair(outputs[8][index, 1:], outliers, grid))
        mended = slow_pool(slow_repair(tokens[1:], outliers, grid), alike, 0.4)
        affinities = slow_affinities(alike, 1.0, 3.0)
        last = slow_mixed(block, torch.cat([tokens[:1].double(), mended]), affinities) + 0.3 * tokens[0]
        fused = sum(output[index] for output in outputs[3:10])
        between = slow_mixed(block, fused, affinities) + 0.3 * fused[0]
        expected = slow_pool(last + between, slow_cosines(outputs[3][index, 1:]), 0.4)
        torch.testing.assert_close(patches[index].double(), expected, atol=1e-5, rtol=1e-5)
