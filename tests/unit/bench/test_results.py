"""The page of results, out of files such as the programs write."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import results
from bench.capacity.law import Law, answers_per_s
from bench.versions import versions
from octet.bench import machine

LAW = Law(0.002, 5e-5, 1e-8, 0.02, 0.003, 1e-4, 1e-8)


def turn(first: float, per_token: float, rate: float, prompt: float) -> dict[str, Any]:
    return {
        "statuses": {"OK": 4},
        "prompt_tokens": 4 * prompt,
        "tokens_per_s": 64 * rate,
        "answers_per_s": rate,
        "first_text_s": {"count": 4, "p50": first, "p90": first, "p99": first},
        "per_token_s": {"count": 4, "p50": per_token},
        "gap_s": {"count": 4, "p50": per_token},
    }


def curve(name: str, points: dict[int, dict[str, Any]]) -> dict[str, Any]:
    listed = [{"x": x, "turns": [each]} for x, each in points.items()]
    return {"name": name, "axis": f"axis of {name}", "fixed": f"fixed of {name}", "points": listed}


def row(speed: float, share: float, text: float | None, front: float) -> dict[str, Any]:
    return {
        "speed": speed, "best": speed, "of_engine": share, "first_token": 20.0, "first_text": text,
        "step": 4.0, "front": front, "whole": 200.0, "failed": 0,
    }  # fmt: skip


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    described = machine.describe("cpu")
    head = {"machine": described, "versions": versions()}
    rates = {s: answers_per_s(LAW, s, 32, 64) for s in (1, 8, 64)}
    lengths = (64, 512, 1900)
    curves = [
        curve("streams", {s: turn(0.01, 0.004, rate, 32) for s, rate in rates.items()}),
        curve("prompt", {n: turn(LAW.first_text(n), LAW.step(1, n), 1, n) for n in lengths}),
        curve("pictures", {k: turn(LAW.first_text(32, k), 0.004, 1, 32) for k in (0, 1, 2)}),
        curve("direct", {1: turn(0.01, 0.004, 20, 32)}),
        curve("replicas", {1: turn(0.01, 0.004, 19, 32), 2: turn(0.01, 0.004, 28.5, 32)}),
    ]
    peers = {
        **head,
        "answer_tokens": 128,
        "prompt_tokens": 32,
        "cores": "0,1",
        "titles": {"engine": "the engine alone", "octet": "Octet"},
        "levels": [
            {
                "streams": 32,
                "rows": {"engine": row(5000, 1.0, None, 10.0), "octet": row(4900, 0.98, 25.0, 42.5)},
                "turns": {"engine": [{}, {}, {}], "octet": [{}, {}, {}]},
            }
        ],
    }
    written = tmp_path / "peers.json", tmp_path / "curves.json"
    for file, content in zip(written, (peers, {**head, "flags": [], "curves": curves}), strict=True):
        file.write_text(json.dumps(content))
    return written


def test_the_page(files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    peers, curves = files
    page = tmp_path / "RESULTS.md"
    arguments = ["results", "--peers", str(peers), "--curves", str(curves), "--page", str(page)]
    monkeypatch.setattr("sys.argv", arguments)
    results.main()
    text = page.read_text()
    # Machine and versions, once.
    assert text.count(machine.summary(machine.describe("cpu"))) == 1
    assert "medians of 3 turns" in text
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert ["32", "Octet", "4900"] in [each[:3] for each in cells]
    assert ["tokens/s at 32 at least 97% of the engine alone", "98.0%", "yes"] in cells
    assert ["server at 32 at most 35 us a streamed token", "42.5 us", "no"] in cells
    # The law that the points were made by.
    assert "0% off in the median" in text
    assert "20.0 ms each" in text
    assert "one behind Envoy streams 95% of what it does without; against one, 2: 1.50x" in text
    assert "A front takes 42.5 us for a streamed token" in text
    assert "Computed out of data sheets and assumptions, not measured" in text
    assert "## What was not measured" in text
    plots = re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text)
    assert plots == [f"results/{name}.png" for name in ("streams", "prompt", "pictures", "replicas")]
    for plot in plots:
        assert (tmp_path / plot).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert max(map(len, text.splitlines())) < 400
