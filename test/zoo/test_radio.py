"""C-RADIO from files with the real keys, against the plain formulas."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clip_models import open_clip_or_skip
from radio_checkpoint import DEPTH, DIM, PREFIX, TABLE, TEACHERS, WIDTH, radio_tensors, write_hub, write_pth

open_clip = open_clip_or_skip()

import torch  # noqa: E402

from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_tower import build_text_tower, fill_text_tower  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.zoo.radio import Radio, load_radio  # noqa: E402
from ovs_ros.zoo.radio_checkpoint import read_radio  # noqa: E402

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 1}
SIGLIP = {
    **TEXT,
    "no_causal_mask": True,
    "proj_bias": True,
    "pool_type": "last",
    "norm_kwargs": {"eps": 1e-6},
}


@pytest.fixture(scope="module")
def text() -> tuple[object, object]:
    """A text tower of 32 dimensions and its tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tower = build_text_tower({"embed_dim": DIM, "text_cfg": TEXT})
    return tower, open_clip.SimpleTokenizer(context_length=77)


def build(
    path: Path, text: tuple[object, object], attention: str = "naclip", adaptor: str = "siglip2"
) -> Radio:
    return Radio(read_radio(path, adaptor), *text, "words", attention)


# --- the plain formulas, token by token, in double precision, from the official keys ---


def slow_norm(x, tensors, key, eps=1e-6):
    mean, variance = x.mean(), x.var()
    return (x - mean) / math.sqrt(variance + eps) * tensors[f"{key}.weight"] + tensors[f"{key}.bias"]


def slow_linear(x, tensors, key):
    return tensors[f"{key}.weight"] @ x + tensors[f"{key}.bias"]


def slow_gelu(x):
    return np.array([value * 0.5 * (1 + math.erf(value / math.sqrt(2))) for value in x])


def slow_table(tensors, rows, columns):
    """The square table, resampled to the longer side, then cut."""
    table = tensors["base_model.patch_generator.pos_embed"][0].reshape(TABLE, TABLE, WIDTH)
    side = max(rows, columns)
    out = np.zeros((rows, columns, WIDTH))

    def places(i):
        at = max((i + 0.5) * TABLE / side - 0.5, 0)
        low = int(at)
        return (low, 1 - (at - low)), (min(low + 1, TABLE - 1), at - low)

    for y in range(rows):
        for x in range(columns):
            for down, wy in places(y):
                for across, wx in places(x):
                    out[y, x] += wy * wx * table[down, across]
    return out.reshape(-1, WIDTH)


