"""A torch model as a folder that runs without torch: ONNX files, a tokenizer and a manifest."""

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.clip_model import ClipModel
from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.text_encoder import imagenet_templates
from ovs_ros.encoders.clip.tokenizer import export_tokenizer
from ovs_ros.encoders.manifest import (
    SELECTION_FILE,
    TOKENIZER,
    Manifest,
    decoder_file,
    image_file,
    text_file,
    write_manifest,
)
from ovs_ros.encoders.patches import PatchGrid
from ovs_ros.encoders.text_cleaning import CLEANERS
from ovs_ros.runtime.files import file_digest
from ovs_ros.runtime.onnx import FAILURES
from ovs_ros.runtime.parity import LEAST, Parity, compare, fixed_picture, require, rows_of
from ovs_ros.runtime.quantisation import quantise_products
from ovs_ros.runtime.torch_to_onnx import write_free, write_static

BUCKETS = (8, 16, 32, 64, 128)
"""For how many words there are decoders; a frame takes the smallest that holds its words."""
_TEXTS = (
    "a photo of a dog", "chair", "it's 3 o'clock!", "a bad photo of the traffic light.", "Kühlschrank",
    "an old man rides a bicycle in the rain, past a row of parked cars",
)  # fmt: skip

Report = Callable[[str, Mapping[str, Parity]], None]
"""Called with each file that passed, and its parities."""


class ImageGraph(nn.Module):
    """From bytes to features: normalisation, then `dense`. `image` is (1, H, W, 3) uint8 RGB."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model
        for name, values in (("mean", model.mean), ("std", model.std)):
            self.register_buffer(name, 255 * torch.tensor(values).reshape(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """(1, h, w, D) patches, (1, D) image, and what the decoder needs."""
        pixels = image.permute(0, 3, 1, 2).float()
        features = self.model.dense((pixels - self.mean) / self.std)
        return features.patches, features.image, *features.decoding


class DecoderGraph(nn.Module):
    """`decode` of one image's features for a fixed number of words (M, P, D)."""

    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, words: Tensor, patches: Tensor, image: Tensor, *decoding: Tensor) -> Tensor:
        """(M, h', w') logits."""
        return self.model.decode(TorchFeatures(patches, image, decoding), words)


class TextGraph(nn.Module):
    """The text tower: `tokens` (T, L) int64 to unit embeddings (T, D)."""

    def __init__(self, model: ClipModel) -> None:
        super().__init__()
        self.clip = model.clip

    def forward(self, tokens: Tensor) -> Tensor:
        """(T, D) unit rows."""
        return F.normalize(self.clip.encode_text(tokens).float(), dim=-1)


