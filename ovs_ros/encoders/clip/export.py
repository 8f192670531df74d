"""A torch model as a folder that runs without torch: ONNX files, a tokenizer and a manifest."""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ovs_ros.encoders.clip.dense_model import DenseModel, TorchFeatures
from ovs_ros.encoders.clip.imports import import_open_clip
from ovs_ros.encoders.clip.text_encoder import imagenet_templates
from ovs_ros.encoders.clip.tokenizer_export import export_tokenizer
from ovs_ros.encoders.manifest import (
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
_PREFIX = "decoding"
"""Names of image encoder outputs that only the decoder needs, with a number."""

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

    def __init__(self, model: Any) -> None:
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
    writer = _Writer(model.eval().requires_grad_(False), folder, grid, report)
    precisions = ["fp32", *(["fp16"] if half else []), *(["int8"] if int8 else [])]
    features = writer.image(precisions)
    asked = tuple(templates) or model.templates or imagenet_templates()
    prompts = len(asked) if model.keeps_prompts else 1
    sizes = sorted(set(buckets)) if model.decodes else []
    for words in sizes:
        writer.decoder(words, prompts, features, precisions)
    cleaning = writer.text()
    manifest = Manifest(
        name=model.name,
        dim=model.dim,
        stride=model.stride,
        rows=grid.rows,
        columns=grid.columns,
        logit_scale=float(model.logit_scale),
        mean=[float(value) for value in model.mean],
        std=[float(value) for value in model.std],
        templates=list(asked),
        keeps_prompts=model.keeps_prompts,
        prompts=prompts,
        decode_scale=model.decode_scale if model.decodes else 0,
        buckets=sizes,
        precisions=precisions,
        cleaning=cleaning,
        digests={name: file_digest(folder / name) for name in writer.written},
        parity={
            file: {output: {"least": p.least, "mean": p.mean} for output, p in parities.items()}
            for file, parities in writer.parities.items()
        },
    )
    write_manifest(folder, manifest)
    return manifest


def eager_tower(model: DenseModel, grid: PatchGrid) -> nn.Module | None:
    """open_clip's own image tower for images of this grid, from bytes to its image embedding.

    What an export's speed is compared with. None: the model has no VisionTransformer of open_clip.
    """
    visual = getattr(getattr(model, "clip", None), "visual", None)
    if not isinstance(visual, import_open_clip().transformer.VisionTransformer):
        return None
    tower = copy(visual)
    tower._parameters = dict(visual._parameters)
    side = visual.grid_size
    table = visual.positional_embedding.detach()
    laid = table[1:].T.unflatten(1, side)[None]
    laid = F.interpolate(laid, (grid.rows, grid.columns), mode="bicubic", antialias=True, align_corners=False)
    tower.positional_embedding = nn.Parameter(
        torch.cat([table[:1], laid[0].flatten(1).T]), requires_grad=False
    )
    return nn.Sequential(_Normalised(model), tower).eval()


class _Normalised(nn.Module):
    def __init__(self, model: DenseModel) -> None:
        super().__init__()
        self.mean, self.std = (
            255 * torch.tensor(values).reshape(1, 3, 1, 1) for values in (model.mean, model.std)
        )

    def forward(self, image: Tensor) -> Tensor:
        return (image.permute(0, 3, 1, 2).float() - self.mean) / self.std


class _Writer:
    """Writes the files of one model and keeps their parities."""

    def __init__(self, model: DenseModel, folder: Path, grid: PatchGrid, report: Report) -> None:
        self.model = model
        self.folder = folder
        self.grid = grid
        self.report = report
        self.written: list[str] = []
        self.parities: dict[str, Mapping[str, Parity]] = {}

    def image(self, precisions: Sequence[str]) -> tuple[Tensor, ...]:
        """Write the image encoder; returns what torch gives of the fixed picture."""
        height, width = self.grid.rows * self.grid.patch, self.grid.columns * self.grid.patch
        image = torch.from_numpy(fixed_picture(height, width))[None]
        graph = ImageGraph(self.model).eval()
        with torch.no_grad():
            expected = graph(image)
        names = ["patches", "pooled", *(f"{_PREFIX}{i}" for i in range(len(expected) - 2))]
        path = self.folder / image_file("fp32")
        write_static(graph, (image,), path, ["image"], names)
        self._check(path.name, "fp32", {"image": image}, dict(zip(names, expected, strict=True)))
        self._lower(path, image_file, precisions, {"image": image}, dict(zip(names, expected, strict=True)))
        return expected

    def decoder(
        self, words: int, prompts: int, features: tuple[Tensor, ...], precisions: Sequence[str]
    ) -> None:
        """Write the decoder for so many words."""
        generator = torch.Generator().manual_seed(words)
        drawn = torch.randn((words, prompts, self.model.dim), generator=generator)
        given = {"words": F.normalize(drawn, dim=-1), "patches": features[0], "pooled": features[1]}
        given.update({f"{_PREFIX}{i}": tensor for i, tensor in enumerate(features[2:])})
        graph = DecoderGraph(self.model).eval()
        self._features = TorchFeatures(features[0], features[1], features[2:])
        with torch.no_grad():
            expected = {"logits": graph(*given.values())}
        path = self.folder / decoder_file(words, "fp32")
        write_static(graph, tuple(given.values()), path, list(given), ["logits"])
        # The graph has only the inputs that the decoder reads.
        known = {one.name for one in _session(path).get_inputs()}
        given = {name: tensor for name, tensor in given.items() if name in known}
        self._check(path.name, "fp32", given, expected)
        self._check_padding(path, given, expected["logits"])
        self._lower(path, lambda kind: decoder_file(words, kind), precisions, given, expected)

    def _check_padding(self, path: Path, given: Mapping[str, Tensor], logits: Tensor) -> None:
        """Refuse a decoder whose results depend on the zero words that fill a bucket."""
        count = len(logits) // 2
        words = given["words"].clone()
        words[count:] = 0
        with torch.no_grad():
            alone = self.model.decode(self._features, given["words"][:count]).numpy()
        feed = {name: tensor.numpy() for name, tensor in given.items()} | {"words": words.numpy()}
        (found,) = _session(path).run(["logits"], feed)
        parity = compare(rows_of("logits", found[:count]), rows_of("logits", alone))
        try:
            require({"logits": parity}, LEAST["fp32"], f"{path.name} with {count} words and zeros")
        except ValueError:
            path.unlink()
            raise

    def text(self) -> str:
        """Write text tower and tokenizer; returns how texts are cleaned."""
        clip = getattr(self.model, "clip", None)
        if clip is None:
            raise ValueError(
                f"expected a model with a text tower of open_clip, got {self.model.name}; run it with torch"
            )
        simple = import_open_clip().SimpleTokenizer
        tokenizer, cleaning = export_tokenizer(
            getattr(self.model, "tokenizer", None) or simple(context_length=clip.context_length)
        )
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
            expected = self.model.embed_texts(_TEXTS)
        self._check(text_file(), "fp32", {"tokens": tokens}, {"embeddings": expected})
        self.written.append(TOKENIZER)
        return cleaning

    def _lower(
        self,
        path: Path,
        name: Callable[[str], str],
        precisions: Sequence[str],
        given: Mapping[str, Tensor],
        expected: Mapping[str, Tensor],
    ) -> None:
        """Write a file's variants in lower precision."""
        if "fp16" in precisions:
            _write_half(path, self.folder / name("fp16"))
            self._check(name("fp16"), "fp16", given, expected)
        if "int8" in precisions:
            onnx.save(quantise_products(onnx.load(path)), self.folder / name("int8"))
            self._check(name("int8"), "int8", given, expected)

    def _check(
        self, file: str, precision: str, given: Mapping[str, Tensor], expected: Mapping[str, Tensor]
    ) -> None:
        """Refuse a file whose outputs differ from torch's."""
        session = _session(self.folder / file, precision)
        feed = {name: tensor.numpy() for name, tensor in given.items()}
        found = dict(zip(expected, session.run(list(expected), feed), strict=True))
        parities = {
            name: compare(rows_of(name, found[name]), rows_of(name, expected[name].numpy())) for name in found
        }
        try:
            require(parities, LEAST[precision], file)
        except ValueError:
            (self.folder / file).unlink()
            raise
        self.parities[file] = parities
        self.written.append(file)
        self.report(file, parities)


def _session(path: Path, precision: str = "fp32") -> ort.InferenceSession:
    """A session on the CPU.

    Raises:
        ValueError: ONNX Runtime refuses the file.
    """
    options = ort.SessionOptions()
    if precision == "fp16":
        # Some of the CPU's fusions do not know float16; it is made for GPUs.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except FAILURES as error:
        reason = str(error).strip().partition("\n")[0]
        path.unlink()
        raise ValueError(
            f"expected a network that ONNX Runtime runs in {path.name}, and it does not: {reason}; leave "
            f"{precision} out"
        ) from error


def _write_half(source: Path, path: Path) -> None:
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
