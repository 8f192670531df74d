"""The refinement network at run time, with networks small enough to be known."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from fakes import DIM, ColorImageEncoder, ColorTextEncoder, color_image
from onnx import TensorProto, helper

from ovs_ros.encoders.features import Features
from ovs_ros.encoders.heads import CosineHead
from ovs_ros.model import Model
from ovs_ros.options import SegmenterOptions
from ovs_ros.segmenter import Segmenter
from ovs_ros.steps.alignment import align
from ovs_ros.steps.network import MOST_WORDS, Network
from ovs_ros.vocabulary.vocabulary import Vocabulary

SCALE = 10.0


def write_network(
    path: Path,
    added: float,
    *,
    dim: int = DIM,
    prompts: int = 1,
    shallow: bool = False,
    output: str = "logits",
) -> Path:
    """A network whose logits are the cosines times SCALE, with `added` more for the first word."""
    words = helper.make_tensor_value_info("words", TensorProto.FLOAT, ["m", prompts, dim])
    patches = helper.make_tensor_value_info("patches", TensorProto.FLOAT, ["h", "w", dim])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [dim])
    inputs = [patches, image, words]
    nodes = [
        helper.make_node("ReduceMean", ["words"], ["flat"], axes=[1], keepdims=0),
        helper.make_node("Transpose", ["flat"], ["turned"], perm=[1, 0]),
        helper.make_node("MatMul", ["patches", "turned"], ["cosines"]),
        helper.make_node("Mul", ["cosines", "scale"], ["scaled"]),
        helper.make_node("Shape", ["words"], ["count"], end=1),
        helper.make_node("Squeeze", ["count"], ["length"]),
        helper.make_node("Range", ["zero", "length", "step"], ["places"]),
        helper.make_node("Equal", ["places", "zero"], ["first"]),
        helper.make_node("Where", ["first", "added", "nothing"], ["more"]),
        helper.make_node("Add", ["scaled", "more"], [output]),
    ]
    if shallow:
        inputs.append(helper.make_tensor_value_info("shallow", TensorProto.FLOAT, ["h", "w", 2]))
    constants = [
        helper.make_tensor("zero", TensorProto.INT64, [], [0]),
        helper.make_tensor("step", TensorProto.INT64, [], [1]),
        helper.make_tensor("scale", TensorProto.FLOAT, [], [SCALE]),
        helper.make_tensor("added", TensorProto.FLOAT, [], [added]),
        helper.make_tensor("nothing", TensorProto.FLOAT, [], [0.0]),
    ]
    logits = helper.make_tensor_value_info(output, TensorProto.FLOAT, ["h", "w", "m"])
    graph = helper.make_graph(nodes, "known", inputs, [logits], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, path)
    return path


def features_of(seed: int, h: int = 3, w: int = 4) -> Features:
    rng = np.random.default_rng(seed)
    patches = rng.standard_normal((h, w, DIM)).astype(np.float32)
    patches /= np.linalg.norm(patches, axis=2, keepdims=True)
    return Features(patches[0, 0], patches, CosineHead(patches, SCALE), (1.0, 1.0), SCALE)


def added_by(network: Network, features: Features, words: np.ndarray, most: int = MOST_WORDS) -> np.ndarray:
    """What the network adds to the logits of words."""
    return network.logits(features, words, most) - features.logits(words)


def test_the_network_adds_to_the_cosines(tmp_path: Path) -> None:
    network = Network(write_network(tmp_path / "n.onnx", added=3.0))
    features = features_of(0)
    words = features.patch_tokens[1]  # (4, DIM)
    added = added_by(network, features, words)
    assert added.shape == (3, 4, 4)
    np.testing.assert_allclose(added[..., 0], 3.0, atol=1e-4)
    np.testing.assert_allclose(added[..., 1:], 0.0, atol=1e-4)


def test_only_the_words_that_matter_are_refined(tmp_path: Path) -> None:
    """The network adds to the first word it is given; words far from every patch are not among them."""
    network = Network(write_network(tmp_path / "n.onnx", added=3.0))
    features = features_of(4, h=1, w=3)
    words = np.concatenate((-features.patch_tokens[0, :2], features.patch_tokens[0]))  # two far, three near
    added = added_by(network, features, words, most=3)
    np.testing.assert_allclose(added[..., 2], 3.0, atol=1e-4)
    np.testing.assert_allclose(added[..., 3:], 0.0, atol=1e-4)
    np.testing.assert_allclose(added[..., :2], 1.0, atol=1e-4)


def test_a_word_that_is_the_best_of_one_patch_matters_more_than_a_near_second(tmp_path: Path) -> None:
    network = Network(write_network(tmp_path / "n.onnx", added=3.0))
    axes = np.eye(DIM, dtype=np.float32)
    patches = axes[None, :2]  # (1, 2, DIM)
    features = Features(axes[0], patches, CosineHead(patches, SCALE), (1.0, 1.0), SCALE)
    second = 0.96 * axes[0] + 0.28 * axes[2]  # nearly the best of the first patch
    unlikely = 0.6 * axes[1] + 0.8 * axes[3]  # the best of the second one all the same
    words = np.stack((second, axes[0], unlikely))
    added = added_by(network, features, words, most=2)
    np.testing.assert_allclose(added[0, 0], [1.5, 3.0, 0.0], atol=1e-4)
    every = added_by(network, features, words, most=3)
    np.testing.assert_allclose(every[0, 0], [3.0, 0.0, 0.0], atol=1e-4)


def test_alignment_adds_it_and_divides_by_the_temperature(tmp_path: Path) -> None:
    network = Network(write_network(tmp_path / "n.onnx", added=3.0))
    features = features_of(1)
    words = features.patch_tokens[1]
    plain = align(features, words, temperature=2.0)
    refined = align(features, words, network=network, temperature=2.0)
    np.testing.assert_allclose(refined[..., 0] - plain[..., 0], 1.5, atol=1e-4)
    np.testing.assert_allclose(refined[..., 1:], plain[..., 1:], atol=1e-4)


def test_a_list_too_long_for_the_network_keeps_its_cosines(tmp_path: Path) -> None:
    network = Network(write_network(tmp_path / "n.onnx", added=3.0))
    features = features_of(2)
    words = np.tile(features.patch_tokens[0, :1], (MOST_WORDS + 1, 1))
    np.testing.assert_array_equal(align(features, words, network=network), align(features, words))


def test_the_option_switches_it_off(tmp_path: Path) -> None:
    """The network makes everything the first word; without it the picture is what it is."""
    network = Network(write_network(tmp_path / "n.onnx", added=1e3))
    model = Model(ColorImageEncoder(), ColorTextEncoder(), network)
    segmenter = Segmenter(model, SegmenterOptions(select=False))
    words = segmenter.embed(Vocabulary.from_names(["red", "blue"]))
    image = color_image([["red", "blue"]], size=32)
    assert set(np.unique(segmenter.segment(image, words).labels)) == {0}
    without = SegmenterOptions(select=False, network=False)
    assert set(np.unique(segmenter.segment(image, words, without).labels)) == {0, 1}


def test_foreign_networks_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="expected a network .* found none"):
        Network(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="output logits"):
        Network(write_network(tmp_path / "other.onnx", 0.0, output="masks"))
    with pytest.raises(ValueError, match="one embedding a word"):
        Network(write_network(tmp_path / "three.onnx", 0.0, prompts=3))
    narrow = Network(write_network(tmp_path / "narrow.onnx", 0.0, dim=7))
    with pytest.raises(ValueError, match="trained with these encoders"):
        Model(ColorImageEncoder(), ColorTextEncoder(), network=narrow)


def test_an_encoder_without_hidden_features_is_refused(tmp_path: Path) -> None:
    network = Network(write_network(tmp_path / "n.onnx", 0.0, shallow=True))
    with pytest.raises(ValueError, match="hidden features"):
        network.logits(features_of(3), np.zeros((1, DIM), np.float32))
