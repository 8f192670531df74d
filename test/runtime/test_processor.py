"""The processor's name and instruction sets, from what Linux says of it."""

from pathlib import Path

import pytest

from ovs_ros.runtime.processor import device_name, processor_name

EPYC = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t\t: fpu sse2 avx avx2 fma\n"
XEON = "model name\t: Intel(R) Xeon(R)\nflags\t: avx2 avx512bw avx512_vnni avx_vnni amx_int8\n"
ORIN = "processor\t: 0\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimddp\n"


@pytest.mark.parametrize(
    ("cpuinfo", "expected"),
    [
        (EPYC + EPYC.replace("7763", "other"), "AMD EPYC 7763 (AVX2)"),
        (XEON, "Intel(R) Xeon(R) (AVX2, AVX-512, AVX-512 VNNI, AVX-VNNI, AMX)"),
        ("model name\t: Old\nflags\t\t: sse2\n", "Old"),
    ],
)
def test_name_and_sets(tmp_path: Path, cpuinfo: str, expected: str) -> None:
    (tmp_path / "cpuinfo").write_text(cpuinfo, encoding="utf-8")
    assert processor_name(tmp_path / "cpuinfo") == expected


def test_a_processor_without_a_name_still_has_its_sets(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text(ORIN, encoding="utf-8")
    assert processor_name(tmp_path / "cpuinfo").endswith("(NEON, dot product)")
    assert processor_name(tmp_path / "none")


def test_only_the_cpu_gets_a_processor() -> None:
    assert device_name("cpu") == f"cpu, {processor_name()}"
    assert device_name("cuda:0") == "cuda:0"
