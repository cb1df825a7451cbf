"""The progress bar: what it shows on a terminal, and that it shows nothing elsewhere."""

import io

import pytest
from rich.console import Console

from octet.bench.serving import watch
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import Outcome


def shown(monkeypatch: pytest.MonkeyPatch, *, terminal: bool) -> str:
    file = io.StringIO()
    console = Console(file=file, width=100, force_terminal=terminal)
    monkeypatch.setattr(watch, "Console", lambda stderr: console)
    order = Order(0, Kind.TEXT, 8, 8)
    with watch.watching() as watched:
        watched.begin("warming up", 1)
        watched.note(Outcome(order, 0, 0))
        watched.begin("8 streams [turn 1]", 3)
        watched.note(Outcome(order, 0, 0))
        watched.note(Outcome(order, 0, 0, status="UNAVAILABLE"))
        watched._bar.refresh()
    return file.getvalue()


def test_a_terminal_sees_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = shown(monkeypatch, terminal=True)
    assert "8 streams [turn 1]" in seen
    assert "2/3" in seen
    assert "1 failed" in seen


def test_nobody_else_sees_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown(monkeypatch, terminal=False) == ""
