"""vLLM's scheduler held to the pace that answers can bear, over a clock that steps move; no engine."""

from collections import Counter
from typing import Any

import pytest

from octet.engine.vllm.inside.pacing import pace
from octet.engine.vllm.inside.pacing import scheduler as module
from octet.engine.vllm.priority import fair_priority
from tests.e2e.test_picture_scheduler import ENCODING_SECONDS, Core

ANSWERS_SECONDS = 0.01
TOKEN_SECONDS = 0.0005
# What a step with answers may take is 2.5 of theirs: 30 tokens; the least that it computes are 32.
MOST_BESIDE = 32


@pytest.fixture
def vllm_config() -> Any:
    from vllm import EngineArgs

    from octet import demo

    engine = EngineArgs(str(demo.PATH), max_num_seqs=16, max_num_batched_tokens=2048, max_model_len=2048)
    return engine.create_engine_config()


class Clock:
    """Time, as long as the steps take."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "time", clock)
    return clock


class Run:
    """Steps, and what they computed."""

    def __init__(self, config: Any, clock: Clock, blocks: int = 2000) -> None:
        self.core = Core(config, blocks=blocks)
        self.clock = clock
        self.steps: list[dict[str, int]] = []
        schedule = self.core.scheduler.schedule

        def timed(*args: Any, **kwargs: Any) -> Any:
            output = schedule(*args, **kwargs)
            tokens = output.total_num_scheduled_tokens
            self.clock.now += (ANSWERS_SECONDS + tokens * TOKEN_SECONDS) if tokens else 0.0
            told = getattr(output, "octet_pictures", None)
            self.clock.now += ENCODING_SECONDS if told is not None and told.slice is not None else 0.0
            return output

        self.core.scheduler.schedule = timed

    def step(self, times: int = 1) -> None:
        for _ in range(times):
            self.steps.append(dict(self.core.step().num_scheduled_tokens))

    def until(self, name: str) -> int:
        """Steps until a request's first token; returns how many."""
        count = 0
        while not self.core.said[name]:
            self.step()
            count += 1
            assert count < 1000
        return count


def test_answers_get_a_token_in_every_step(vllm_config: Any, clock: Clock) -> None:
    run = Run(vllm_config, clock)
    run.core.add("stream", tokens=400)
    run.step(20)
    for number in range(4):
        run.core.add("prompt" * (number + 1), text=1500)
    # An answer that comes after a prompt in vLLM's list.
    run.step()
    run.core.add("later", tokens=200)
    run.until("later")
    begun = len(run.steps)
    run.step(100)
    assert all("stream" in step and "later" in step for step in run.steps[begun:])


def test_a_step_beside_answers_is_short_and_alone_it_is_not(vllm_config: Any, clock: Clock) -> None:
    run = Run(vllm_config, clock)
    run.core.add("stream", tokens=60)
    run.step(20)
    run.core.add("prompt", text=1900, tokens=2)
    run.step(20)
    beside = [step["prompt"] for step in run.steps[20:] if "prompt" in step]
    assert len(beside) > 15
    # The first ones come before it is known how long they take.
    assert max(beside[5:]) <= MOST_BESIDE
    run.core.cancel("stream")
    run.step()
    assert run.steps[-1]["prompt"] == pytest.approx(0.5 / TOKEN_SECONDS, rel=0.1)


def test_a_short_prompt_does_not_wait_for_a_long_one(vllm_config: Any, clock: Clock) -> None:
    run = Run(vllm_config, clock)
    run.core.add("stream", tokens=300)
    run.step(20)
    run.core.add("long", text=1900)
    run.step(10)
    run.core.add("short", text=12)
    assert run.until("short") <= 4
    assert not run.core.said["long"]


def test_nobody_is_held_up_for_ever(vllm_config: Any, clock: Clock) -> None:
    run = Run(vllm_config, clock)
    for number in range(12):
        run.core.add("r" * (number + 1), text=1 + 97 * number, tokens=1 + 7 * number)
    list(run.core.run())
    assert run.core.said == {"r" * (number + 1): 1 + 7 * number for number in range(12)}


def test_of_many_prompts_some_are_finished_before_others_begin(vllm_config: Any, clock: Clock) -> None:
    run = Run(vllm_config, clock)
    for number in range(16):
        run.core.add("p" * (number + 1), text=1500, tokens=2)
    run.step(16)
    assert max(len(step) for step in run.steps) <= 1000 // 128 + 2
    assert run.core.said["p"] == 2
    assert not any("p" * 16 in step for step in run.steps)


def test_who_has_most_gives_way_first(vllm_config: Any, clock: Clock) -> None:
    """However late the neighbour came: vLLM by itself takes the cache away from the newest."""
    run = Run(vllm_config, clock, blocks=64)
    for number in range(8):
        run.core.add(f"greedy {number}", text=60, tokens=200, priority=fair_priority(0, number))
    run.step(4)
    run.core.add("neighbour", text=60, tokens=100, priority=fair_priority(0, 0))
    run.until("neighbour")
    begun = len(run.steps)
    run.step(99)
    computed = Counter(name for step in run.steps[begun:] for name in step)
    assert computed["neighbour"] == 99
    assert computed["greedy 7"] < computed["greedy 0"]


def test_settings_keep_their_meaning(vllm_config: Any, clock: Clock) -> None:
    vllm_config.scheduler_config.long_prefill_token_threshold = 20
    run = Run(vllm_config, clock)
    run.core.add("one", text=500, tokens=2)
    run.core.add("other", text=500, tokens=2)
    run.step(10)
    assert max(max(step.values()) for step in run.steps) == 20
    assert vllm_config.scheduler_config.long_prefill_token_threshold == 20


def test_pictures_stay_whole(vllm_config: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with a pace of fewer tokens than a picture has, and when a step computes answers alone."""
    monkeypatch.setattr(pace, "_LEAST_TOKENS", 4)
    monkeypatch.setattr(pace, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(pace, "LEAST_TIMES", 1.1)
    run = Run(vllm_config, clock)
    run.core.add("stream", tokens=900)
    run.step(20)
    looks = ["look" * (number + 1) for number in range(3)]
    for name in looks:
        run.core.add(name, "red", "blue", name, text=12, tokens=40)
    for name in looks:
        run.until(name)
    assert run.core.said["stream"] < 900
