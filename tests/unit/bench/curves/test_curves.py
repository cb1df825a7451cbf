"""What the program of curves prints, writes and draws."""

import json
from pathlib import Path

import pytest

from bench.capacity.__main__ import fit_file
from bench.curves import __main__ as program
from bench.curves.sweeps import Curve, Point
from octet.bench.serving.figures import Figures
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import Load, Outcome
from octet.bench.serving.target import Usage


def point(x: int, prompt: int, seconds: float) -> Point:
    """A point of one turn, with two answers of three pieces, and a failure."""
    order = Order(0, Kind.TEXT, prompt, 64)
    pieces = [0.01, 0.02, 0.03]
    outcomes = [Outcome(order, 0, 0, 0.03, "OK", "", pieces, 0.01, Usage(prompt, 64)) for _ in range(2)]
    outcomes.append(Outcome(order, 0, 0, 0.01, "UNAVAILABLE", "gone"))
    return Point(x, [Figures.of([Load(outcomes, seconds, 0.1)])])


def test_the_program_prints_writes_and_draws(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    curves = [
        Curve("streams", "streams at once", [point(x, 32, 1 / x) for x in (1, 4, 64)], "what is fixed"),
        Curve("prompt", "tokens of the prompt", [point(x, x, 1.0) for x in (64, 128, 256, 512)], "else"),
    ]

    async def measure(*_: object) -> list[Curve]:
        return curves

    monkeypatch.setattr(program, "measure", measure)
    written, plots = tmp_path / "curves.json", tmp_path / "plots"
    monkeypatch.setattr("sys.argv", ["curves", "--json", str(written), "--plots", str(plots)])
    program.main()
    cells = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()
    ]
    # Tokens a second of what was answered; one request of each point failed.
    assert ["64", "8192", "10", "10", "10", "1"] in cells
    assert {file.name for file in plots.iterdir()} == {"streams.png", "prompt.png"}
    content = json.loads(written.read_text())
    assert [curve["fixed"] for curve in content["curves"]] == ["what is fixed", "else"]
    _, (streams, first) = fit_file(content)
    assert [x for x, _, _ in streams.points] == [1, 4, 64]
    # Lengths are as they were counted.
    assert [x for x, _, _ in first.points] == [64, 128, 256, 512]
