"""What a network is trained over is what the run time, or open_clip itself, says."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402
from training.made_up import colour_pair, write_pyramid  # noqa: E402
from zoo.coarse_to_fine.nets import network  # noqa: E402

from ovs_ros.encoders.clip.vit import OpenClipViT  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.steps.network_record import NetworkRecord  # noqa: E402
from ovs_ros.training.encoder_pair import OpenClip, open_pair  # noqa: E402
from ovs_ros.training.recipes.network import network_config  # noqa: E402
from ovs_ros.vocabulary.prompts import embed  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402

SMALL = "width=8,text_width=8,guide_width=8,shallow_width=8,window=3"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of an embedded model with random weights."""
    return write_pyramid(tmp_path_factory.mktemp("pyramid"))


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    y, x = np.mgrid[:64, :64].astype(np.float32)
    planes = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


@torch.no_grad()
@pytest.mark.parametrize("levels", [0, 1])
def test_training_decides_by_the_logits_of_the_run_time(
    folder: Path, image: np.ndarray, tmp_path: Path, levels: int
) -> None:
    """The embedded model: in training, and with the exported network."""
    pair = open_pair(str(folder), 64)
    assert (pair.shallow, pair.most_levels) == ((128,), 1)
    net = network(network_config(pair, "auto", f"{SMALL},levels={levels}"))
    encoded = pair.encode(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    words = pair.words(["dog", "traffic light", "sky"])[None]  # (1, 3, 1, D)
    output = net(encoded.features, words)
    want = encoded.finish(output, words)[0].permute(1, 2, 0).numpy()
    pair.write(net, NetworkRecord(pair.name, pair.digest), tmp_path)
    model = pair.open(tmp_path)
    features = model.image_encoder.encode(image)
    plain = features.logits(words[0, :, 0].numpy())
    assert np.abs(want - plain).max() > 0.1
    got = model.network.logits(features, words[0, :, 0].numpy())
    np.testing.assert_allclose(got, want, atol=2e-3)


def test_words_are_those_of_the_run_time(folder: Path) -> None:
    pair = open_pair(str(folder), 64)
    got = pair.words(["dog", "traffic light"])[:, 0].numpy()
    want = embed(Vocabulary.from_names(["dog", "traffic light"]), pair.model.text_encoder)
    np.testing.assert_allclose(got, want.embeddings, atol=1e-5)


def test_a_network_finer_than_the_head_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="at most 1 levels over .*efficientnet.* got 2"):
        network_config(open_pair(str(folder), 64), "full", "levels=2")


def test_a_pair_without_earlier_layers_has_a_network_too() -> None:
    config = network_config(colour_pair(), "auto", "")
    assert (config.shallow, config.spatial, config.levels) == ((), "category", 0)
    assert network_config(colour_pair(), "full", "").levels == 1


def test_parts_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="expected parts out of .*width.* got dim, heights"):
        network_config(colour_pair(), "auto", "heights=2,dim=3")


def test_only_clip_is_tuned(folder: Path) -> None:
    with pytest.raises(ValueError, match="ViT of open_clip for --tune attention"):
        open_pair(str(folder), 64, tune=True)


def test_open_clip_says_what_it_says_itself(tmp_path: Path) -> None:
    open_clip = open_clip_or_skip()
    name = register_small(tmp_path, "vit")
    clip = open_clip.create_model(name).eval()
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    pair = OpenClip(ModelFile(name, str(tmp_path / "weights.pt"), attention="maskclip"), 70)
    assert pair.side == 64 and pair.file.patches == 16
    images = torch.rand(1, 3, 64, 64) * 255
    features = pair.encode(images).features
    with torch.no_grad():
        image = clip.encode_image((images - pair.mean) / pair.deviation)
        text = clip.encode_text(open_clip.get_tokenizer(name)(["a photo of a dog."]))
    assert float(torch.cosine_similarity(features.image, image)) > 0.9999
    words = pair.words(["dog"])
    assert words.shape == (1, 80, 64) and not words.requires_grad
    assert float(torch.cosine_similarity(words[0], text).max()) > 0.9999
    plain = OpenClipViT(clip, name="the same", attention="maskclip")
    with torch.no_grad():
        dense = plain.dense((images - pair.mean) / pair.deviation)
    torch.testing.assert_close(features.patches, dense.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.attention.sum((1, 2)), torch.ones(1, pair.attention))
    assert pair.encode(images[..., :32, :48]).features.patches.shape == (1, 2, 3, 64)
