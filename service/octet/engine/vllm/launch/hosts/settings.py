"""What machines that serve one model together must have been told alike."""

import hashlib
import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any

import octet
from octet.engine.vllm import compat, kernels

if TYPE_CHECKING:
    from vllm.engine.arg_utils import AsyncEngineArgs

# Arguments that may differ, by their names in AsyncEngineArgs: what says which machine this is, how much
# memory it has, where its files lie, what only the machine that serves does, and what nobody else may read.
_OWN = frozenset(
    (
        "node_rank", "master_addr", "device_ids", "numa_bind_cpus", "numa_bind_nodes",
        "kv_cache_memory_bytes", "gpu_memory_utilization", "cpu_offload_gb",
        "tokenizer", "hf_config_path", "download_dir", "model_weights", "allowed_local_media_path",
        "generation_config", "reasoning_parser_plugin", "tool_parser_plugin", "log_config_file",
        "served_model_name", "allowed_media_domains", "disable_log_stats", "enable_log_requests", "log_level",
        "logging_config", "otlp_traces_endpoint", "use_tqdm_on_load", "profiler_config", "hf_token",
    )
)  # fmt: skip

_SAMPLE_BYTES = 1 << 16


def common_settings(engine: "AsyncEngineArgs") -> dict[str, str]:
    """What has to be the same on all machines, as text to compare and to show, by the flag that says it."""
    settings = {
        f"--{name.replace('_', '-')}": _text(value) for name, value in vars(engine).items() if _counts(name)
    }
    settings["the model"] = _model(engine)
    settings[kernels.SWITCH] = str(kernels.wanted())
    ((vllm, version),) = compat.installed_distributions().items()
    settings["the version"] = f"octet {octet.__version__}, {vllm} {version}, Python {_python()}"
    return settings


def _counts(name: str) -> bool:
    return not name.startswith("_") and name != "model" and name not in _OWN


def _text(value: Any) -> str:
    """Alike for alike values in any process: sets are sorted, and what shows no value counts by its type."""
    if isinstance(value, set | frozenset):
        value = sorted(value, key=repr)
    text = repr(value)
    return type(value).__qualname__ if " at 0x" in text else text


def _model(engine: "AsyncEngineArgs") -> str:
    """A hub id with its revision; of a directory, which may lie elsewhere on each machine, its contents."""
    folder = Path(engine.model)
    if not folder.is_dir():
        return f"{engine.model} ({engine.revision or 'main'})"
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        weights = file.suffix in (".safetensors", ".bin", ".pt") or file.name.endswith(".index.json")
        if (weights or file.name == "config.json") and file.is_file():
            digest.update(f"{file.name} {file.stat().st_size} ".encode())
            digest.update(_sample(file))
    return f"a folder whose contents have the hash {digest.hexdigest()[:12]}"


def _sample(file: Path) -> bytes:
    """A file's beginning, middle and end, or all of it: weights are too large to be read for this."""
    size = file.stat().st_size
    with file.open("rb") as data:
        if size <= 3 * _SAMPLE_BYTES:
            return data.read()
        parts = []
        for start in (0, size // 2, size - _SAMPLE_BYTES):
            data.seek(start, os.SEEK_SET)
            parts.append(data.read(_SAMPLE_BYTES))
        return b"".join(parts)


def _python() -> str:
    return ".".join(platform.python_version_tuple()[:2])
