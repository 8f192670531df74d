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


def processor_name(cpuinfo: str | None = None) -> str:
    """Name and instruction sets, such as "AMD EPYC 7763 (AVX2)".

    Args:
        cpuinfo: what Linux says in /proc/cpuinfo; None: read it. Without it, only Python's name for the
            processor is known.
    """
    if cpuinfo is None:
        cpuinfo = _CPUINFO.read_text(encoding="utf-8", errors="replace") if _CPUINFO.exists() else ""
    fields: dict[str, str] = {}
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())  # The first core stands for all.
    name = fields.get("model name") or platform.processor() or platform.machine()
    flags = set((fields.get("flags") or fields.get("Features") or "").split())
    sets = ", ".join(shown for flag, shown in _SETS.items() if flag in flags)
    return f"{name} ({sets})" if sets else name


def device_name(device: str) -> str:
    """A device as figures name it: "cpu" with the processor's name, any other as it is."""
    return f"cpu, {processor_name()}" if device == "cpu" else device
