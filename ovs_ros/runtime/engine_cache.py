"""The folder of TensorRT's engines. An engine fits only one model, GPU, driver and TensorRT release."""

import ctypes
import hashlib
import importlib.metadata
import re
from pathlib import Path
from typing import NamedTuple

from ovs_ros.runtime.cache_directory import default_directory

_MAJOR, _MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the CUDA driver API."""
_DRIVER = Path("/proc/driver/nvidia/version")
_JETSON = Path("/etc/nv_tegra_release")


class EngineKey(NamedTuple):
    """All that an engine depends on.

    Attributes:
        model: SHA-256 of the ONNX file, hexadecimal.
        shape: of all inputs, such as '1x448x592x3'.
        precision: 'fp32', 'fp16'.
        gpu: its name, such as 'NVIDIA H200' or 'Orin'.
        driver: what `describe_gpu` says of it beside its name.
        tensorrt: every version of it on this machine, as `tensorrt_version` tells.
        onnxruntime: its version; it decides which pieces of the network become engines.
    """

    model: str
    shape: str
    precision: str
    gpu: str
    driver: str
    tensorrt: str
    onnxruntime: str


def engine_folder(key: EngineKey, root: Path | None = None) -> Path:
    """The folder for one engine and its timing cache: one for each key.

    Args:
        key: what the engine depends on.
        root: where all engines lie; None: 'engines' beside the cached embeddings.
    """
    digest = hashlib.sha256(repr(tuple(key)).encode()).hexdigest()[:16]
    plain = "-".join((key.gpu, key.shape, key.precision))
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", plain).strip("-")[:80]
    return (root if root is not None else default_directory() / "engines") / f"{readable}-{digest}"


def describe_gpu(index: int = 0) -> tuple[str, str]:
    """What the CUDA driver says of a GPU; a Jetson's too, which has no nvidia-smi.

    Returns:
        Its name; and its compute capability, what CUDA version the driver speaks, and the driver's own
        release where the system tells, such as '9.0 12080 ...'.

    Raises:
        OSError: there is no driver, or no such GPU.
    """
    cuda = ctypes.CDLL("libcuda.so.1")
    version, device, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    major, minor = ctypes.c_int(), ctypes.c_int()
    for call, *arguments in (
        ("cuInit", 0),
        ("cuDriverGetVersion", ctypes.byref(version)),
        ("cuDeviceGet", ctypes.byref(device), index),
        ("cuDeviceGetName", name, len(name), device),
        ("cuDeviceGetAttribute", ctypes.byref(major), _MAJOR, device),
        ("cuDeviceGetAttribute", ctypes.byref(minor), _MINOR, device),
    ):
        if status := getattr(cuda, call)(*arguments):
            raise OSError(f"expected a GPU, and the CUDA driver's {call} answers with error {status}")
    release = next((path.read_text().splitlines()[0] for path in (_DRIVER, _JETSON) if path.is_file()), "")
    return name.value.decode(), f"{major.value}.{minor.value} {version.value} {release}".strip()


def tensorrt_version() -> str:
    """All versions of TensorRT on this machine, with their names; '' where there is none.

    ONNX Runtime does not tell which one it takes: the Python package 'tensorrt' may be of another release
    than the library of 'tensorrt-cu12' beside it, and a Jetson has the library without any package. So all of
    them count, and a change of any builds a new engine.
    """
    found = []
    for package in ("tensorrt", *(f"tensorrt-cu{cuda}" for cuda in (11, 12, 13))):
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    for library in ("libnvinfer.so", "libnvinfer.so.11", "libnvinfer.so.10", "libnvinfer.so.8"):
        try:
            found.append(f"{library} {ctypes.CDLL(library).getInferLibVersion()}")
        except (OSError, AttributeError):
            continue
    return ", ".join(found)
