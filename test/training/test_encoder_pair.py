"""The frozen pairs say in torch what runs on a robot, or what open_clip itself says."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[train]')")

from clip_models import open_clip_or_skip, register_small  # noqa: E402

from ovs_ros.encoders.clip.vit import OpenClipViT  # noqa: E402
from ovs_ros.encoders.embedded import EmbeddedImageEncoder, EmbeddedTextEncoder  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.training.encoder_pair import DinoMiniLM, OpenClip  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.config import NetworkConfig  # noqa: E402
from ovs_ros.zoo.coarse_to_fine.network import CoarseToFine  # noqa: E402


@pytest.fixture(scope="module")
def pair() -> DinoMiniLM:
    return DinoMiniLM()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    y, x = np.mgrid[:84, :112].astype(np.float32)
    planes = [127 + 120 * np.sin(x / 9 + k) * np.cos(y / (7 + k)) for k in range(3)]
    return np.stack(planes, axis=2).clip(0, 255).astype(np.uint8)


def test_patches_and_image_are_those_of_the_run_time(pair: DinoMiniLM, image: np.ndarray) -> None:
    encoder = EmbeddedImageEncoder(patches=48)
    want = encoder.encode(image)
    got = pair.features(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert got.patches.shape == (1, 6, 8, pair.dim)
    assert (got.patches[0].numpy() * want.patch_tokens).sum(-1).mean() > 0.97
    assert float((got.image[0].numpy() * want.class_token).sum()) > 0.97


def test_words_are_those_of_the_run_time(pair: DinoMiniLM) -> None:
    names = ["dog", "traffic light"]
    got = pair.words(names)
    encoder = EmbeddedTextEncoder()
    want = encoder.encode([t.replace("{}", name) for name in names for t in encoder.templates])
    want = want.reshape(2, -1, pair.dim).mean(1)
    np.testing.assert_allclose(
        got[:, 0].numpy(), want / np.linalg.norm(want, axis=1, keepdims=True), atol=1e-5
    )


def test_widths_are_what_a_network_is_told(pair: DinoMiniLM, image: np.ndarray) -> None:
    features = pair.features(torch.from_numpy(image).permute(2, 0, 1)[None].float())
    assert tuple(s.shape[-1] for s in features.shallow) == pair.shallow
    channels = 0 if features.attention is None else features.attention.shape[-1]
    assert channels == pair.attention
    config = NetworkConfig.full(
        pair.dim, prompts=pair.prompts, shallow=pair.shallow, attention=pair.attention, width=16, levels=1
    )
    with torch.no_grad():
        logits = CoarseToFine(config)(features, pair.words(["dog", "cat"])[None]).logits
    assert logits.shape == (1, 2, 12, 16)
    assert not any(p.requires_grad for p in pair.parameters())


def test_open_clip_says_what_it_says_itself(tmp_path: Path) -> None:
    open_clip = open_clip_or_skip()
    name = register_small(tmp_path, "vit")
    clip = open_clip.create_model(name).eval()
    torch.save(clip.state_dict(), tmp_path / "weights.pt")
    pair = OpenClip(ModelFile(name, str(tmp_path / "weights.pt"), attention="maskclip"))
    images = torch.rand(1, 3, 64, 64) * 255
    features = pair.features(images)
    with torch.no_grad():
        image = clip.encode_image((images - pair.mean) / pair.deviation)
        text = clip.encode_text(open_clip.get_tokenizer(name)(["a photo of a dog."]))
    assert float(torch.cosine_similarity(features.image, image)) > 0.9999
    words = pair.words(["dog"])
    assert words.shape == (1, 80, 64)
    assert float(torch.cosine_similarity(words[0], text).max()) > 0.9999
    plain = OpenClipViT(clip, name="the same", attention="maskclip")
    with torch.no_grad():
        dense = plain.dense((images - pair.mean) / pair.deviation)
    torch.testing.assert_close(features.patches, dense.patches, atol=1e-5, rtol=0)
    torch.testing.assert_close(features.attention.sum((1, 2)), torch.ones(1, pair.attention))
    assert pair.features(images[..., :32, :48]).patches.shape == (1, 2, 3, 64)
