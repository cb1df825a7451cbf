"""The peers side by side, and whether Octet is where it is to be."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.table import Table

from bench.peers.cpu import Spent
from octet.bench.serving.figures import Figures

ENGINE, OCTET = "engine", "octet"


@dataclass(frozen=True, slots=True)
class Turn:
    """One turn of a peer at one level.

    Attributes:
        figures: what came of its bursts, put together.
        spent: processor seconds that its processes took.
        others_share: processor seconds that the other peers' processes took meanwhile, a second.
    """

    figures: Figures
    spent: Spent
    others_share: float

    @property
    def speed(self) -> float:
        """Tokens a second."""
        return self.figures.a_second(self.figures.answer_tokens)

    def per_token(self, seconds: float) -> float:
        """Seconds in all, as microseconds for each streamed token."""
        return 1e6 * seconds / self.figures.answer_tokens if self.figures.answer_tokens else float("nan")

    def as_json(self) -> dict[str, Any]:
        """The same as JSON values."""
        return {
            **self.figures.as_json(),
            "front_us_per_token": self.per_token(self.spent.front),
            "whole_us_per_token": self.per_token(self.spent.whole),
            "others_share": self.others_share,
        }


Turns = Mapping[int, Mapping[str, Sequence[Turn]]]
"""The turns by level (streams) and by peer."""


@dataclass(frozen=True, slots=True)
class Row:
    """A peer at a level: medians of its turns, and its best; times in milliseconds.

    Attributes:
        speed: tokens a second.
        best: of the turns.
        of_engine: speed by the engine's of the same turn; None where the engine alone was not measured.
        first_token: median of the answers.
        first_text: likewise; None where token ids come.
        step: between two pieces, median.
        front: microseconds of the asked process for each token.
        whole: of all processes.
        failed: requests, of all turns.
    """

    speed: float
    best: float
    of_engine: float | None
    first_token: float
    first_text: float | None
    step: float
    front: float
    whole: float
    failed: int


def row_of(peers: Mapping[str, Sequence[Turn]], name: str) -> Row:
    """One peer at one level."""
    turns = peers[name]

    def middle(figure: Callable[[Turn], float]) -> float:
        return statistics.median(figure(turn) for turn in turns)

    of_engine = None
    if ENGINE in peers:
        pairs = zip(turns, peers[ENGINE], strict=True)
        of_engine = statistics.median(turn.speed / engine.speed for turn, engine in pairs)
    shown = any(turn.figures.first_text.count for turn in turns)
    return Row(
        speed=middle(lambda turn: turn.speed),
        best=max(turn.speed for turn in turns),
        of_engine=of_engine,
        first_token=middle(lambda turn: 1e3 * turn.figures.first_token.percentiles[50]),
        first_text=middle(lambda turn: 1e3 * turn.figures.first_text.percentiles[50]) if shown else None,
        step=middle(lambda turn: 1e3 * turn.figures.gap.percentiles[50]),
        front=middle(lambda turn: turn.per_token(turn.spent.front)),
        whole=middle(lambda turn: turn.per_token(turn.spent.whole)),
        failed=sum(turn.figures.requests - turn.figures.answered for turn in turns),
    )


Rows = Mapping[int, Mapping[str, Row]]
"""The same by level and by peer."""


def rows_of(turns: Turns) -> dict[int, dict[str, Row]]:
    """What all turns come to."""
    return {streams: {name: row_of(peers, name) for name in peers} for streams, peers in turns.items()}


def table(rows: Rows, titles: Mapping[str, str]) -> Table:
    """The peers, level by level."""
    rendered = Table(box=box.MARKDOWN)
    for title in ("at once", "server"):
        rendered.add_column(title)
    for title in (
        "tokens/s",
        "best",
        "of the engine",
        "first token, ms",
        "first text, ms",
        "to the engine's first token",
        "step, ms",
        "front, us/token",
        "whole, us/token",
    ):
        rendered.add_column(title, justify="right")
    for streams, peers in rows.items():
        engine = peers.get(ENGINE)
        for name, row in peers.items():
            first = row.first_token if row.first_text is None else row.first_text
            rendered.add_row(
                str(streams),
                titles[name] + (f" ({row.failed} failed)" if row.failed else ""),
                f"{row.speed:.0f}",
                f"{row.best:.0f}",
                "" if row.of_engine is None else f"{row.of_engine:.1%}",
                f"{row.first_token:.1f}",
                "" if row.first_text is None else f"{row.first_text:.1f}",
                ""
                if engine is None
                else f"{first - engine.first_token:+.1f} ms, {first / engine.first_token:.2f}x",
                f"{row.step:.2f}",
                f"{row.front:.1f}",
                f"{row.whole:.1f}",
            )
    return rendered


@dataclass(frozen=True, slots=True)
class Aim:
    """What Octet is to reach.

    Attributes:
        what: in words.
        measured: the figure, in words.
        met: whether it is reached.
    """

    what: str
    measured: str
    met: bool


_SPEEDS = {1: 0.97, 8: 0.97, 32: 0.97, 64: 0.95}
_FRONT_US = 35.0
_FIRST_TEXT_MS = 2.0
_FIRST_TEXT_TIMES = 1.3


def aims(rows: Rows) -> list[Aim]:
    """The aims at the levels that were measured, where both Octet and the engine alone were."""
    both = {
        streams: (peers[OCTET], peers[ENGINE])
        for streams, peers in rows.items()
        if OCTET in peers and ENGINE in peers
    }
    found = [_speed(streams, octet) for streams, (octet, _) in both.items() if streams in _SPEEDS]
    if 1 in both:
        found.append(_first_text_of_one(*both[1]))
    if 32 in both:
        octet, engine = both[32]
        times = (octet.first_text or octet.first_token) / engine.first_token
        what = f"first text at 32 at most {_FIRST_TEXT_TIMES} times the engine's first token"
        found.append(Aim(what, f"{times:.2f}", times <= _FIRST_TEXT_TIMES))
        what = f"server at 32 at most {_FRONT_US:.0f} us a streamed token"
        found.append(Aim(what, f"{octet.front:.1f} us", octet.front <= _FRONT_US))
    return found


def _speed(streams: int, octet: Row) -> Aim:
    aim, reached = _SPEEDS[streams], octet.of_engine or 0.0
    return Aim(
        f"tokens/s at {streams} at least {aim:.0%} of the engine alone", f"{reached:.1%}", reached >= aim
    )


def _first_text_of_one(octet: Row, engine: Row) -> Aim:
    later = (octet.first_text or octet.first_token) - engine.first_token
    most = engine.step + _FIRST_TEXT_MS
    what = (
        f"first text at 1 at most a step and {_FIRST_TEXT_MS:.0f} ms ({most:.1f} ms) after the engine's token"
    )
    return Aim(what, f"{later:.1f} ms", later <= most)


def aims_table(found: Sequence[Aim]) -> Table:
    """The aims, with what was reached."""
    rendered = Table(box=box.MARKDOWN)
    rendered.add_column("aim")
    rendered.add_column("measured", justify="right")
    rendered.add_column("met")
    for aim in found:
        rendered.add_row(aim.what, aim.measured, "yes" if aim.met else "no")
    return rendered
