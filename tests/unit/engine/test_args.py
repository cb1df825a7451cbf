"""Flags beside vLLM's own."""

import pytest

from octet.engine.vllm.args import _adapters
from octet.errors import StartupError


def test_adapters_by_name() -> None:
    assert _adapters([], enabled=None) == {}
    modules = ["poet=/models/poet", "lawyer=org/law=1"]
    assert _adapters(modules, enabled=True) == {"poet": "/models/poet", "lawyer": "org/law=1"}


@pytest.mark.parametrize(
    ("modules", "enabled", "problem"),
    [
        (["poet=/models/poet"], None, "adapters need --enable-lora"),
        (["poet"], True, "poet is not NAME=PATH"),
        (["=path"], True, "=path is not NAME=PATH"),
        (["poet="], True, "poet= is not NAME=PATH"),
        (["a=1", "a=2"], True, "a is the name of two adapters"),
    ],
)
def test_wrong_adapters(modules: list[str], enabled: bool | None, problem: str) -> None:
    with pytest.raises(StartupError, match=r"^--lora-modules: ") as raised:
        _adapters(modules, enabled=enabled)
    assert problem in str(raised.value)
