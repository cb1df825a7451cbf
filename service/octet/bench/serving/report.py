"""What came of loads, as tables for people and as JSON."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from octet.bench import machine
from octet.bench.serving.figures import PERCENTILES, Figures, Spread, Turns
from octet.bench.serving.play import OK
from octet.bench.serving.run import Measured, Settings, Trace

SPREADS: dict[str, Callable[[Figures], Spread]] = {
    "first token": lambda figures: figures.first_token,
    "first text": lambda figures: figures.first_text,
    "a token": lambda figures: figures.per_token,
    "between pieces": lambda figures: figures.gap,
    "whole answer": lambda figures: figures.total,
}
"""What has percentiles, by the name in tables."""

_BUSY = 0.85
"""Of a core that this program's loop takes: above it, what is measured may be the program."""
_LATE_S = 0.01


def print_report(console: Console, title: str, settings: Settings, measured: Sequence[Measured]) -> None:
    """Prints the tables, what has failed, and where the load program itself was slow."""
    console.print(f"{title}; this program on: {machine.host_summary(machine.host())}")
    if settings.turns > 1:
        console.print(f"medians of {settings.turns} turns (least-most)")
    console.print(_throughput(settings, measured))
    console.print(_latencies(measured))
    for line in (*_failures(measured), *_doubts(measured)):
        console.print(line, soft_wrap=True)


def _throughput(settings: Settings, measured: Sequence[Measured]) -> Table:
    table = Table(box=box.MARKDOWN)
    titles = ["load", "requests", "failed", "prompt tokens", "tokens/s", "answers/s"]
    if settings.objective is not None:
        titles += [f"goodput/s ({settings.objective})", "of all"]
    for title in titles:
        table.add_column(title, justify="right")
    for each in measured:
        turns = each.turns
        cells = [
            str(each.level),
            str(sum(figures.requests for figures in turns)),
            str(sum(figures.requests - figures.answered for figures in turns)),
            _cell(turns, lambda f: f.prompt_tokens / f.answered if f.answered else math.nan),
            _cell(turns, lambda f: f.a_second(f.answer_tokens)),
            _cell(turns, lambda f: f.a_second(f.answered)),
        ]
        if settings.objective is not None:
            cells.append(_cell(turns, lambda f: f.a_second(f.met or 0)))
            cells.append(_cell(turns, lambda f: 100 * (f.met or 0) / f.requests, " %"))
        table.add_row(*cells)
    return table


def _latencies(measured: Sequence[Measured]) -> Table:
    table = Table(box=box.MARKDOWN)
    for title in ("load", "ms"):
        table.add_column(title)
    for title in (*(f"p{percent}" for percent in PERCENTILES), "longest"):
        table.add_column(title, justify="right")
    for each in measured:
        for name, spread in SPREADS.items():
            if not any(spread(figures).count for figures in each.turns):
                continue
            cells = [
                _cell(each.turns, lambda f, p=percent, s=spread: 1e3 * s(f).percentiles[p])  # type: ignore[misc]
                for percent in PERCENTILES
            ]
            longest = _cell(each.turns, lambda f, s=spread: 1e3 * s(f).most)  # type: ignore[misc]
            table.add_row(str(each.level), name, *cells, longest)
    return table


def _cell(turns: Sequence[Figures], figure: Callable[[Figures], float], unit: str = "") -> str:
    over = Turns.of(map(figure, turns))
    if math.isnan(over.middle):
        return ""
    shown = f"{_short(over.middle)}{unit}"
    return shown if len(turns) == 1 else f"{shown} ({_short(over.least)}-{_short(over.most)})"


def _short(value: float) -> str:
    """Three digits, and no fewer than stand before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _failures(measured: Sequence[Measured]) -> list[str]:
    lines = []
    for each in measured:
        for turn, figures in enumerate(each.turns, start=1):
            for status, number in sorted(figures.statuses.items()):
                if status != OK:
                    lines.append(
                        f"{each.level}, turn {turn}: {number} of {figures.requests} failed with {status}: "
                        f"{figures.messages[status]}"
                    )
    return lines


def _doubts(measured: Sequence[Measured]) -> list[str]:
    lines = []
    for each in measured:
        busy = max(figures.client_share for figures in each.turns)
        late = max(figures.lag.percentiles[99] for figures in each.turns)
        if busy > _BUSY:
            lines.append(
                f"{each.level}: this program took {busy:.0%} of a core: it may be what limits; "
                "share the load out to several"
            )
        if late > _LATE_S:
            lines.append(
                f"{each.level}: this program sent 1 % of the requests {late * 1e3:.0f} ms or more late, "
                "which their times include"
            )
    return lines


def as_json(title: str, settings: Settings, measured: Sequence[Measured]) -> dict[str, Any]:
    """Everything, as JSON values; times in seconds."""
    return {
        "target": title,
        "client": machine.host(),
        "settings": {
            "turns": settings.turns,
            "mix": dict(settings.mix),
            "prompt_tokens": repr(settings.prompt),
            "answer_tokens": repr(settings.answer),
            "warm_up": settings.warm_up,
            "seed": settings.seed,
            "temperature": settings.form.temperature,
            "may_end": settings.form.may_end,
            "pictures": settings.form.pictures,
            "picture_side": settings.form.picture_side,
            "objective_s": None if settings.objective is None else dict(settings.objective.limits),
        },
        "levels": [
            {
                "level": str(each.level),
                **({} if isinstance(each.level, Trace) else asdict(each.level)),
                "turns": [figures.as_json() for figures in each.turns],
            }
            for each in measured
        ],
    }
