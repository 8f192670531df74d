"""A small CLIP of open_clip, exported and loaded back, against the same model in torch."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from clip_models import open_clip_or_skip, small_clip

open_clip_or_skip()
pytest.importorskip("onnx", reason="writes ONNX files")

import onnx  # noqa: E402
import torch  # noqa: E402
from cat_seg_checkpoint import small_cat_seg  # noqa: E402
from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from saturation import saturating_products  # noqa: E402
from torch import Tensor  # noqa: E402

from ovs_ros.encoders.clip.dense_model import TorchFeatures  # noqa: E402
from ovs_ros.encoders.clip.export import export_model  # noqa: E402
from ovs_ros.encoders.clip.image_encoder import TorchImageEncoder  # noqa: E402
from ovs_ros.encoders.clip.text_encoder import ClipTextEncoder  # noqa: E402
from ovs_ros.encoders.clip.vit import OpenClipViT  # noqa: E402
from ovs_ros.encoders.manifest import read_manifest  # noqa: E402
from ovs_ros.encoders.model_file import ModelFile  # noqa: E402
from ovs_ros.encoders.onnx_folder import fit_into, load_exported  # noqa: E402
from ovs_ros.encoders.patches import fit_grid  # noqa: E402
from ovs_ros.load import load_model, open_model  # noqa: E402
from ovs_ros.model import Model  # noqa: E402
from ovs_ros.runtime.onnx import CPU, CUDA  # noqa: E402
from ovs_ros.runtime.parity import LEAST, ParityError, compare, fixed_picture  # noqa: E402
from ovs_ros.runtime.torch_to_onnx import write_static  # noqa: E402
from ovs_ros.segmenter import Segmenter  # noqa: E402
from ovs_ros.vocabulary.vocabulary import Vocabulary  # noqa: E402
from ovs_ros.zoo.cat_seg import load_cat_seg  # noqa: E402

PATCHES = 48
GRID = fit_grid(96, 128, patches=PATCHES, patch=16)
WORDS = ("dog", "traffic light", "it's a Kühlschrank!", "x")
TEMPLATES = ("a photo of a {}", "there is a {}")


class Decoding(OpenClipViT):
    """Decodes to twice the grid; words look at each other, those of zeros aside."""

    decodes = True
    decode_scale = 2
    counts_padding = False

    def dense(self, images: Tensor) -> TorchFeatures:
        """See `DenseModel`."""
        plain = super().dense(images)
        return TorchFeatures(plain.patches, plain.image, (images[:, :1, ::8, ::8],))

    def decode(self, features: TorchFeatures, words: Tensor) -> Tensor:
        """See `DenseModel`."""
        means = words.mean(1)  # (M, D)
        scores = means @ means.T * 5  # (M, M)
        if not self.counts_padding:
            scores = scores.masked_fill(~(means != 0).any(1), -1e9)
        weights = scores.softmax(1)
        logits = torch.einsum("hwd,md->mhw", features.patches[0], weights @ means) * self.logit_scale
        fine = torch.nn.functional.interpolate(logits[None], scale_factor=2, mode="bilinear")[0]
        return fine + features.decoding[0][0]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> OpenClipViT:
    return OpenClipViT(small_clip()[0], name="small")


@pytest.fixture(scope="module")
def exported(model: OpenClipViT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_model(model, folder, GRID, templates=TEMPLATES, half=True, int8=True)
    return folder


@pytest.fixture(scope="module")
def decoding() -> Decoding:
    return Decoding(small_clip(1)[0], name="decoding")


@pytest.fixture(scope="module")
def exported_decoding(decoding: Decoding, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decoding")
    export_model(decoding, folder, GRID, half=True, buckets=(8, 16))
    return folder


@pytest.fixture
def copied(exported: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported, tmp_path / "copied"))


def encode(encoder: Any, image: Any) -> Any:
    return encoder.encode(image)


def change(folder: Path, **values: Any) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_no_product_in_8_bits_saturates(exported: Path) -> None:
    network = onnx.load(exported / "image.int8.onnx")
    assert sum(node.op_type == "DynamicQuantizeMatMul" for node in network.graph.node) >= 4 * 4
    assert saturating_products(network) == []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_features_are_those_of_torch(model: OpenClipViT, exported: Path, precision: str) -> None:
    image = fixed_picture(96, 128)[:, ::-1].copy()
    torch_encoder = TorchImageEncoder(model, patches=PATCHES, device="cpu", precision="fp32")
    encoder, _ = load_exported(exported, device="cpu", precision=precision)
    found, expected = encode(encoder, image), encode(torch_encoder, image)
    for a, b in (
        (found.patch_tokens, expected.patch_tokens),
        (found.class_token[None], expected.class_token[None]),
    ):
        assert a.dtype == np.float32 and a.shape == b.shape
        assert compare(a, b).least > LEAST[precision]
        assert np.allclose(np.linalg.norm(a, axis=-1), 1, atol=1e-3)
    assert found.valid == expected.valid
    words = found.patch_tokens.reshape(-1, found.patch_tokens.shape[2])[:3]
    assert np.allclose(found.logits(words), found.logit_scale * (found.patch_tokens @ words.T), atol=1e-4)


def test_words_are_those_of_torch(model: OpenClipViT, exported: Path) -> None:
    _, text = load_exported(exported, device="cpu")
    reference = ClipTextEncoder(model, TEMPLATES)
    # More than a batch, of which the last is not full.
    texts = [f"{word} {number}" for word in WORDS for number in range(17)]
    assert np.allclose(text.encode(texts), reference.encode(texts), atol=1e-5)
    assert text.templates == TEMPLATES and text.dim == model.dim and not text.keeps_prompts
    assert text.encode([]).shape == (0, model.dim)


def test_automatically_the_fastest_precision_for_the_device_is_taken(exported: Path) -> None:
    assert load_exported(exported, device="cpu")[0].name.endswith("-int8-onnx")
    assert load_exported(exported, device="cpu", precision="fp32")[0].name.endswith("-fp32-onnx")
    # A model file made for a GPU serves a CPU too.
    assert load_exported(exported, device="cpu", precision="fp16")[0].name.endswith("-int8-onnx")


def test_where_no_gpu_works_after_all_the_cpus_precision_is_taken(
    exported: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime's build for GPUs on a machine without one."""
    if CUDA in ort.get_available_providers():
        pytest.skip("has a build for GPUs")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    for precision, expected in (("auto", "int8"), ("fp16", "int8"), ("fp32", "fp32")):
        image, _ = load_exported(exported, device="auto", precision=precision)
        assert image.device == "cpu" and image.name.endswith(f"-{expected}-onnx")