def slow_radio(tensors, image, attention, adaptor="siglip2", slot=1):
    """(N, D) patches and (D,) image, unit rows; image (3, H, W) normalised."""
    tensors = {key: tensor.double().numpy() for key, tensor in tensors.items()}
    rows, columns = image.shape[1] // 16, image.shape[2] // 16
    embedder = tensors["base_model.patch_generator.embedder.weight"]
    patches = [
        embedder @ image[:, 16 * y : 16 * y + 16, 16 * x : 16 * x + 16].reshape(-1)
        for y in range(rows)
        for x in range(columns)
    ]
    patches = np.array(patches) + slow_table(tensors, rows, columns)
    tokens = np.concatenate([tensors["base_model.patch_generator.cls_token.token"], patches])
    for number in range(DEPTH):
        key = f"base_model.blocks.{number}"
        joint = np.array(
            [slow_linear(slow_norm(t, tensors, f"{key}.norm1"), tensors, f"{key}.attn.qkv") for t in tokens]
        )
        seen = np.zeros((len(tokens), WIDTH))
        for head in range(WIDTH // 64):
            q, k, v = (
                joint[:, part * WIDTH + head * 64 : part * WIDTH + head * 64 + 64] for part in range(3)
            )
            for i in range(len(tokens)):
                by_keys = attention == "naclip" and number == DEPTH - 1 and i >= PREFIX
                scores = k @ (k if by_keys else q)[i] / 8
                if by_keys:
                    for j in range(PREFIX, len(tokens)):
                        here, there = divmod(i - PREFIX, columns), divmod(j - PREFIX, columns)
                        squared = (here[0] - there[0]) ** 2 + (here[1] - there[1]) ** 2
                        scores[j] += math.exp(-squared / (2 * 7.0**2))
                weights = np.exp(scores - scores.max())
                seen[i, head * 64 : head * 64 + 64] = weights / weights.sum() @ v
        if attention == "radseg" and number == DEPTH - 1:
            seen = slow_recursion(tensors, f"{key}.attn.proj", seen, joint[:, 2 * WIDTH :])
        for i in range(len(tokens)):
            tokens[i] = tokens[i] + tensors[f"{key}.ls1.gamma"] * slow_linear(
                seen[i], tensors, f"{key}.attn.proj"
            )
            hidden = slow_gelu(
                slow_linear(slow_norm(tokens[i], tensors, f"{key}.norm2"), tensors, f"{key}.mlp.fc1")
            )
            tokens[i] = tokens[i] + tensors[f"{key}.ls2.gamma"] * slow_linear(
                hidden, tensors, f"{key}.mlp.fc2"
            )

    def head_of(x):
        key = f"_heads.{adaptor}"
        x = slow_linear(x, tensors, f"{key}.fc1")
        for number in range(2):
            normed = slow_gelu(slow_norm(x, tensors, f"{key}.blocks.{number}.0", 1e-5))
            x = x + slow_linear(normed, tensors, f"{key}.blocks.{number}.2")
        x = slow_linear(slow_gelu(slow_norm(x, tensors, f"{key}.final.0", 1e-5)), tensors, f"{key}.final.2")
        return x / np.linalg.norm(x)

    return np.array([head_of(t) for t in tokens[PREFIX:]]), head_of(tokens[slot])


def slow_recursion(tensors, key, seen, values):
    """RADSeg's second attention for patches; tokens before them keep the first."""
    out = np.array([slow_linear(row, tensors, key) for row in seen])
    again = seen.copy()
    for head in range(WIDTH // 64):
        part = slice(head * 64, head * 64 + 64)
        unit = out[:, part] / np.linalg.norm(out[:, part], axis=1, keepdims=True)
        for i in range(PREFIX, len(seen)):
            scores = 10 * unit @ unit[i]
            weights = np.where(scores < 0, 0, np.exp(scores))
            again[i, part] = weights / weights.sum() @ values[:, part]
    return again


@pytest.mark.parametrize("attention", ["plain", "naclip", "radseg"])
@pytest.mark.parametrize("grid", [(2, 3), (4, 2), (TABLE, TABLE), (2, TABLE + 2)])
def test_it_is_the_formula(tmp_path, text, attention, grid):
    tensors = radio_tensors()
    model = build(write_pth(tmp_path / "radio.pth.tar", tensors), text, attention)
    images = torch.randn(2, 3, 16 * grid[0], 16 * grid[1], generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        got = model.dense(images)
    patches, image = slow_radio(tensors, images[1].double().numpy(), attention)
    assert got.patches.shape == (2, *grid, DIM) and got.image.shape == (2, DIM)
    np.testing.assert_allclose(got.patches[1].reshape(-1, DIM), patches, atol=2e-5)
    np.testing.assert_allclose(got.image[1], image, atol=2e-5)


def test_adaptors_have_their_own_head_and_token(tmp_path, text):
    tensors = radio_tensors()
    path = write_pth(tmp_path / "radio.pth.tar", tensors)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    got = build(path, text, "plain", "clip").dense(image)
    patches, summary = slow_radio(tensors, image[0].double().numpy(), "plain", "clip", 0)
    np.testing.assert_allclose(got.patches[0].reshape(-1, DIM), patches, atol=2e-5)
    np.testing.assert_allclose(got.image[0], summary, atol=2e-5)
    moved = write_pth(tmp_path / "m.pth.tar", tensors, teachers=[{**TEACHERS[0], "token_slot": 2}])
    assert read_radio(moved, "clip").slot == 2
    shared = write_pth(tmp_path / "s.pth.tar", tensors, cls_token_per_teacher=False)
    assert read_radio(shared, "siglip2").slot == 0


def test_both_layouts_and_heads_by_number_are_one_model(tmp_path, text):
    tensors = radio_tensors()
    numbered = {key.replace("s.siglip2.", "s.1.").replace("s.clip.", "s.0."): tensors[key] for key in tensors}
    images = torch.randn(1, 3, 48, 32, generator=torch.Generator().manual_seed(3))
    paths = [
        write_pth(tmp_path / "radio.pth.tar", tensors),
        write_pth(tmp_path / "numbered.pth.tar", numbered),
        write_hub(tmp_path / "hub", tensors),
    ]
    models = [build(path, text) for path in paths]
    first, *others = (model.dense(images).patches for model in models)
    for other in others:
        torch.testing.assert_close(other, first)
    for model in models:
        np.testing.assert_allclose(model.mean, (0.48, 0.45, 0.40), rtol=1e-6)
        np.testing.assert_allclose(model.std, (0.26, 0.27, 0.28), rtol=1e-6)
    assert len({model.name for model in models}) == 3


def test_the_average_over_the_training_goes_first(tmp_path):
    path = write_pth(tmp_path / "radio.pth.tar", radio_tensors())
    file = {**torch.load(path, weights_only=False), "state_dict_ema": radio_tensors(7)}
    torch.save(file, path)
    key = "base_model.patch_generator.cls_token.token"
    torch.testing.assert_close(read_radio(path, "clip").checkpoint.tensors[key], radio_tensors(7)[key])


def test_files_of_half_precision_and_without_layer_scale(tmp_path, text):
    tensors = {key: t.half() for key, t in radio_tensors().items() if ".ls" not in key}
    radio = read_radio(write_pth(tmp_path / "radio.pth.tar", tensors), "siglip2")
    model = Radio(radio, *text, "words")
    assert (len(model.vit.blocks), tuple(model.vit.prefix.shape)) == (3, (8, 128))
    assert not any(".ls" in name for name, _ in model.vit.named_parameters())
    assert {parameter.dtype for parameter in model.vit.parameters()} == {torch.float32}
    unscaled = {**radio_tensors(), **{k: torch.ones(WIDTH) for k in radio_tensors() if ".ls" in k}}
    same = build(write_pth(tmp_path / "ones.pth.tar", unscaled), text)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(model.dense(images).patches, same.dense(images).patches, atol=5e-3, rtol=0)


def test_a_feature_normaliser_comes_before_the_head(tmp_path, text):
    tensors = radio_tensors()
    rng = torch.Generator().manual_seed(5)
    extra = {"_feature_normalizer.mean": torch.randn(WIDTH, generator=rng)}
    extra["_feature_normalizer.tx"] = torch.randn(WIDTH, WIDTH, generator=rng)
    model = build(write_pth(tmp_path / "n.pth.tar", {**tensors, **extra}), text)
    images = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(3))
    plain = build(write_pth(tmp_path / "p.pth.tar", tensors), text)
    _, patches = plain.vit(images, "naclip")
    expected = model.vit.head(
        (patches - extra["_feature_normalizer.mean"]) @ extra["_feature_normalizer.tx"].T
    )
    expected = torch.nn.functional.normalize(expected, dim=-1).reshape(1, 2, 2, DIM)
    torch.testing.assert_close(model.dense(images).patches, expected)
    torch.testing.assert_close(model.dense(images).image, plain.dense(images).image)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("base_model.blocks.1.attn.proj.bias"), r"missing: blocks.1.attn.proj.bias"),
        (
            lambda t: t.update({"base_model.blocks.1.extra": torch.ones(1)}),
            r"foreign: base_model.blocks.1.extra",
        ),
        (lambda t: t.update({"base_model.other": torch.ones(1)}), r"foreign: base_model.other"),
        (lambda t: t.pop("_heads.siglip2.fc1.weight"), r"without what would be head.fc1"),
        (lambda t: t.pop("input_conditioner.norm_std"), r"expected input_conditioner.norm_std"),
        (
            lambda t: t.update({"base_model.patch_generator.embedder.weight": torch.ones(1280, 768)}),
            r"got one of width 1280 \(H\)",
        ),
        (
            lambda t: t.update(
                {"_heads.siglip2.fc1.parametrizations.weight.original": t.pop("_heads.siglip2.fc1.weight")}
            ),
            "spectral parametrisation",
        ),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, text, change, message):
    tensors = radio_tensors()
    change(tensors)
    with pytest.raises(ValueError, match=message):
        build(write_pth(tmp_path / "radio.pth.tar", tensors), text)


