"""Which provider a session gets, and when an engine is refused. No GPU is needed: what fails gives way."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest

from ovs_ros.runtime.onnx import (
    CPU,
    CUDA,
    TENSORRT,
    BoundSession,
    accept,
    open_session,
    providers_for,
    tensorrt_options,
)
from ovs_ros.runtime.parity import ParityError

onnx = pytest.importorskip("onnx", reason="writes small networks")

SHAPE = (1, 4, 6, 3)


def write_network(path: Path, *, wrong: float = 0.0) -> Path:
    """uint8 (1, 4, 6, 3) times a matrix (3, 5), of which `wrong` turns one column away."""
    from onnx import TensorProto, helper, numpy_helper

    weight = np.random.default_rng(0).standard_normal((3, 5)).astype(np.float32)
    weight[:, 0] *= 1 - wrong
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["image"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["floats", "weight"], ["patches"]),
        ],
        "small",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, SHAPE)],
        [helper.make_tensor_value_info("patches", TensorProto.FLOAT, (*SHAPE[:3], 5))],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 9
    onnx.save(model, path)
    return path


ALL = (TENSORRT, CUDA, CPU)


@pytest.mark.parametrize(
    ("device", "available", "expected"),
    [
        ("auto", ALL, ALL),
        ("auto", ("AzureExecutionProvider", CPU), (CPU,)),
        ("auto", (CUDA, CPU), (CUDA, CPU)),
        ("cpu", ALL, (CPU,)),
        ("cuda", (CUDA, CPU), (CUDA, CPU)),
        ("cuda:1", ALL, ALL),
    ],
)
def test_the_best_provider_comes_first(device: str, available: tuple, expected: tuple) -> None:
    assert providers_for(device, available) == expected


@pytest.mark.parametrize("device", ["cuda:", "cuda:x", "gpu", "", "cpu:0", "auto:1"])
def test_devices_that_do_not_exist_are_refused(device: str) -> None:
    with pytest.raises(ValueError, match="expected the device to be"):
        providers_for(device, ALL)


def test_a_gpu_that_is_asked_for_needs_a_build_for_it() -> None:
    with pytest.raises(ValueError, match="onnxruntime-gpu"):
        providers_for("cuda:0", (CPU,))


def test_providers_that_do_not_work_give_way_with_one_warning_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = write_network(tmp_path / "network.onnx")
    really = ort.get_available_providers()
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setenv("OVS_ROS_CACHE", str(tmp_path))
    if CUDA in really:
        pytest.skip("has a build for GPUs")
    with caplog.at_level(logging.WARNING):
        session = open_session(network, device="auto", precision="fp16")
    assert session.get_providers() == [CPU]
    assert [record.getMessage().split()[3].rstrip(":") for record in caplog.records] == [TENSORRT, CUDA]


def test_tensorrt_that_does_not_load_leaves_cuda_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    network = write_network(tmp_path / "network.onnx")
    (tmp_path / "tensorrt.py").write_text("raise ImportError('broken TensorRT')\n")
    monkeypatch.syspath_prepend(tmp_path)
    if CUDA in ort.get_available_providers():
        pytest.skip("has a build for GPUs")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    with caplog.at_level(logging.WARNING):
        open_session(network, device="auto")
    tensorrt, cuda = (record.getMessage() for record in caplog.records)
    assert "broken TensorRT" in tensorrt and "broken TensorRT" not in cuda


def test_where_only_the_cpu_works_float32_takes_the_place_of_fp16(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = write_network(tmp_path / "half.onnx", wrong=2.0)
    whole = write_network(tmp_path / "whole.onnx")
    if CUDA in ort.get_available_providers():
        pytest.skip("has a build for GPUs")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    image = np.ones(SHAPE, np.uint8)
    (expected,) = open_session(whole).run(None, {"image": image})
    (found,) = open_session(half, device="cuda", precision="fp16", reference=whole).run(
        None, {"image": image}
    )
    assert np.array_equal(found, expected)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="none.onnx"):
        open_session(tmp_path / "none.onnx", device="auto")


def test_tensorrt_keeps_engine_and_timings_in_the_folder(tmp_path: Path) -> None:
    options = tensorrt_options(tmp_path, device=1, precision="fp16")
    assert options["trt_engine_cache_path"] == options["trt_timing_cache_path"] == str(tmp_path)
    assert options["trt_engine_cache_enable"] and options["trt_timing_cache_enable"]
    assert options["trt_fp16_enable"] and options["device_id"] == 1
    assert not tensorrt_options(tmp_path, device=0, precision="fp32")["trt_fp16_enable"]


class TestEngines:
    """Two sessions on the CPU stand for an engine and its reference; one of them may be wrong."""

    def accept(self, folder: Path, *, wrong: float, log: list[str] | None = None) -> ort.InferenceSession:
        right = write_network(folder / "right.onnx")
        other = write_network(folder / "other.onnx", wrong=wrong)

        def build() -> ort.InferenceSession:
            (log if log is not None else []).append("built")
            return open_session(other)

        return accept(build, right, folder / "parity.json", 0.999, "right.onnx")

    def test_an_engine_that_agrees_is_taken_and_not_checked_again(self, tmp_path: Path) -> None:
        self.accept(tmp_path, wrong=0.0)
        # A second start trusts the verdict: another network would fail the check.
        self.accept(tmp_path, wrong=2.0)

    def test_an_engine_that_does_not_is_refused_with_the_figure_and_not_built_again(
        self, tmp_path: Path
    ) -> None:
        log: list[str] = []
        with pytest.raises(ParityError, match=r"least -?0\.\d{6}, mean .* patches") as first:
            self.accept(tmp_path, wrong=2.0, log=log)
        with pytest.raises(ParityError) as second:
            self.accept(tmp_path, wrong=0.0, log=log)
        assert str(second.value) == str(first.value)
        assert log == ["built"]

    def test_a_verdict_that_was_half_written_is_reached_again(self, tmp_path: Path) -> None:
        (tmp_path / "parity.json").write_text('{"refu')
        self.accept(tmp_path, wrong=0.0)
        with pytest.raises(ParityError):
            (tmp_path / "parity.json").write_text('{"refu')
            self.accept(tmp_path, wrong=2.0)


def test_a_bound_session_gives_what_the_session_gives_and_keeps_earlier_results(tmp_path: Path) -> None:
    session = open_session(write_network(tmp_path / "network.onnx"))
    bound = BoundSession(session)
    images = np.random.default_rng(0).integers(0, 256, (2, *SHAPE), dtype=np.uint8)
    first = bound.run({"image": images[0]})["patches"]
    second = bound.run({"image": images[1]})["patches"]
    assert bound.device == "cpu"
    for result, image in zip((first, second), images, strict=True):
        assert np.array_equal(result.numpy(), session.run(None, {"image": image})[0])


def test_a_session_on_the_cpu_fetches_what_another_left_on_a_gpu(tmp_path: Path) -> None:
    """An image encoder may run on the GPU, and its decoder, whose engine is refused, may not."""
    session = open_session(write_network(tmp_path / "network.onnx"))
    image = np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)
    there = SimpleNamespace(device_name=lambda: "cuda", numpy=lambda: image)
    found = BoundSession(session).run({"image": there})["patches"].numpy()
    assert np.array_equal(found, session.run(None, {"image": image})[0])
