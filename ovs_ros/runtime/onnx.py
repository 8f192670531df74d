"""ONNX Runtime sessions: on the CPU, or on a GPU through TensorRT or CUDA, as far as the machine has them."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from ovs_ros.runtime.engine_cache import (
    EngineKey,
    describe_gpu,
    engine_folder,
    tensorrt_version,
)
from ovs_ros.runtime.files import file_digest, write_atomically
from ovs_ros.runtime.onnx_file import refuse_external_data
from ovs_ros.runtime.parity import LEAST, ParityError, fixed_inputs, require, session_parity
from ovs_ros.runtime.threads import thread_count

logger = logging.getLogger(__name__)

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
VERDICT = "parity.json"
"""What the check of an engine gave, beside the engine."""
_state = ort.capi.onnxruntime_pybind11_state
# Those of ONNX Runtime derive from Exception directly.
_OF_NETWORKS = (
    _state.Fail,
    _state.InvalidGraph,
    _state.InvalidProtobuf,
    _state.InvalidArgument,
    _state.NotImplemented,
)
_OF_DEVICES = (_state.EPFail, _state.EngineError, _state.RuntimeException)
FAILURES = (RuntimeError, ValueError, OSError, ImportError, *_OF_NETWORKS, *_OF_DEVICES)
"""What ONNX Runtime raises when it cannot open or run a network."""


def providers_for(device: str, available: Sequence[str]) -> tuple[str, ...]:
    """The execution providers to try, best first.

    Args:
        device: 'auto' (the best there is), 'cpu', 'cuda' or 'cuda:N'.
        available: what this build of ONNX Runtime has (`onnxruntime.get_available_providers()`).

    Raises:
        ValueError: the device is none of these, or this build cannot use a GPU and one is asked for.
    """
    kind, _, number = device.partition(":")
    if kind not in ("auto", "cpu", "cuda") or (
        device != kind and not (kind == "cuda" and number.isdecimal())
    ):
        raise ValueError(f"expected the device to be auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cpu":
        return (CPU,)
    found = tuple(provider for provider in (TENSORRT, CUDA) if provider in available)
    if kind == "cuda" and not found:
        raise ValueError(
            f"expected a build of ONNX Runtime for {device}, got one that knows {', '.join(available)}; "
            "replace the package onnxruntime by onnxruntime-gpu (see docs/guide/gpu.md), or set the device "
            "to auto or cpu"
        )
    return (*found, CPU)


def open_session(
    path: Path,
    *,
    threads: int = 0,
    device: str = "cpu",
    precision: str = "fp32",
    reference: Path | None = None,
    widen: bool = False,
) -> ort.InferenceSession:
    """Open a model with the best execution provider that works; one that fails gives way with a warning.

    On a GPU where TensorRT is installed, the first start builds an engine, which takes minutes; it is kept
    (see engine_cache.py). A new engine runs once beside the CPU on a fixed picture, and where it gives
    something else, CUDA takes its place, in all later starts too.

    Args:
        path: an .onnx file.
        threads: how many threads one call may use on the CPU; 0: as `thread_count()` says.
        device: 'cpu', 'auto', 'cuda' or 'cuda:N'.
        precision: 'fp16' lets TensorRT compute in it; else the file's own counts.
        reference: the same model in float32, which an engine must agree with, and which runs in place of one
            in fp16 where only the CPU works; None: `path` itself.
        widen: weights that are stored in 8 bits become float32 when the session opens; else ONNX Runtime may
            multiply them with activations of 8 bits.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the device is unknown, or needs another build of ONNX Runtime, or the file is no network.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"expected a model at {path}, found none; reinstall ovs_ros or rebuild it with 'ovs train'"
        )
    for file in {path, reference or path}:
        refuse_external_data(file)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads or thread_count()
    # Threads that spin between two frames take the cores from the camera driver and from DDS.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if widen:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    *faster, _ = providers_for(device, ort.get_available_providers())
    number = int(device.partition(":")[2] or 0)
    for provider in faster:
        try:
            _load_libraries()
            if provider == TENSORRT:
                if find_spec("tensorrt") is not None:
                    import_module("tensorrt")  # Loads its libraries; CUDA does without, if they are broken.
                return _open_tensorrt(path, options, number, precision, reference or path)
            return _open(path, options, [(CUDA, {"device_id": number})])
        except FAILURES as error:
            logger.warning("%s runs without %s: %s", path.name, provider, str(error).partition("\n")[0])
    file = reference if reference and precision == "fp16" else path
    try:
        return _open(file, options, [(CPU, {})])
    except FAILURES as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            f"expected an ONNX network in {file}, got a file that ONNX Runtime cannot open ({reason}); copy "
            "or install it again"
        ) from error


def tensorrt_options(folder: Path, *, device: int, precision: str) -> dict[str, Any]:
    """What TensorRT's provider is told: where to keep its engine and its timings, and whether fp16 may be.

    Args:
        folder: from `engine_folder`.
        device: the GPU's number.
        precision: 'fp16' allows it.
    """
    return {
        "device_id": device,
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": str(folder),
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": str(folder),
        "trt_fp16_enable": precision == "fp16",
        # The shape never changes, so that a slow search for kernels pays for itself.
        "trt_builder_optimization_level": 4,
    }


