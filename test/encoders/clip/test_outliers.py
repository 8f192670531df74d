import pytest
from clip_models import open_clip_or_skip
from slow_clip import slow_outlier_factors, slow_repair

open_clip_or_skip()
import torch  # noqa: E402

from ovs_ros.encoders.clip.self_calibration import find_outliers, local_outlier_factors, repair  # noqa: E402


def tokens_of(count, batch=2, width=16, seed=0):
    return torch.randn(batch, count, width, generator=torch.Generator().manual_seed(seed)) + 3


@pytest.mark.parametrize(("count", "neighbours"), [(45, 30), (40, 5), (12, 30), (2, 30)])
def test_factors_are_breunigs(count, neighbours):
    tokens = tokens_of(count)
    factors = local_outlier_factors(tokens, neighbours=neighbours)
    for index in range(2):
        slow = slow_outlier_factors(tokens[index], min(neighbours, count - 1))
        torch.testing.assert_close(factors[index].double(), torch.tensor(slow).double(), atol=1e-4, rtol=1e-4)


def test_factors_know_nothing_of_shift_scale_or_order():
    tokens = tokens_of(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    factors = local_outlier_factors(tokens, neighbours=7)
    torch.testing.assert_close(
        local_outlier_factors(5 * tokens + 9, neighbours=7), factors, atol=1e-3, rtol=1e-3
    )
    torch.testing.assert_close(local_outlier_factors(tokens[:, order], neighbours=7), factors[:, order])


def test_factors_are_exact_under_autocast():
    tokens = tokens_of(40) * 300  # whose squares float16 cannot hold
    with torch.autocast("cpu", torch.float16):
        mixed = local_outlier_factors(tokens)
    assert torch.equal(mixed, local_outlier_factors(tokens))


def test_tokens_that_are_all_the_same_have_finite_factors():
    assert local_outlier_factors(torch.ones(1, 40, 8)).isfinite().all()


@pytest.mark.parametrize("count", [1, 20, 21, 45, 200])
def test_outliers_are_those_above_the_quantile(count):
    tokens = tokens_of(count)
    outliers = find_outliers(tokens)
    if count == 1:
        assert not outliers.any()
        return
    factors = local_outlier_factors(tokens)
    expected = factors > torch.quantile(factors, 0.95, dim=1, keepdim=True)
    assert torch.equal(outliers, expected)


def test_planted_outliers_are_found_and_mended():
    grid = (8, 12)
    tokens = tokens_of(96, batch=1, width=32)
    planted = [13, 50, 95]
    damaged = tokens.clone()
    damaged[0, planted] += 40 * torch.randn(3, 32, generator=torch.Generator().manual_seed(3))
    outliers = find_outliers(damaged)
    assert outliers[0, planted].all()
    mended = repair(damaged, outliers, grid)
    assert (mended[0, planted] - tokens[0, planted]).norm(dim=1).max() < 20


@pytest.mark.parametrize("grid", [(5, 9), (1, 20), (7, 3)])
def test_repair_is_the_mean_of_the_inliers_around(grid):
    count = grid[0] * grid[1]
    tokens = tokens_of(count)
    outliers = torch.rand(2, count, generator=torch.Generator().manual_seed(7)) < 0.4
    repaired = repair(tokens, outliers, grid)
    for index in range(2):
        chosen = set(outliers[index].nonzero()[:, 0].tolist())
        torch.testing.assert_close(repaired[index], slow_repair(tokens[index], chosen, grid))


def test_outliers_among_outliers_stay():
    tokens = tokens_of(12)
    assert torch.equal(repair(tokens, torch.ones(2, 12, dtype=torch.bool), (3, 4)), tokens)


def test_inliers_are_not_touched():
    tokens = tokens_of(12)
    outliers = torch.zeros(2, 12, dtype=torch.bool)
    outliers[0, 5] = True
    changed = (repair(tokens, outliers, (3, 4)) != tokens).any(-1)
    assert torch.equal(changed, outliers)
