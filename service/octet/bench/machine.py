"""Names the machine that figures come from."""

import os
import platform
from pathlib import Path
from typing import Any

import octet

# What decides which kernels run, by the names in /proc/cpuinfo.
_FEATURES = {
    "avx2": "AVX2",
    "avx512f": "AVX-512",
    "avx512vbmi": "AVX512-VBMI",
    "avx512_bf16": "AVX512-BF16",
    "amx_bf16": "AMX-BF16",
}
_L3 = Path("/sys/devices/system/cpu/cpu0/cache/index3/size")
DEFAULT_L3_BYTES = 32 << 20


def describe(device: str) -> dict[str, Any]:
    """The machine and the software on it, as JSON values; `device` is "cpu" or "cuda"."""
    import torch

    from octet import ops

    return {
        "device": device,
        **host(),
        "l3_bytes": l3_bytes(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "torch": torch.__version__,
        "isa": ops.isa(),
    }


def host() -> dict[str, Any]:
    """The processor, the memory and Octet's version, as JSON values; needs neither torch nor kernels."""
    fields = _cpuinfo()
    flags = fields.get("flags", "").split()
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "features": [name for flag, name in _FEATURES.items() if flag in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "octet": octet.__version__,
    }


def summary(machine: dict[str, Any]) -> str:
    """One line for people, of what `describe` says."""
    gpu = machine["gpu"] or "no GPU"
    return f"{host_summary(machine)}, {gpu}; torch {machine['torch']}"


def host_summary(host: dict[str, Any]) -> str:
    """One line for people, of what `host` says."""
    memory = f"{host['memory_bytes'] / 2**30:.0f} GiB"
    return f"{host['cpu']}, {host['cores']} cores, {'/'.join(host['features'])}, {memory}"


def l3_bytes() -> int:
    """Size of the last-level cache; a common one where the system does not tell."""
    try:
        text = _L3.read_text(encoding="ascii").strip()
        return int(text.rstrip("KM")) * {"K": 1 << 10, "M": 1 << 20}[text[-1]]
    except (OSError, ValueError, KeyError):
        return DEFAULT_L3_BYTES


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    try:
        first = Path("/proc/cpuinfo").read_text(encoding="utf-8").partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