def export_model(
    model: DenseModel,
    folder: Path,
    grid: PatchGrid,
    *,
    templates: Sequence[str] = (),
    half: bool = False,
    int8: bool = False,
    buckets: Sequence[int] = BUCKETS,
    report: Report = lambda file, parities: None,
) -> Manifest:
    """Write a model for images of one shape; every file is checked against torch in float32.

    Args:
        model: in float32 on the CPU.
        folder: made if missing; files of the same names are replaced.
        grid: the patches that an image is cut into.
        templates: prompt templates; empty: the model's, or those of CLIP for ImageNet.
        half: write networks in float16 too, for GPUs.
        int8: write networks with weights in int8 too, for CPUs.
        buckets: for how many words decoders are written, where the model decodes.
        report: called with each file.

    Raises:
        ParityError: a network's outputs differ from torch's; its file is removed, and the figure is said.
        ValueError: the model has something that ONNX or the tokenizer's format lacks.
        ModuleNotFoundError: the package onnx is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    precisions = ["fp32", *(["fp16"] if half else []), *(["int8"] if int8 else [])]
    writer = _Writer(model.eval().requires_grad_(False), folder, precisions, report)
    features = writer.image(grid)
    asked = tuple(templates) or model.templates or imagenet_templates()
    prompts = len(asked) if model.keeps_prompts else 1
    sizes = sorted(set(buckets)) if model.decodes else []
    for words in sizes:
        writer.decoder(words, prompts, features)
    cleaning = writer.text()
    files = [*writer.parities, TOKENIZER]
    if model.selection_file is not None and model.selection_file.is_file():
        shutil.copyfile(model.selection_file, folder / SELECTION_FILE)
        files.append(SELECTION_FILE)
    manifest = Manifest(
        name=model.name,
        dim=model.dim,
        stride=model.stride,
        rows=grid.rows,
        columns=grid.columns,
        logit_scale=float(model.logit_scale),
        mean=[float(value) for value in model.mean],
        templates=list(asked),
        keeps_prompts=model.keeps_prompts,
        prompts=prompts,
        decode_scale=model.decode_scale if model.decodes else 0,
        buckets=sizes,
        precisions=precisions,
        cleaning=cleaning,
        digests={name: file_digest(folder / name) for name in files},
        trained_names=list(model.trained_names),
        parity={
            file: {output: {"least": p.least, "mean": p.mean} for output, p in parities.items()}
            for file, parities in writer.parities.items()
        },
    )
    write_manifest(folder, manifest)
    return manifest


class _Writer:
    """Writes the files of one model and keeps their parities."""

    def __init__(self, model: DenseModel, folder: Path, precisions: Sequence[str], report: Report) -> None:
        self.model = model
        self.folder = folder
        self.precisions = precisions
        self.report = report
        self.parities: dict[str, Mapping[str, Parity]] = {}

    def image(self, grid: PatchGrid) -> TorchFeatures:
        """Write the image encoder; returns what torch gives of the fixed picture."""
        picture = fixed_picture(grid.rows * grid.patch, grid.columns * grid.patch)
        given = {"image": torch.from_numpy(picture)[None]}
        graph = ImageGraph(self.model).eval()
        with torch.no_grad():
            patches, pooled, *decoding = graph(given["image"])
        expected = {"patches": patches, "pooled": pooled, **_numbered(decoding)}
        self._write(graph, given, expected, image_file)
        return TorchFeatures(patches, pooled, tuple(decoding))

    def decoder(self, words: int, prompts: int, features: TorchFeatures) -> None:
        """Write the decoder for so many words."""
        generator = torch.Generator().manual_seed(words)
        drawn = F.normalize(torch.randn((words, prompts, self.model.dim), generator=generator), dim=-1)
        given = {"words": drawn, "patches": features.patches, "pooled": features.image}
        given |= _numbered(features.decoding)
        with torch.no_grad():
            expected = {"logits": self.model.decode(features, drawn)}
            alone = self.model.decode(features, drawn[: words // 2])
        self._write(DecoderGraph(self.model).eval(), given, expected, lambda kind: decoder_file(words, kind))
        # Refuse a decoder whose results depend on the zero words that fill a bucket.
        padded = drawn.clone()
        padded[words // 2 :] = 0
        path = self.folder / decoder_file(words, "fp32")
        found = _run(path, given | {"words": padded}, ["logits"])["logits"][: words // 2]
        parities = _compare({"logits": found}, {"logits": alone})
        self._require(parities, "fp32", path, f"{path.name} with {words // 2} words and zeros")

    def text(self) -> str:
        """Write text tower and tokenizer; returns how texts are cleaned."""
        if not isinstance(self.model, ClipModel):
            raise ValueError(
                f"expected a model with a text tower of open_clip, got {self.model.name}; run it with torch"
            )
        tokenizer, cleaning = export_tokenizer(self.model.tokenizer)
        tokenizer.save(str(self.folder / TOKENIZER))
        encoded = tokenizer.encode_batch([CLEANERS[cleaning](text) for text in _TEXTS])
        tokens = torch.tensor([one.ids for one in encoded])
        write_free(
            TextGraph(self.model).eval(),
            (tokens,),
            self.folder / text_file(),
            ["tokens"],
            ["embeddings"],
            {"tokens": {0: "count"}, "embeddings": {0: "count"}},
        )
        with torch.no_grad():
            expected = {"embeddings": self.model.embed_texts(_TEXTS)}
        self._check(text_file(), "fp32", {"tokens": tokens}, expected)
        return cleaning

    def _write(
        self,
        graph: nn.Module,
        given: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
        name: Callable[[str], str],
    ) -> None:
        """Write a network in every precision."""
        path = self.folder / name("fp32")
        write_static(graph, tuple(given.values()), path, list(given), list(expected))
        self._check(path.name, "fp32", given, expected)
        if "fp16" in self.precisions:
            write_half(path, self.folder / name("fp16"))
            self._check(name("fp16"), "fp16", given, expected)
        if "int8" in self.precisions:
            onnx.save(quantise_products(onnx.load(path)), self.folder / name("int8"))
            self._check(name("int8"), "int8", given, expected)

    def _check(
        self, file: str, precision: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
    ) -> None:
        """Refuse a file whose outputs differ from torch's."""
        path = self.folder / file
        parities = _compare(_run(path, given, list(expected), precision), expected)
        self._require(parities, precision, path, file)
        self.parities[file] = parities
        self.report(file, parities)

    def _require(self, parities: Mapping[str, Parity], precision: str, path: Path, what: str) -> None:
        try:
            require(parities, LEAST[precision], what)
        except ValueError:
            path.unlink()
            raise


def _numbered(decoding: Sequence[Tensor]) -> dict[str, Tensor]:
    """What only the decoder needs of an image, by the names of the image encoder's outputs."""
    return {f"decoding{number}": tensor for number, tensor in enumerate(decoding)}


def _compare(found: Mapping[str, NDArray[Any]], expected: Mapping[str, Tensor]) -> dict[str, Parity]:
    return {
        name: compare(rows_of(name, found[name]), rows_of(name, tensor.numpy()))
        for name, tensor in expected.items()
    }


def _run(
    path: Path, given: Mapping[str, Tensor], outputs: Sequence[str], precision: str = "fp32"
) -> dict[str, NDArray[Any]]:
    """Run a file on the CPU; it may lack inputs that it does not read.

    Raises:
        ValueError: ONNX Runtime refuses the file.
    """
    options = ort.SessionOptions()
    if precision == "fp16":
        # Some of the CPU's fusions do not know float16; it is made for GPUs.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        reason = str(error).strip().partition("\n")[0]
        path.unlink()
        raise ValueError(
            f"expected a network that ONNX Runtime runs in {path.name}, and it does not: {reason}; leave "
            f"{precision} out"
        ) from error
    feed = {one.name: given[one.name].numpy() for one in session.get_inputs()}
    return dict(zip(outputs, session.run(list(outputs), feed), strict=True))


def write_half(source: Path, path: Path) -> None:
    """Weights and arithmetic in float16, inputs and outputs as they were.

    Norms and softmaxes stay in float32: their sums are what overflows first.
    """
    from onnxruntime.transformers.float16 import DEFAULT_OP_BLOCK_LIST, convert_float_to_float16

    kept = [*DEFAULT_OP_BLOCK_LIST, "LayerNormalization", "Softmax", "ReduceL2"]
    half = convert_float_to_float16(onnx.load(source), keep_io_types=True, op_block_list=kept)
    # The converter casts a tensor once for each node in float32 that reads it, all under one name.
    distinct = list({node.output[0]: node for node in half.graph.node}.values())
    for number, node in enumerate(distinct):
        node.name = f"{node.op_type}_{number}"
    del half.graph.node[:]
    half.graph.node.extend(distinct)
    onnx.save(half, path)
