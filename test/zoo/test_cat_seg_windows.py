"""CAT-Seg over windows, against decoding every view by itself and averaging cell by cell."""

from typing import Any

import numpy as np
import pytest
from clip_models import open_clip_or_skip

open_clip_or_skip()

import torch  # noqa: E402
from cat_seg_checkpoint import small_cat_seg  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from ovs_ros.encoders.clip.dense_model import TorchFeatures  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.zoo.cat_seg import load_cat_seg  # noqa: E402
from ovs_ros.zoo.cat_seg_windows import CatSegWindows  # noqa: E402


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        path = small_cat_seg(tmp_path_factory.mktemp("weights"), patch)
        return load_cat_seg(ModelFile(model="cat-seg-b", weights=str(path)))


def resized(images: Any, side: int) -> Any:
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


def test_views_are_averaged_where_they_overlap(model: Any) -> None:
    windows = CatSegWindows(model, 96, 48)  # of 16 x 16 cells, each 8 from the next
    images = torch.randn(2, 3, 64, 80, generator=torch.Generator().manual_seed(7))
    words = F.normalize(torch.randn(5, 1, 32, generator=torch.Generator().manual_seed(8)), dim=-1)
    features = windows.dense(images)
    assert features.patches.shape == (2, 4, 5, 32)  # the images' grid
    for b in range(2):
        one = TorchFeatures(
            features.patches[b : b + 1],
            features.image[b : b + 1],
            tuple(t[b : b + 1] for t in features.decoding),
        )
        logits = windows.decode(one, words)

        image = images[b : b + 1]
        whole = model.dense(resized(resized(image, 96), 64))
        torch.testing.assert_close(whole.image, one.image, atol=1e-5, rtol=1e-4)
        spread = F.interpolate(whole.patches.permute(0, 3, 1, 2), (4, 5), mode="bilinear")
        spread = F.normalize(spread.permute(0, 2, 3, 1), dim=-1)
        torch.testing.assert_close(one.patches, spread, atol=1e-5, rtol=1e-4)
        view = resized(model.decode(whole, words)[None].sigmoid(), 24)[0].numpy()
        sums, counts = np.zeros((5, 24, 24)), np.zeros((24, 24))
        square = resized(image, 144)
        for row in range(2):
            for column in range(2):
                cut = square[..., 48 * row : 48 * row + 96, 48 * column : 48 * column + 96]
                decoded = model.decode(model.dense(resized(cut, 64)), words).sigmoid().numpy()
                for y in range(16):
                    for x in range(16):
                        sums[:, 8 * row + y, 8 * column + x] += decoded[:, y, x]
                        counts[8 * row + y, 8 * column + x] += 1
        assert counts.max() == 4 and counts.min() == 1
        expected = (sums / counts + view) / 2
        np.testing.assert_allclose(torch.sigmoid(logits).numpy(), expected, atol=1e-5)


def test_it_serves_as_an_image_encoder(model: Any) -> None:
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    encoder = TorchImageEncoder(CatSegWindows(model, 64, 32), patches=48, device="cpu", precision="fp32")
    features = encoder.encode(image)
    words = np.eye(32, dtype=np.float32)[:3]
    assert features.logits(words).shape == (*features.grid, 3)


def test_it_stands_for_the_model(model: Any) -> None:
    windows = CatSegWindows(model, 64, 0)
    assert (windows.window, windows.step) == (64, 32)
    assert windows.decodes and windows.dim == 32 and windows.logit_scale == model.logit_scale
    assert torch.equal(windows.embed_texts(["a cat"]), model.embed_texts(["a cat"]))
    assert model.name in windows.name and windows.name != model.name


@pytest.mark.parametrize(("window", "stride"), [(64, 65), (64, 30)])
def test_windows_that_do_not_tile_are_refused(model: Any, window: int, stride: int) -> None:
    with pytest.raises(ValueError, match=rf"got {window} and {stride}"):
        CatSegWindows(model, window, stride)
