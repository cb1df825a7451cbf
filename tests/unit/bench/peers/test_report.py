"""Peers side by side: what their turns come to."""

import io
import json
import os
import time
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from bench.peers import __main__ as program
from bench.peers import bursts, report
from bench.peers.bursts import Job
from bench.peers.cpu import Spent, snapshot, spent
from bench.peers.lines import packed, unpacked
from bench.peers.report import Turn
from octet.bench.serving.figures import Figures
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import Load, Outcome
from octet.bench.serving.target import Form, Usage
from tests.unit.bench.serving.scripted import Scripted

TITLES = {"engine": "the engine alone", "octet": "Octet"}


def turn(
    tokens: int, seconds: float, first: float, step: float, *, shows: bool = False, front: float = 0.0
) -> Turn:
    """A turn of one answer, with so many pieces that come a step apart."""
    pieces = [first + number * step for number in range(3)]
    outcome = Outcome(
        Order(0, Kind.TEXT, 8, tokens), 0.0, 0.0, pieces[-1], "OK", "", pieces,
        first + 0.001 if shows else None, Usage(8, tokens),
    )  # fmt: skip
    return Turn(Figures.of([Load([outcome], seconds, 0.1)]), Spent(front, 2 * front), 0.02)


def test_a_peer_is_compared_turn_by_turn() -> None:
    """The machine is half as fast in the second turn; the share is not."""
    peers = {
        "engine": [turn(100, 1.0, 0.005, 0.004), turn(100, 2.0, 0.010, 0.008), turn(100, 1.0, 0.005, 0.004)],
        "octet": [
            turn(90, 1.0, 0.006, 0.004, shows=True, front=0.0045),
            turn(96, 2.0, 0.012, 0.008, shows=True, front=0.0096),
            turn(95, 1.0, 0.007, 0.004, shows=True, front=0.0019),
        ],
    }
    row = report.row_of(peers, "octet")
    assert row.of_engine == pytest.approx(0.95)
    assert (row.speed, row.best) == (pytest.approx(90), pytest.approx(95))
    assert row.first_token == pytest.approx(7)
    assert row.first_text == pytest.approx(8)
    assert row.step == pytest.approx(4)
    assert (row.front, row.whole) == (pytest.approx(50), pytest.approx(100))
    assert report.row_of(peers, "engine").first_text is None
    file = io.StringIO()
    Console(file=file, width=220).print(report.table(report.rows_of({1: peers}), TITLES))
    assert "95.0%" in file.getvalue()
    assert "+3.0 ms, 1.60x" in file.getvalue()


@pytest.mark.parametrize(
    ("speed", "first", "front", "met"),
    [
        (97.0, 0.0128, 34.0, [True, True, True]),
        (96.9, 0.0121, 35.5, [False, True, False]),
        (99.0, 0.0131, 10.0, [True, False, True]),
    ],
)
def test_aims_at_32(speed: float, first: float, front: float, met: list[bool]) -> None:
    # A piece is shown 1 ms after it has come.
    octet = turn(1000, 1000 / speed, first - 0.001, 0.004, shows=True, front=front * 1e-6 * 1000)
    peers = {"engine": [turn(1000, 10.0, 0.010, 0.004)], "octet": [octet]}
    assert [aim.met for aim in report.aims(report.rows_of({32: peers}))] == met


@pytest.mark.parametrize(("later", "met"), [(0.0059, True), (0.0061, False)])
def test_first_text_of_one_stream(later: float, met: bool) -> None:
    """A step of 4 ms, and 2."""
    octet = turn(100, 1.0, 0.005 + later - 0.001, 0.004, shows=True)
    peers = {"engine": [turn(100, 1.0, 0.005, 0.004)], "octet": [octet]}
    [speed, text] = report.aims(report.rows_of({1: peers}))
    assert (speed.met, text.met) == (True, met)


def test_aims_need_both() -> None:
    assert report.aims(report.rows_of({1: {"octet": [turn(1, 1.0, 1.0, 1.0)]}})) == []
    assert report.row_of({"octet": [turn(1, 1.0, 1.0, 1.0)]}, "octet").of_engine is None


@pytest.mark.parametrize(("streams", "times"), [(1, 8), (3, 2), (8, 2), (64, 2)])
async def test_bursts_begin_together_and_have_prompts_of_their_own(streams: int, times: int) -> None:
    target = Scripted()
    job = Job.of(streams, 12, 3, "salt")
    prepared = bursts.prepare(target, Form(), job)
    assert [len(burst) for burst in prepared] == [streams] * times
    loads = await bursts.play(target, prepared)
    assert [len(load.outcomes) for load in loads] == [streams] * times
    assert target.most == streams
    assert len(set(target.asked)) == streams * times
    assert unpacked(packed(loads)) == loads


def test_processor_time_of_a_process_and_of_what_it_starts() -> None:
    this = psutil.Process()
    before = snapshot(this)
    began = time.process_time()
    while time.process_time() - began < 0.05:
        pass
    taken = spent(this, before)
    # The kernel counts in ticks of 10 ms.
    assert 0.03 <= taken.front <= taken.whole
    assert before.keys() >= {os.getpid()}


def test_the_program_prints_and_writes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    turns = [turn(100, 1.0, 0.005, 0.004)]
    shown = [turn(98, 1.0, 0.009, 0.004, shows=True, front=0.003)]

    async def measure(*_: object) -> object:
        return {1: {"engine": turns, "octet": shown}}

    monkeypatch.setattr(program, "measure", measure)
    written = tmp_path / "peers.json"
    monkeypatch.setattr("sys.argv", ["peers", "--turns", "1", "--json", str(written)])
    program.main()
    printed = capsys.readouterr().out
    assert "98.0%" in printed
    assert "first text at 1 at most a step and 2 ms (6.0 ms) after the engine's token" in printed
    assert "the peers that waited took 2.0% of a core at most" in printed
    content = json.loads(written.read_text())
    [level] = content["levels"]
    assert {name: report.Row(**row) for name, row in level["rows"].items()} == report.rows_of(
        {1: {"engine": turns, "octet": shown}}
    )[1]
    assert level["turns"]["octet"][0]["front_us_per_token"] == pytest.approx(0.003e6 / 98)
    assert content["versions"].keys() >= {"Python", "grpcio", "torch"}


def test_only_peers_that_there_are(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["peers", "--only", "nobody"])
    with pytest.raises(SystemExit):
        program.main()
    assert "invalid choice: 'nobody'" in capsys.readouterr().err