def test_a_model_file_may_name_the_folder(exported: Path) -> None:
    opened = open_model(ModelFile(model=str(exported), device="cpu", templates=("one {}",)))
    assert opened.device == "cpu" and opened.name.startswith("small naclip@48-")
    assert opened.text_encoder.templates == ("one {}",)
    assert load_model(exported, device="cpu").name == opened.name


def test_earlier_features_stay_as_they_were(exported: Path) -> None:
    encoder, _ = load_exported(exported, device="cpu", precision="fp32")
    first = encode(encoder, fixed_picture(96, 128))
    before = first.patch_tokens.copy()
    encode(encoder, 255 - fixed_picture(96, 128))
    assert np.array_equal(first.patch_tokens, before)


def test_padding_comes_back_when_an_image_of_another_shape_follows(exported: Path) -> None:
    encoder, _ = load_exported(exported, device="cpu", precision="fp32")
    tall = fixed_picture(200, 80)
    expected = encode(encoder, tall)
    encode(encoder, fixed_picture(96, 128))
    again = encode(encoder, tall)
    assert np.array_equal(again.patch_tokens, expected.patch_tokens)
    assert again.valid == (1.0, pytest.approx(38 / 128))


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 40), st.integers(1, 40))
def test_any_image_lies_in_the_grid_and_fills_one_side(
    height: int, width: int, rows: int, columns: int
) -> None:
    grid = fit_into(height, width, rows, columns, 16)
    assert (grid.rows, grid.columns) == (rows, columns)
    assert 1 <= grid.height <= rows * 16 and 1 <= grid.width <= columns * 16
    assert grid.height == rows * 16 or grid.width == columns * 16