def test_adaptors_and_attentions_that_there_are_not(tmp_path, text):
    path = write_pth(tmp_path / "radio.pth.tar", radio_tensors())
    with pytest.raises(ValueError, match=r"one of the teachers in .* \(clip, siglip2, sam\), got 'siglip'"):
        read_radio(path, "siglip")
    with pytest.raises(
        ValueError, match="expected attention to be one of naclip, radseg, plain for RADIO, got 'sclip'"
    ):
        build(path, text, "sclip")
    hub = write_hub(tmp_path / "hub", radio_tensors())
    hub.with_name("config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected config.json of the same repository beside"):
        read_radio(hub, "clip")
    torch.save(radio_tensors(), tmp_path / "bare.pth")
    with pytest.raises(ValueError, match="expected the list of RADIO's teachers"):
        read_radio(tmp_path / "bare.pth", "clip")
    small = build_text_tower({"embed_dim": 16, "text_cfg": TEXT})
    with pytest.raises(ValueError, match="expected a text tower of 32 dimensions .* got one of 16"):
        build(path, (small, text[1]))


def test_no_object_is_ever_run(tmp_path):
    class Marker:
        def __reduce__(self):
            return print, ("run",)

    path = write_pth(tmp_path / "bad.pth.tar", radio_tensors(), hook=Marker())
    with pytest.raises(ValueError, match="could run code and is refused"):
        read_radio(path, "clip")
    # What is allowed for RADIO's files stays allowed for them alone.
    from argparse import Namespace

    assert Namespace not in torch.serialization.get_safe_globals()


