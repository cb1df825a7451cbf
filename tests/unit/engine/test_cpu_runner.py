"""Seeds on CPUs, where vLLM cannot take back what it has drawn."""

from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch

from octet.engine.vllm.compat import cpu_runner


class Runner:
    """As much of vLLM's as concerns seeds."""

    def __init__(self, seeds: dict[int, int], unfinished: list[bool]) -> None:
        generators = {row: torch.Generator().manual_seed(seed) for row, seed in seeds.items()}
        self.input_batch = SimpleNamespace(num_reqs=len(unfinished), generators=generators)
        # Longer than the batch, as vLLM's is; what lies behind it is of an earlier step.
        self.discard_request_mask = SimpleNamespace(np=numpy.array([*unfinished, True, True]))
        self.fails = False

    def sample_tokens(self, rows: int) -> list[float]:
        if self.fails:
            raise ValueError
        drawn = []
        for row in range(rows):
            generator = self.input_batch.generators.get(row)
            drawn.append(torch.rand(1, generator=generator).item())
        for row in numpy.flatnonzero(self.discard_request_mask.np[:rows]):
            if (generator := self.input_batch.generators.get(int(row))) is not None:
                generator.set_offset(generator.get_offset() - 4)  # as vLLM does
        return drawn


@pytest.fixture(autouse=True)
def repaired(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Runner, "sample_tokens", Runner.sample_tokens)
    cpu_runner.unfinished_prompts_draw_nothing(Runner)
    cpu_runner.unfinished_prompts_draw_nothing(Runner)


def test_unfinished_prompts_draw_nothing() -> None:
    runner: Any = Runner({0: 7, 2: 8}, [True, False, False])
    first = torch.rand(1, generator=torch.Generator().manual_seed(7)).item()
    second = torch.rand(1, generator=torch.Generator().manual_seed(8)).item()
    assert runner.sample_tokens(3)[2] == second
    runner.discard_request_mask.np[0] = False
    assert runner.sample_tokens(3)[0] == first
    assert list(runner.input_batch.generators) == [2, 0]


def test_seeds_survive_what_goes_wrong() -> None:
    runner: Any = Runner({0: 7}, [True])
    runner.fails = True
    with pytest.raises(ValueError):
        runner.sample_tokens(1)
    assert list(runner.input_batch.generators) == [0]
