"""The processor's name and instruction sets, to print beside measured times."""

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_SETS = {
    "avx2": "AVX2",
    "avx512bw": "AVX-512",
    "avx512_vnni": "AVX-512 VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX",
    "asimd": "NEON",
    "asimddp": "dot product",
    "i8mm": "I8MM",
}
"""Flags of Linux for the instruction sets that 8-bit and float products use, x86 first, then ARM."""


def cpu_fields(path: Path = _CPUINFO) -> dict[str, str]:
    """What Linux says of the first core, which stands for all; nothing where it does not tell."""
    if not path.exists():
        return {}
    fields: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip().lower(), value.strip())
    return fields


def cpu_flags(path: Path = _CPUINFO) -> set[str]:
    """The processor's instruction sets, as Linux names them; nothing where it does not tell."""
    fields = cpu_fields(path)
    return set((fields.get("flags") or fields.get("features") or "").split())


def processor_name(path: Path = _CPUINFO) -> str:
    """Name and instruction sets, such as "AMD EPYC 7763 (AVX2)"; Python's name for it without `path`."""
    name = cpu_fields(path).get("model name") or platform.processor() or platform.machine()
    flags = cpu_flags(path)
    sets = ", ".join(shown for flag, shown in _SETS.items() if flag in flags)
    return f"{name} ({sets})" if sets else name


def device_name(device: str) -> str:
    """A device as figures name it: "cpu" with the processor's name, any other as it is."""
    return f"cpu, {processor_name()}" if device == "cpu" else device
