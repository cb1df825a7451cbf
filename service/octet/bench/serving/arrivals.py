"""When requests come: at random moments, or as a trace file says."""

import json
import math
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from octet.bench.serving.orders import Kind

TRACE_FORM = '{"arrival_s": 0.25, "prompt_tokens": 512, "answer_tokens": 128, "kind": "text"}'
"""A line of a trace file; `kind` may be left out."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A line of a trace.

    Attributes:
        seconds: after the trace's beginning.
        prompt_tokens: length of the prompt.
        answer_tokens: length of the answer.
        kind: what is asked.
    """

    seconds: float
    prompt_tokens: int
    answer_tokens: int
    kind: Kind


def poisson(rate: float, seconds: float, chance: random.Random) -> list[float]:
    """Moments of a Poisson process: independent of each other, `rate` a second on average.

    Args:
        rate: arrivals a second, above 0.
        seconds: until when they come.
        chance: what decides.

    Returns:
        Seconds from 0 to `seconds`, in order.
    """
    moments = []
    moment = chance.expovariate(rate)
    while moment < seconds:
        moments.append(moment)
        moment += chance.expovariate(rate)
    return moments


def read_trace(path: Path) -> list[Arrival]:
    """Reads a trace: JSON lines as `TRACE_FORM`, in any order; empty lines say nothing.

    Returns:
        The arrivals, by time.

    Raises:
        OSError: the file cannot be read.
        ValueError: with the file, the line's number and what is wrong with it.
    """
    arrivals = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.strip():
            try:
                arrivals.append(_arrival(json.loads(line)))
            except ValueError as error:
                raise ValueError(f"{path}:{number}: {error}; a line is {TRACE_FORM}") from None
    if not arrivals:
        raise ValueError(f"{path} holds no arrival; a line is {TRACE_FORM}")
    return sorted(arrivals, key=lambda arrival: arrival.seconds)


def _arrival(line: Any) -> Arrival:
    if not isinstance(line, dict):
        raise ValueError("not an object")  # noqa: TRY004
    fields = dict(line)
    try:
        seconds, prompt, answer = (
            fields.pop(name) for name in ("arrival_s", "prompt_tokens", "answer_tokens")
        )
    except KeyError as error:
        raise ValueError(f"{error.args[0]} is missing") from None
    kind = fields.pop("kind", Kind.TEXT.value)
    if fields:
        raise ValueError(f"{', '.join(sorted(fields))} is not known")
    if not _is_number(seconds) or not 0 <= seconds < math.inf:
        raise ValueError(f"arrival_s is {seconds!r}, not seconds from 0 on")
    for name, tokens in (("prompt_tokens", prompt), ("answer_tokens", answer)):
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise ValueError(f"{name} is {tokens!r}, not a number of tokens from 1 on")
    if kind not in list(Kind):
        raise ValueError(f"kind is {kind!r}, not one of {', '.join(Kind)}")
    return Arrival(float(seconds), prompt, answer, Kind(kind))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
