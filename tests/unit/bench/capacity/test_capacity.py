"""Formulas of capacity: that fitting finds what was put in, and that computed nodes keep their limits."""

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.capacity.__main__ import FRONT_US, front_of
from bench.capacity.law import Law, answers_per_s, fit, token_s
from bench.capacity.paper import (
    GPUS,
    WORKLOADS,
    Assumptions,
    Front,
    Geometry,
    Gpu,
    Replica,
    Workload,
    node,
    nodes_for,
)
from bench.curves.sweeps import prompt_lengths

LAWS = st.builds(
    Law,
    request=st.floats(1e-4, 1e-2),
    token=st.floats(1e-6, 1e-4),
    pair=st.floats(1e-10, 1e-8),
    picture=st.floats(1e-3, 0.1),
    fixed=st.floats(1e-3, 1e-2),
    sequence=st.floats(1e-5, 1e-3),
    cached=st.floats(1e-9, 1e-7),
)
REPLICAS = st.builds(
    Replica, st.just(Geometry()), st.sampled_from(GPUS), st.sampled_from([1, 2, 4]), st.just(Assumptions())
)


def measured(law: Law, prompt: int, answer: int) -> dict[str, Any]:
    """The curves of a server that keeps to a law."""

    def turn(first: float, per_token: float, rate: float, length: float) -> dict[str, Any]:
        return {
            "statuses": {"OK": 4},
            "prompt_tokens": 4 * length,
            "first_text_s": {"p50": first},
            "per_token_s": {"p50": per_token},
            "answers_per_s": rate,
        }

    def curve(name: str, points: list[tuple[int, dict[str, Any]]]) -> dict[str, Any]:
        return {"name": name, "points": [{"x": x, "turns": [turn]} for x, turn in points]}

    streams = [(s, turn(0, 0, answers_per_s(law, s, prompt, answer), prompt)) for s in (1, 4, 16, 64)]
    lengths = [(n, turn(law.first_text(n), law.step(1, n), 0, n)) for n in (64, 256, 1024, 1900)]
    pictures = [(k, turn(law.first_text(prompt, k), 0, 0, prompt)) for k in (0, 1, 2, 4)]
    named = {"streams": streams, "prompt": lengths, "pictures": pictures}
    return {name: curve(name, points) for name, points in named.items()}


@given(LAWS)
def test_fitting_finds_the_law(law: Law) -> None:
    found, checks = fit(measured(law, 32, 64), 32, 64)
    for check in checks:
        assert max(check.errors) < 1e-3, check
    assert found.fixed == pytest.approx(law.fixed, rel=1e-3)
    assert found.request == pytest.approx(law.request, rel=1e-2, abs=1e-6)
    assert found.picture == pytest.approx(law.picture, rel=1e-3)
    assert found.sequence == pytest.approx(law.sequence, rel=1e-2, abs=1e-6)


def test_errors_are_shares_of_what_was_measured() -> None:
    law = Law(0, 1e-5, 0, 0, 1e-3, 1e-4, 0)
    curves = measured(law, 32, 64)
    curves["streams"]["points"][-1]["turns"][0]["answers_per_s"] /= 2
    _, (streams, first, _) = fit(curves, 32, 64)
    assert max(streams.errors) > 0.1
    assert max(first.errors) < 1e-3
    assert "at most" in streams.in_words()


def test_what_scatters_has_no_square() -> None:
    """Prompts whose time grows less and less, and steps that are shorter with longer ones."""
    curves = measured(Law(0.001, 1e-5, 0, 0.01, 1e-3, 1e-4, 0), 32, 64)
    for point, first, step in zip(
        curves["prompt"]["points"], (0.01, 0.02, 0.025, 0.026), (0.004, 0.003, 0.002, 0.001), strict=True
    ):
        point["turns"][0] |= {"first_text_s": {"p50": first}, "per_token_s": {"p50": step}}
    law, _ = fit(curves, 32, 64)
    assert (law.pair, law.cached) == (0.0, 0.0)
    assert law.token > 0


