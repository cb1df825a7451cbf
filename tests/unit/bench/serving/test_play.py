"""Loads on a scripted target: who is asked when, and what counts."""

import asyncio
import io
import json
from typing import Any

import pytest
from rich.console import Console

from octet.bench.serving import report
from octet.bench.serving.arrivals import Arrival
from octet.bench.serving.lengths import Fixed
from octet.bench.serving.orders import Kind, Order
from octet.bench.serving.play import Outcome, closed, open_ended
from octet.bench.serving.run import Closed, Open, Settings, Trace, failed_share, run
from octet.bench.serving.target import Failure, Form
from tests.unit.bench.serving.scripted import Scripted, Silent


def work(target: Scripted, count: int, *, dues: list[float] | None = None, tokens: int = 3) -> list[Any]:
    orders = [
        Order(number, Kind.TEXT, 8, tokens, None if dues is None else dues[number]) for number in range(count)
    ]
    return [(order, target.prepare(order, Form())) for order in orders]


@pytest.mark.parametrize(("streams", "count"), [(1, 5), (3, 10), (8, 3)])
async def test_a_closed_loop_keeps_so_many_going(streams: int, count: int) -> None:
    target = Scripted()
    noted: list[Outcome] = []
    load = await closed(target, work(target, count), streams, noted.append)
    assert noted == load.outcomes
    assert sorted(outcome.order.number for outcome in load.outcomes) == list(range(count))
    assert target.most == min(streams, count)
    assert load.seconds == max(outcome.ended for outcome in load.outcomes)
    for outcome in load.outcomes:
        assert outcome.due <= outcome.sent <= outcome.pieces[0] <= outcome.ended
        assert outcome.first_text == outcome.pieces[0]
        assert len(outcome.pieces) == 3


async def test_an_open_loop_waits_for_nobody_and_counts_from_the_arrival() -> None:
    """A target that answers nobody until all have been sent, later than most were due."""
    target = Scripted()
    target.gate.clear()
    dues = [0.0, 0.005, 0.01, 0.01, 0.02]

    async def release() -> None:
        while len(target.asked) < len(dues):  # noqa: ASYNC110
            await asyncio.sleep(0)
        target.gate.set()

    releasing = asyncio.create_task(release())
    load = await open_ended(target, work(target, len(dues), dues=dues), lambda outcome: None)
    await releasing
    assert target.most == len(dues)
    by_number = sorted(load.outcomes, key=lambda outcome: outcome.order.number)
    assert [outcome.due for outcome in by_number] == dues
    last_sent = max(outcome.sent for outcome in by_number)
    for outcome in by_number:
        assert outcome.sent >= outcome.due
        assert outcome.pieces[0] >= last_sent


async def test_a_load_program_that_is_late_says_so_in_the_times() -> None:
    """What hinders the sending counts as waiting: nothing is left out because it was not sent."""
    target = Scripted()
    blocked = 0.05

    async def hinder() -> None:
        import time

        time.sleep(blocked)  # noqa: ASYNC251

    hindering = asyncio.create_task(hinder())
    load = await open_ended(target, work(target, 3, dues=[0.0, 0.01, 0.02]), lambda outcome: None)
    await hindering
    assert [outcome.due for outcome in load.outcomes] == [0.0, 0.01, 0.02]
    assert load.outcomes[-1].sent - load.outcomes[-1].due >= blocked - 0.02 - 0.001


async def test_failures_are_counted_and_do_not_stop_a_stream() -> None:
    target = Scripted()
    target.fails = {1: "UNAVAILABLE", 2: "HTTP 429", 5: "UNAVAILABLE"}
    load = await closed(target, work(target, 8), 2, lambda outcome: None)
    failed = {o.order.number: (o.status, o.message) for o in load.outcomes if o.status != "OK"}
    assert failed == {
        1: ("UNAVAILABLE", "number 1"),
        2: ("HTTP 429", "number 2"),
        5: ("UNAVAILABLE", "number 5"),
    }
    assert all(outcome.usage is None for outcome in load.outcomes if outcome.status != "OK")


async def test_levels_are_measured_in_turns_with_words_of_their_own() -> None:
    target, silent = Scripted(), Silent()
    settings = Settings(
        levels=[Closed(2), Open(200.0)],
        turns=2,
        prompt=Fixed(20),
        answer=Fixed(3),
        requests=6,
        seconds=0.05,
        warm_up=2,
    )
    measured = await run(target, settings, silent)
    arrived = len(settings.orders(settings.levels[1]))
    assert silent.begun == [
        ("warming up", 2),
        *[
            (f"{level}, turn {turn} of 2", requests)
            for turn in (1, 2)
            for level, requests in (("2 streams", 6), ("200 a second", arrived))
        ],
    ]
    assert [each.level for each in measured] == settings.levels
    assert [figures.requests for each in measured for figures in each.turns] == [6, 6, arrived, arrived]
    assert failed_share(measured) == 0
    # Two to learn what words are, then prompts of 20 tokens: 17 words, for three come on top.
    counting, asked = target.asked[:2], target.asked[2:]
    assert [len(text.split()) for text in counting] == [8, 72]
    assert {len(text.split()) for text in asked} == {17}
    assert len(set(asked)) == len(asked)
    assert measured[0].turns[0].prompt_tokens == 6 * 20


async def test_a_trace_says_all() -> None:
    target = Scripted()
    arrivals = (Arrival(0.0, 10, 2, Kind.TEXT), Arrival(0.002, 30, 4, Kind.TOOLS))
    [measured] = await run(target, Settings(levels=[Trace(arrivals)], warm_up=0), Silent())
    [figures] = measured.turns
    assert (figures.prompt_tokens, figures.answer_tokens) == (40, 6)


async def test_a_target_that_does_not_answer() -> None:
    target = Scripted()
    target.unreachable = True
    with pytest.raises(Failure, match="UNAVAILABLE: nobody is there"):
        await run(target, Settings(levels=[Closed(1)]), Silent())


async def test_the_report_shows_what_failed() -> None:
    target = Scripted()
    target.fails = {0: "UNAVAILABLE", 3: "HTTP 429"}
    settings = Settings(levels=[Closed(2)], turns=2, answer=Fixed(3), requests=5, warm_up=0)
    measured = await run(target, settings, Silent())
    assert failed_share(measured) == pytest.approx(0.4)
    file = io.StringIO()
    report.print_report(Console(width=200, file=file), target.title, settings, measured)
    shown = file.getvalue()
    assert "2 streams, turn 1: 1 of 5 failed with UNAVAILABLE: number 0" in shown
    assert "2 streams, turn 2: 1 of 5 failed with HTTP 429: number 3" in shown
    assert "| 2 streams |       10 |      4 |" in shown
    written = json.loads(json.dumps(report.as_json(target.title, settings, measured), allow_nan=False))
    [level] = written["levels"]
    assert level["streams"] == 2
    assert [turn["statuses"] for turn in level["turns"]] == [{"OK": 3, "UNAVAILABLE": 1, "HTTP 429": 1}] * 2
