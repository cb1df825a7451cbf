"""What the parts of a first run share: the built operators, their oracle, and inputs."""

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[2]
FORMATS = (torch.float8_e4m3fn, torch.float8_e5m2)
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-6


def load(library: str) -> Any:
    """Registers torch.ops.octet out of a library of tools.gpu.build, and returns it."""
    torch.ops.load_library(library)  # type: ignore[no-untyped-call]
    return torch.ops.octet


def oracle() -> Any:
    """octet.ops.reference, without the package around it, whose extension is not built here."""
    path = ROOT / "service" / "octet" / "ops" / "reference.py"
    spec = importlib.util.spec_from_file_location("octet_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def rows(seed: int, tokens: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    """Rows of unlike magnitudes, on the host."""
    generator = torch.Generator().manual_seed(seed)
    magnitudes = 2.0 ** torch.randint(-9, 6, (tokens, 1), generator=generator)
    return (torch.randn(tokens, width, generator=generator) * magnitudes).to(dtype)


def there(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor on the GPU, with the strides and the alignment that it has on the host."""
    memory = torch.empty(0, dtype=tensor.dtype).set_(tensor.untyped_storage()).cuda()
    return memory.as_strided(tensor.shape, tensor.stride(), tensor.storage_offset())


def say(result: dict[str, Any]) -> None:
    """Ends a part: its result as the last line of standard output, for the one that runs the parts."""
    print(json.dumps(result), flush=True)
    sys.exit(0 if result.get("ok", True) else 1)