class BoundSession:
    """A session whose outputs stay on its device, so that the next one takes them without a copy.

    Inputs have one kept buffer each; outputs are fresh for every run, out of ONNX Runtime's own pool.

    Attributes:
        device: 'cpu', 'cuda:0', …
        inputs: their names.

    Args:
        session: from `open_session`.
    """

    def __init__(self, session: ort.InferenceSession) -> None:
        first = session.get_providers()[0]
        self.kind = "cpu" if first == CPU else "cuda"
        options = session.get_provider_options().get(first, {})
        self.number = 0 if self.kind == "cpu" else int(options.get("device_id", 0))
        self.device = "cpu" if self.kind == "cpu" else f"cuda:{self.number}"
        self.session = session
        self.inputs = [given.name for given in session.get_inputs()]
        self._outputs = [output.name for output in session.get_outputs()]
        self._kept: dict[str, ort.OrtValue] = {}

    def run(self, inputs: Mapping[str, NDArray[Any] | ort.OrtValue]) -> dict[str, ort.OrtValue]:
        """Outputs by name, on the device; `.numpy()` brings one here.

        Args:
            inputs: by name: C-contiguous arrays, or outputs of another session, best on the same device.
        """
        # One for each run, or the last run's outputs would be written over.
        binding = self.session.io_binding()
        for name, value in inputs.items():
            if self.kind == "cpu" and not isinstance(value, np.ndarray) and value.device_name() != "cpu":
                value = value.numpy()  # A session without a GPU cannot fetch what lies on one.
            if isinstance(value, np.ndarray):
                kept = self._kept.get(name)
                if self.kind == "cpu" or kept is None or tuple(kept.shape()) != value.shape:
                    kept = ort.OrtValue.ortvalue_from_numpy(
                        value, self.kind, self.number
                    )  # On the CPU no copy.
                    self._kept[name] = kept
                else:
                    kept.update_inplace(value)
                value = kept
            binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            binding.bind_output(name, self.kind, self.number)
        self.session.run_with_iobinding(binding)
        outputs = dict(zip(self._outputs, binding.get_outputs(), strict=True))
        for output in outputs.values():
            output.binding = binding  # In old versions a value refers to memory of its binding.
        return outputs


def _open(
    path: Path, options: ort.SessionOptions, providers: list[tuple[str, dict[str, Any]]]
) -> ort.InferenceSession:
    """A session with these providers, and the CPU for what they lack.

    Raises:
        RuntimeError: the first of them does not work here.
    """
    first = providers[0][0]
    if first != CPU:
        providers = [*providers, (CPU, {})]
    session = ort.InferenceSession(path, options, providers=providers, enable_fallback=0)
    # A provider whose libraries are missing is left out, and only ONNX Runtime's own log says so.
    if session.get_providers()[0] != first:
        raise RuntimeError("its libraries do not load, or it finds no GPU")
    return session


def _open_tensorrt(
    path: Path, options: ort.SessionOptions, device: int, precision: str, reference: Path
) -> ort.InferenceSession:
    """A session whose engine has passed the check.

    Raises:
        ParityError: the engine gives something else than the CPU, now or when it was built.
        RuntimeError, OSError: TensorRT does not work here.
    """
    plain = ort.SessionOptions()
    plain.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    inputs = ort.InferenceSession(reference, plain, providers=[CPU]).get_inputs()
    shape = "_".join("x".join(str(axis) for axis in given.shape) for given in inputs)
    gpu = describe_gpu(device)
    key = EngineKey(file_digest(path), shape, precision, *gpu, tensorrt_version(), ort.__version__)
    folder = engine_folder(key)
    folder.mkdir(parents=True, exist_ok=True)
    verdict = folder / VERDICT
    if not verdict.is_file():
        logger.info("TensorRT builds an engine of %s for %s; this takes minutes, once", path.name, key.gpu)

    def build() -> ort.InferenceSession:
        given = tensorrt_options(folder, device=device, precision=precision)
        return _open(path, options, [(TENSORRT, given), (CUDA, {"device_id": device})])

    return accept(build, reference, verdict, LEAST[precision], path.name)


def accept(
    build: Callable[[], ort.InferenceSession], reference: Path, verdict: Path, least: float, name: str
) -> ort.InferenceSession:
    """A session that agrees with a reference; the verdict is kept, so that it is reached once.

    Args:
        build: opens the session.
        reference: what it must agree with, run on the CPU.
        verdict: the file that keeps the outcome.
        least: what all cosines must reach.
        name: of the model, for the message.

    Raises:
        ParityError: it does not agree, now or in an earlier start.
    """
    try:
        kept = json.loads(verdict.read_text(encoding="utf-8")).get("refused", "")
    except (OSError, ValueError, AttributeError):
        kept = None  # Never checked, or half written.
    if kept:
        raise ParityError(kept)
    session = build()
    if kept is not None:
        return session
    on_cpu = ort.InferenceSession(reference, providers=[CPU])
    parities = session_parity(session, on_cpu, fixed_inputs(on_cpu))
    outcome: dict[str, Any] = {
        "cosines": {output: {"least": p.least, "mean": p.mean} for output, p in parities.items()}
    }
    try:
        require(parities, least, f"TensorRT's engine of {name}")
    except ParityError as error:
        outcome["refused"] = str(error)
        raise
    finally:
        write_atomically(verdict, (json.dumps(outcome, indent=2) + "\n").encode())
    return session


@cache
def _load_libraries() -> None:
    """Load the GPU libraries that pip installed, where ONNX Runtime does not look for them by itself."""
    if hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
