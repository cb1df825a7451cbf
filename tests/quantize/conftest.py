from collections.abc import Callable
from pathlib import Path

import pytest

from octet.quantize.checkpoint import Result, quantize_checkpoint
from octet.quantize.options import Options
from octet.quantize.source import open_source

GOLDEN = Path(__file__).parent / "golden"

Quantize = Callable[..., Result]


def silent(name: str, size: int) -> Callable[[int], None]:
    """A phase that nobody watches."""
    return lambda done: None


@pytest.fixture(params=sorted(path.name for path in GOLDEN.iterdir()))
def golden(request: pytest.FixtureRequest) -> Path:
    """A small checkpoint in `source`, and beside it what llm-compressor made of it."""
    return GOLDEN / str(request.param)


@pytest.fixture
def quantize() -> Quantize:
    """Quantizes a directory; takes the destination and the options."""

    def run(source: Path, destination: Path, **options: object) -> Result:
        return quantize_checkpoint(open_source(str(source)), destination, Options(**options), silent)  # type: ignore[arg-type]

    return run