def small_architecture(tmp_path: Path, name: str) -> str:
    """Make open_clip know a small architecture."""
    import json

    config = {"embed_dim": DIM, "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16}}
    (tmp_path / f"{name}.json").write_text(json.dumps({**config, "text_cfg": TEXT}))
    open_clip.add_model_config(tmp_path / f"{name}.json")
    return name


def test_from_a_model_file_to_names_of_pixels(tmp_path):
    name = small_architecture(tmp_path, "radio-words")
    whole = open_clip.create_model(name, pretrained=None)
    words = tmp_path / "words.pt"
    torch.save(whole.state_dict(), words)
    path = write_pth(tmp_path / "radio.pth.tar", radio_tensors())
    file = ModelFile("radio", str(path), adaptor="clip", adaptor_model=f"{name}:{words}", attention="naclip")
    model = load_radio(file)
    tokens = open_clip.get_tokenizer(name)(["a chair", "a red wall"])
    expected = torch.nn.functional.normalize(whole.encode_text(tokens), dim=-1)
    torch.testing.assert_close(model.embed_texts(["a chair", "a red wall"]), expected, atol=1e-5, rtol=0)
    torch.save({key: tensor + 1 for key, tensor in whole.state_dict().items()}, words)
    assert load_radio(file).name != model.name  # else the cache would give one's embeddings for the other's
    torch.save(whole.state_dict(), words)
    assert model.logit_scale == pytest.approx(float(whole.logit_scale.detach().exp()))

    encoder = TorchImageEncoder(model, patches=24, device="cpu", precision="fp32")
    features = encoder.encode(np.full((60, 90, 3), 120, np.uint8))
    assert (
        features.patch_tokens.shape[2] == DIM
        and features.patch_tokens.shape[0] * features.patch_tokens.shape[1] <= 24
    )
    np.testing.assert_allclose(np.linalg.norm(features.patch_tokens, axis=2), 1, rtol=1e-5)

    half = TorchImageEncoder(load_radio(file), patches=24, device="cpu", precision="bf16")
    again = half.encode(np.full((60, 90, 3), 120, np.uint8))
    assert (again.patch_tokens * features.patch_tokens).sum(axis=2).min() > 0.999

    for absent in ("", str(tmp_path / "absent.pth.tar")):
        with pytest.raises(
            FileNotFoundError, match=r"hf download nvidia/C-RADIOv3-B c-radio_v3-b_half.pth.tar"
        ):
            load_radio(replace(file, weights=absent))
    with pytest.raises(ValueError, match="expected adaptor_model to name the text tower"):
        load_radio(replace(file, adaptor_model=""))


@pytest.mark.parametrize("attention", ["naclip", "radseg"])
def test_it_can_be_written_as_onnx(tmp_path, text, attention):
    pytest.importorskip("onnx", reason="onnx is not installed (pip install '.[clip]')")
    import onnxruntime

    from ovs_ros.encoders.clip.export import ImageGraph
    from ovs_ros.runtime.torch_to_onnx import write_static

    graph = ImageGraph(build(write_pth(tmp_path / "radio.pth.tar", radio_tensors()), text, attention)).eval()
    image = torch.randint(0, 256, (1, 32, 48, 3), dtype=torch.uint8)
    write_static(graph, (image,), tmp_path / "radio.onnx", ["image"], ["patches", "embedding"])
    got = onnxruntime.InferenceSession(tmp_path / "radio.onnx").run(None, {"image": image.numpy()})
    for ours, theirs in zip(graph(image), got, strict=True):
        np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-5)


