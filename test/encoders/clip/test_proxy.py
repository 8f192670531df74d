import pytest
from clip_models import open_clip_or_skip
from onnx_encoders import save_encoder

open_clip_or_skip()
import torch  # noqa: E402

from ovs_ros.encoders.clip.proxy import EmbeddedProxy, FileProxy, open_proxy  # noqa: E402
from ovs_ros.encoders.embedded import MODELS  # noqa: E402
from ovs_ros.encoders.pyramid import PyramidImageEncoder  # noqa: E402


def images_of(height, width, batch=1):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (batch, 3, height, width), generator=generator) / 255


def test_embedded_patches_lie_on_clips():
    """What the embedded model says of an image's cells, whatever CLIP's patches are in pixels."""
    colours = images_of(3, 4, batch=2)
    small, large = (colours.repeat_interleave(side, 2).repeat_interleave(side, 3) for side in (16, 28))
    proxy = open_proxy("embedded")
    features = proxy.features(small, (3, 4))
    assert isinstance(proxy, EmbeddedProxy)
    assert features.shape == (2, 12, 256)

    encoder = PyramidImageEncoder(MODELS, cells=4)
    for index in range(2):
        pixels = (small[index] * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        expected = torch.from_numpy(encoder.encode(pixels).patch_tokens[:3, :4].reshape(12, -1))
        torch.testing.assert_close(features[index], expected, atol=1e-5, rtol=0)
    scaled = proxy.features(large, (3, 4))
    cosines = torch.einsum("bnd,bmd->bnm", features, scaled)
    assert (cosines.argmax(2) == torch.arange(12)).float().mean() > 0.8  # scaling blurs along the borders


def test_file_whose_grid_is_clips_is_taken_as_it_is(tmp_path):
    kernel = save_encoder(tmp_path / "proxy.onnx", kind=2, first=False)  # uint8 pixels, (1, 64, 64, 3)
    images = images_of(64, 64, batch=2)
    features = open_proxy(str(tmp_path / "proxy.onnx")).features(images, (4, 4))
    pixels = torch.round(images * 255)
    expected = torch.nn.functional.conv2d(pixels, torch.from_numpy(kernel), stride=16)
    torch.testing.assert_close(features, expected.flatten(2).mT, atol=1e-2, rtol=1e-4)


def test_padding_of_a_wide_image_is_left_out(tmp_path):
    kernel = save_encoder(tmp_path / "proxy.onnx", kind=2, first=False)
    images = images_of(32, 64)
    features = FileProxy(tmp_path / "proxy.onnx").features(images, (2, 4))
    expected = torch.nn.functional.conv2d(torch.round(images * 255), torch.from_numpy(kernel), stride=16)
    torch.testing.assert_close(features, expected.flatten(2).mT, atol=1e-2, rtol=1e-4)


def test_a_coarser_map_is_interpolated_between_centres(tmp_path):
    kernel = save_encoder(tmp_path / "proxy.onnx", kind=2, first=False)
    images = images_of(64, 64)
    features = FileProxy(tmp_path / "proxy.onnx").features(images, (8, 8)).view(8, 8, -1)
    coarse = torch.nn.functional.conv2d(torch.round(images * 255), torch.from_numpy(kernel), stride=16)[0]
    torch.testing.assert_close(features[0, 0], coarse[:, 0, 0], atol=1e-2, rtol=1e-4)
    # The third position's centre lies at 1.25 cells: between the first cell's centre and the second's.
    expected = 0.75 * coarse[:, 0, 1] + 0.25 * coarse[:, 0, 0]
    torch.testing.assert_close(features[0, 2], expected, atol=1e-2, rtol=1e-4)


def test_says_where_a_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere.onnx"):
        open_proxy(str(tmp_path / "nowhere.onnx"))


def test_refuses_to_be_part_of_a_graph(tmp_path):
    save_encoder(tmp_path / "proxy.onnx")
    proxy = FileProxy(tmp_path / "proxy.onnx")

    class Module(torch.nn.Module):
        def forward(self, images):
            return proxy.features(images, (4, 4))

    with pytest.raises(RuntimeError, match="cannot be part of a graph"):
        torch.export.export(Module(), (images_of(64, 64),), strict=False)


def test_names_tell_files_apart(tmp_path):
    save_encoder(tmp_path / "a.onnx", channels=4)
    save_encoder(tmp_path / "b.onnx", channels=8)
    assert FileProxy(tmp_path / "a.onnx").name != FileProxy(tmp_path / "b.onnx").name
