"""Arrivals at random, and out of files."""

import itertools
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.bench.serving.arrivals import TRACE_FORM, Arrival, poisson, read_trace
from octet.bench.serving.orders import Kind


@given(st.floats(0.1, 200), st.floats(0.1, 20), st.integers())
def test_poisson_is_in_order_and_in_time(rate: float, seconds: float, seed: int) -> None:
    moments = poisson(rate, seconds, random.Random(seed))
    assert moments == sorted(moments)
    assert all(0 <= moment < seconds for moment in moments)
    assert moments == poisson(rate, seconds, random.Random(seed))


def test_poisson_has_its_rate_and_no_memory() -> None:
    moments = poisson(50, 400, random.Random(3))
    assert len(moments) == pytest.approx(20_000, rel=0.03)
    gaps = [later - sooner for sooner, later in itertools.pairwise(moments)]
    # Of an exponential distribution the deviation is the mean, and exp(-1) of it is above.
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.05)
    assert sum(gap > mean for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join(f"{json.dumps(line) if not isinstance(line, str) else line}\n" for line in lines))
    return path


def test_a_trace_is_read_by_time(tmp_path: Path) -> None:
    file = write(
        tmp_path / "trace.jsonl",
        {"arrival_s": 2, "prompt_tokens": 7, "answer_tokens": 8, "kind": "picture"},
        "",
        {"arrival_s": 0.5, "prompt_tokens": 5, "answer_tokens": 6},
        TRACE_FORM,
    )
    assert read_trace(file) == [
        Arrival(0.25, 512, 128, Kind.TEXT),
        Arrival(0.5, 5, 6, Kind.TEXT),
        Arrival(2.0, 7, 8, Kind.PICTURE),
    ]


GOOD = {"arrival_s": 1, "prompt_tokens": 7, "answer_tokens": 8}


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{", "trace.jsonl:2: Expecting"),
        ("[1]", "trace.jsonl:2: not an object"),
        ({"arrival_s": 1, "prompt_tokens": 7}, "answer_tokens is missing"),
        ({**GOOD, "timestamp": 4}, "timestamp is not known"),
        ({**GOOD, "arrival_s": -1}, "arrival_s is -1"),
        ({**GOOD, "arrival_s": True}, "arrival_s is True"),
        ('{"arrival_s": NaN, "prompt_tokens": 1, "answer_tokens": 1}', "arrival_s is nan"),
        ('{"arrival_s": Infinity, "prompt_tokens": 1, "answer_tokens": 1}', "arrival_s is inf"),
        ({**GOOD, "prompt_tokens": 0}, "prompt_tokens is 0"),
        ({**GOOD, "answer_tokens": 1.5}, "answer_tokens is 1.5"),
        ({**GOOD, "answer_tokens": True}, "answer_tokens is True"),
        ({**GOOD, "kind": "video"}, "kind is 'video', not one of text, picture, tools"),
        ({**GOOD, "kind": ["text"]}, "kind is ['text']"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: object, sentence: str) -> None:
    file = write(tmp_path / "trace.jsonl", GOOD, line, GOOD)
    with pytest.raises(ValueError) as error:
        read_trace(file)
    assert sentence in str(error.value)
    assert str(error.value).endswith(f"a line is {TRACE_FORM}")


def test_an_empty_trace(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no arrival"):
        read_trace(write(tmp_path / "trace.jsonl", ""))