def test_a_siglip_in_the_layout_of_transformers(tmp_path):
    config = {"embed_dim": 64, "custom_text": True, "init_logit_bias": -10, "text_cfg": SIGLIP}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        ours = build_text_tower(config)
    state = ours.state_dict()
    names = {
        "text.token_embedding.weight": "text_model.embeddings.token_embedding.weight",
        "text.positional_embedding": "text_model.embeddings.position_embedding.weight",
        "text.ln_final.weight": "text_model.final_layer_norm.weight",
        "text.ln_final.bias": "text_model.final_layer_norm.bias",
        "text.text_projection.weight": "text_model.head.weight",
        "text.text_projection.bias": "text_model.head.bias",
    }
    layer, block = "text_model.encoder.layers.0.", "text.transformer.resblocks.0."
    pairs = {"attn.out_proj": "self_attn.out_proj", "ln_1": "layer_norm1", "ln_2": "layer_norm2"}
    pairs |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for kind in ("weight", "bias"):
        names |= {f"{block}{mine}.{kind}": f"{layer}{theirs}.{kind}" for mine, theirs in pairs.items()}
    renamed = {theirs: state[mine] for mine, theirs in names.items()}
    for kind in ("weight", "bias"):
        parts = state[f"{block}attn.in_proj_{kind}"].chunk(3)
        renamed |= {
            f"{layer}self_attn.{part}_proj.{kind}": tensor for part, tensor in zip("qkv", parts, strict=True)
        }
    for key in ("logit_scale", "logit_bias"):
        renamed[key] = state[key].reshape(1)
    renamed["vision_model.embeddings.patch_embedding.bias"] = torch.ones(4)
    torch.save(renamed, tmp_path / "siglip.pt")
    other = build_text_tower(config)
    fill_text_tower(other, tmp_path / "siglip.pt")
    tokens = torch.randint(0, 49408, (3, 77), generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(other.encode_text(tokens), ours.encode_text(tokens))
    assert other.logit_bias == ours.logit_bias
    del renamed["text_model.head.bias"]
    torch.save(renamed, tmp_path / "siglip.pt")
    with pytest.raises(ValueError, match="missing: text.text_projection.bias"):
        fill_text_tower(other, tmp_path / "siglip.pt")
