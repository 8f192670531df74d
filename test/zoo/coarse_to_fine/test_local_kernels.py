"""Local category supplementation: kernels made from texts."""

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from torch.nn.functional import conv2d  # noqa: E402

from ovs_ros.zoo.coarse_to_fine.local_kernels import LocalKernels  # noqa: E402


def part(**options) -> LocalKernels:
    torch.manual_seed(0)
    return LocalKernels(16, 8, **{"channels": 4, **options})


@pytest.mark.parametrize("kernel", [1, 3, 9])
def test_it_is_a_depthwise_convolution_with_each_categorys_kernels(kernel) -> None:
    local = part(kernel=kernel)
    texts, visual = torch.randn(2, 3, 16), torch.randn(2, 5, 7, 8)
    with torch.no_grad():
        kernels, projected = local.kernels(texts), local.visual(visual).permute(0, 3, 1, 2)
        want = torch.stack([
            torch.stack([
                conv2d(projected[b : b + 1], kernels[b, m][:, None], padding=kernel // 2, groups=4)[0]
                for m in range(3)
            ])
            for b in range(2)
        ])  # fmt: skip
        got = local(texts, visual)
    assert got.shape == (2, 3, 4, 5, 7)
    torch.testing.assert_close(got, want)


def test_kernels_are_normalised_over_the_channels() -> None:
    torch.testing.assert_close(
        part().kernels(torch.randn(2, 3, 16)).sum(dim=2), torch.full((2, 3, 3, 3), 4 / 9)
    )


def test_neither_channels_nor_kernel_set_the_scale() -> None:
    visual = torch.ones(1, 40, 40, 8)
    values = []
    for options in ({"channels": 4, "kernel": 3}, {"channels": 64, "kernel": 11}):
        local = part(**options)
        torch.nn.init.constant_(local.visual.weight, 1 / 8)
        torch.nn.init.zeros_(local.visual.bias)
        values.append(local(torch.randn(1, 2, 16), visual)[..., 20, 20].mean())
    torch.testing.assert_close(torch.stack(values), torch.ones(2), atol=0.01, rtol=0)


def test_categories_do_not_see_each_other() -> None:
    local, texts, visual = part(), torch.randn(2, 5, 16), torch.randn(2, 4, 6, 8)
    order = [3, 0, 4, 1, 2]
    straight = local(texts, visual)
    torch.testing.assert_close(local(texts[:, order], visual), straight[:, order])
    padded = torch.cat([texts, torch.zeros(2, 2, 16)], dim=1)
    torch.testing.assert_close(local(padded, visual)[:, :5], straight)


def test_every_parameter_gets_a_gradient() -> None:
    local = part()
    texts, visual = torch.randn(2, 5, 16, requires_grad=True), torch.randn(2, 4, 6, 8, requires_grad=True)
    local(texts, visual).square().sum().backward()
    assert [n for n, p in local.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert texts.grad.any() and visual.grad.any()