@given(LAWS, st.integers(1, 512), st.integers(1, 4096), st.integers(1, 2048))
def test_more_sequences_answer_more_and_each_more_slowly(
    law: Law, sequences: int, prompt: int, answer: int
) -> None:
    fewer, more = (answers_per_s(law, count, prompt, answer) for count in (sequences, sequences + 1))
    assert more >= fewer
    assert token_s(law, sequences + 1, prompt, answer) >= token_s(law, sequences, prompt, answer)
    # A request that is alone: its prompt, and its tokens one after the other.
    alone = law.asked(prompt) + answer * law.step(1, prompt + answer / 2)
    assert answers_per_s(law, 1, prompt, answer) == pytest.approx(1 / alone)


def test_gemma_3_12b() -> None:
    model = Geometry()
    # 10.8 billion of 11.8 are in linear layers; the rest is the vocabulary.
    assert model.linear == 48 * (3840 * (4096 + 2048 + 2048 + 4096) + 3 * 3840 * 15360)
    assert model.linear + model.vocabulary * model.hidden == pytest.approx(11.77e9, rel=0.01)
    assert model.kv_bytes(512) == 48 * 512 * 8192
    # Of 8192 tokens the sliding layers hold 1024.
    assert model.kv_bytes(8192) == 8192 * (8 * 8192 + 40 * 1024)
    # A short prompt attends to all of itself in every layer.
    assert model.attention_flops(100) == pytest.approx(4 * 16 * 256 * 48 * 100**2 / 2)


@given(REPLICAS, st.sampled_from(WORKLOADS), st.floats(0.005, 0.2))
def test_a_node_keeps_objective_and_memory(replica: Replica, load: Workload, objective: float) -> None:
    found = node(replica, load, Front(54e-6), objective)
    prompt = load.prompt + load.pictures * replica.picture_tokens
    room = replica.room(prompt + load.answer)
    arguments = (load.prompt, load.answer, load.pictures)
    if found is None:
        assert room < 1 or token_s(replica, 1, *arguments) > objective
        return
    assert found.token <= objective
    assert found.sequences <= min(room, replica.assumed.most_sequences)
    assert found.replicas * replica.ranks == 4
    if found.bound == "objective":
        assert token_s(replica, found.sequences + 1, *arguments) > objective
    else:
        assert found.sequences == min(room, replica.assumed.most_sequences)
    # What the memory holds is within the GPUs.
    held = replica.model.step_bytes + found.sequences * replica.model.kv_bytes(prompt + load.answer)
    assert held <= replica.ranks * replica.gpu.memory * replica.assumed.usable
    assert nodes_for(1e-9, found) == 1
    assert nodes_for(10 * found.answers, found) == 15


def test_the_front_is_full_first_where_it_is_slow() -> None:
    replica = Replica(Geometry(), GPUS[0], 4, Assumptions())
    slow, fast = (node(replica, WORKLOADS[0], Front(token), 0.05) for token in (1e-3, 1e-6))
    assert slow is not None
    assert fast is not None
    assert (slow.first, slow.answers) == ("the front's event loop", pytest.approx(1000 / 256))
    assert fast.first == "--max-num-seqs"
    assert fast.answers == fast.engine


def test_what_fits_nowhere() -> None:
    tiny = Gpu("tiny", 8e9, 1e12, 1e14, 1e14, 1e10, 1e-5)
    assert node(Replica(Geometry(), tiny, 1, Assumptions()), WORKLOADS[0], Front(1e-6), 0.05) is None


def test_the_front_is_what_was_measured_at_32() -> None:
    rows = {"octet": {"front": 40.0}}
    peers = {"levels": [{"streams": 1, "rows": {"octet": {"front": 90.0}}}, {"streams": 32, "rows": rows}]}
    assert front_of(peers).token == pytest.approx(40e-6)
    assert front_of(None).token == pytest.approx(FRONT_US * 1e-6)


@given(st.integers(64, 200_000))
def test_prompts_double_up_to_the_longest(longest: int) -> None:
    lengths = prompt_lengths(longest)
    assert lengths == sorted(lengths)
    assert all(length <= longest * 0.95 for length in lengths)
    assert lengths[-1] == int(longest * 0.95)
    assert all(later <= 2 * sooner for sooner, later in itertools.pairwise(lengths))
