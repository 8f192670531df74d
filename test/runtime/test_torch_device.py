"""Which device and precision a setting means, on machines with and without a GPU."""

from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (pip install '.[clip]')")

from ovs_ros.runtime.processor import cpu_flags  # noqa: E402
from ovs_ros.runtime.torch_device import (  # noqa: E402
    cast_matrices,
    computing,
    is_out_of_memory,
    resolve_device,
    resolve_precision,
)


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two GPUs of compute capability 8.7, as a Jetson Orin's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 7))


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu() -> None:
    assert resolve_device("auto") == resolve_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("gpus")
def test_with_gpus_auto_is_the_first() -> None:
    assert resolve_device("auto") == resolve_device("cuda") == torch.device("cuda", 0)
    assert resolve_device("cuda:1") == torch.device("cuda", 1)
    assert resolve_device("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("no_gpu")
@pytest.mark.parametrize("text", ["cuda", "cuda:0"])
def test_a_gpu_where_there_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=f"expected the GPU {text}, got a machine with none.*say 'auto'"):
        resolve_device(text)


@pytest.mark.usefixtures("gpus")
def test_a_gpu_beyond_the_last_is_refused() -> None:
    with pytest.raises(ValueError, match=r"GPU cuda:2, got a machine with 2 of them \(cuda:0 to cuda:1\)"):
        resolve_device("cuda:2")


@pytest.mark.parametrize("text", ["", "gpu", "cuda:", "cuda:one", "cuda:-1", "cpu:0"])
def test_other_devices_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected the device to be auto, cpu, cuda or cuda:N"):
        resolve_device(text)


@pytest.mark.usefixtures("gpus")
def test_auto_on_a_gpu_is_fp16_if_it_has_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = torch.device("cuda", 0)
    assert resolve_precision("auto", gpu) == torch.float16
    assert resolve_precision("bf16", gpu) == torch.bfloat16
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (5, 3))
    assert resolve_precision("auto", gpu) == torch.float32


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name : x\nflags\t\t: fpu avx512f avx512_bf16 amx_tile\n", torch.bfloat16),
        ("flags\t\t: fpu avx2 avx512f\n", torch.float32),
        ("Features\t: fp asimd i8mm bf16\n", torch.bfloat16),
        ("model name : avx512_bf16\n", torch.float32),
        (None, torch.float32),  # The kernel does not tell.
    ],
)
def test_auto_on_a_cpu_is_bf16_if_it_has_instructions_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, expected: torch.dtype
) -> None:
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text, encoding="utf-8")
    flags = cpu_flags(tmp_path / "cpuinfo")
    monkeypatch.setattr("ovs_ros.runtime.torch_device.cpu_flags", lambda: flags)
    assert resolve_precision("auto", torch.device("cpu")) == expected


def test_a_file_that_asks_for_fp16_runs_on_a_cpu_too() -> None:
    assert resolve_precision("fp16", torch.device("cpu")) == torch.float32


def test_other_precisions_are_refused() -> None:
    with pytest.raises(ValueError, match="expected the precision to be auto, fp32, fp16, bf16, got 'int8'"):
        resolve_precision("int8", torch.device("cpu"))


def test_only_the_matrices_that_a_call_uses_are_cast() -> None:
    used, unused = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    cast_matrices(
        torch.nn.ModuleList([used, unused]), torch.bfloat16, lambda: used.weight[:2] @ torch.ones(4)
    )
    assert used.weight.dtype == torch.bfloat16
    assert used.bias.dtype == unused.weight.dtype == torch.float32


def test_products_are_in_lower_precision_and_norms_are_not() -> None:
    with computing(torch.device("cpu"), torch.bfloat16):
        product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == torch.bfloat16 and product.is_inference()
    with computing(torch.device("cpu"), torch.float32):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.cuda.OutOfMemoryError("any text"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (RuntimeError('NVML_SUCCESS == r INTERNAL ASSERT FAILED at "CUDACachingAllocator.cpp":995'), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
    ],
)
def test_a_full_memory_is_known_from_other_errors(error: RuntimeError, expected: bool) -> None:
    assert is_out_of_memory(error) is expected