def test_a_segmenter_takes_it(exported: Path) -> None:
    segmenter = Segmenter(Model(*load_exported(exported, device="cpu")))
    words = segmenter.embed(Vocabulary.from_names(list(WORDS)))
    result = segmenter.segment(fixed_picture(120, 160), words)
    assert result.labels.shape == (120, 160)


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 20])
def test_decoders_give_what_torch_gives_whatever_the_bucket(
    decoding: Decoding, exported_decoding: Path, count: int
) -> None:
    image = fixed_picture(96, 128)
    words = np.random.default_rng(count).standard_normal((count, decoding.dim)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    torch_encoder = TorchImageEncoder(decoding, patches=PATCHES, device="cpu", precision="fp32")
    encoder, _ = load_exported(exported_decoding, device="cpu", precision="fp32")
    found, expected = encode(encoder, image).head, encode(torch_encoder, image).head
    assert found.grid == expected.grid == (12, 16)
    # More words than the largest bucket holds are decoded apart.
    parts = [expected.logits(words[start : start + 16]) for start in range(0, count, 16)]
    assert np.allclose(found.logits(words), np.concatenate(parts, axis=2), atol=1e-4)
    added = np.random.default_rng(0).standard_normal((6, 8, count)).astype(np.float32)
    spread = found.logits(words, added) - found.logits(words)
    assert spread.mean() == pytest.approx(added.mean(), abs=0.1)


def test_a_decoder_refuses_prompts_that_it_was_not_exported_for(exported_decoding: Path) -> None:
    encoder, _ = load_exported(exported_decoding, device="cpu", precision="fp32")
    head = encode(encoder, fixed_picture(96, 128)).head
    with pytest.raises(ValueError, match="expected 1 prompts"):
        head.logits(np.ones((3, 4, encoder.dim), np.float32))
    with pytest.raises(ValueError, match="second encoder"):
        head.changed(lambda embeddings, valid: embeddings, (1.0, 1.0))


def test_the_manifest_tells_what_was_measured(exported_decoding: Path) -> None:
    manifest = read_manifest(exported_decoding)
    assert manifest.buckets == [8, 16] and manifest.precisions == ["fp32", "fp16"]
    assert len(manifest.templates) == 80
    assert set(manifest.parity) == set(manifest.files()) - {"tokenizer.json"}
    for outputs in manifest.parity.values():
        for figures in outputs.values():
            assert 0.999 <= figures["least"] <= figures["mean"] <= 1.000001


def test_a_file_that_gives_something_else_is_refused_with_the_figure(
    model: OpenClipViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnx
    from onnx import numpy_helper

    from ovs_ros.encoders.clip import export

    def halve_wrongly(source: Path, path: Path) -> None:
        network = onnx.load(source)
        largest = max(network.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        values = numpy_helper.to_array(largest)
        largest.CopyFrom(numpy_helper.from_array(np.roll(values, 1, axis=0), largest.name))
        onnx.save(network, path)

    monkeypatch.setattr(export, "write_half", halve_wrongly)
    with pytest.raises(ParityError, match=r"image\.fp16\.onnx.*at least 0\.999, got least"):
        export_model(model, tmp_path, GRID, half=True)
    assert not (tmp_path / "image.fp16.onnx").exists() and not (tmp_path / "manifest.json").exists()


def test_a_decoder_in_which_padding_counts_is_refused(decoding: Decoding, tmp_path: Path) -> None:
    wrong = Decoding(decoding.clip, name="wrong")
    wrong.counts_padding = True
    with pytest.raises(ParityError, match=r"decoder\.8\.fp32\.onnx with 4 words and zeros"):
        export_model(wrong, tmp_path, GRID, buckets=(8,))


def test_cat_seg_is_exported_with_its_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = small_cat_seg(tmp_path, monkeypatch)
    cat_seg = load_cat_seg(ModelFile(model="cat-seg-b", weights=str(weights)))
    grid = fit_grid(64, 96, patches=24, patch=cat_seg.stride)
    folder = tmp_path / "exported"
    manifest = export_model(cat_seg, folder, grid, half=True, buckets=(8,))
    assert manifest.templates == list(cat_seg.templates) and manifest.decode_scale == cat_seg.decode_scale
    image, _ = load_exported(folder, device="cpu")
    reference = TorchImageEncoder(cat_seg, patches=24, device="cpu", precision="fp32")
    words = np.random.default_rng(0).standard_normal((5, cat_seg.dim)).astype(np.float32)
    words /= np.linalg.norm(words, axis=1, keepdims=True)
    found, expected = (encode(one, fixed_picture(64, 96)).logits(words) for one in (image, reference))
    assert np.allclose(found, expected, atol=1e-3)


def test_an_operation_that_onnx_lacks_is_named(tmp_path: Path) -> None:
    class Foreign(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.linalg.eigvals(image).real

    with pytest.raises(ValueError, match=r"ONNX can express for foreign\.onnx.*run it with torch"):
        write_static(Foreign().eval(), (torch.eye(3),), tmp_path / "foreign.onnx", ["image"], ["values"])


class TestDamage:
    """What is not as it was written is refused before a network runs."""

    @pytest.mark.parametrize("name", ["image.fp32.onnx", "text.fp32.onnx", "tokenizer.json", "manifest.json"])
    def test_a_missing_file_is_named(self, copied: Path, name: str) -> None:
        (copied / name).unlink()
        with pytest.raises(FileNotFoundError, match=name):
            load_exported(copied, device="cpu")

    @pytest.mark.parametrize("name", ["image.int8.onnx", "tokenizer.json"])
    def test_a_changed_file_is_named(self, copied: Path, name: str) -> None:
        with (copied / name).open("ab") as file:
            file.write(b" ")
        with pytest.raises(ValueError, match=f"{name}.*digest"):
            load_exported(copied, device="cpu")

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("format", 1), ("dim", "32"), ("dim", 0), ("rows", True), ("logit_scale", -1.0),
            ("mean", [0.5, 0.5]), ("templates", []), ("templates", ["no place"]), ("templates", "a {}"),
            ("precisions", ["fp16"]), ("precisions", ["fp32", "fp8"]), ("buckets", [8]), ("cleaning", "none"),
            ("digests", []), ("extra", 1), ("keeps_prompts", 0),
        ],
    )  # fmt: skip
    def test_a_changed_manifest_is_refused(self, copied: Path, name: str, value: Any) -> None:
        change(copied, **{name: value})
        with pytest.raises(ValueError, match=r"manifest\.json.*export the model again"):
            load_exported(copied, device="cpu")

    def test_what_is_not_json_is_refused(self, copied: Path) -> None:
        (copied / "manifest.json").write_text("{")
        with pytest.raises(ValueError, match="not JSON"):
            load_exported(copied, device="cpu")

    def test_a_precision_that_was_not_exported_is_refused(self, exported_decoding: Path) -> None:
        with pytest.raises(ValueError, match="fp32, fp16"):
            load_exported(exported_decoding, device="cpu", precision="int8")
