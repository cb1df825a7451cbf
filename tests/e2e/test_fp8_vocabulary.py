"""The real engine with its output layer in FP8: what it reports, and how far its predictions move."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from octet import ops
from octet.engine.types import (
    GenerationRequest,
    LogprobsDelta,
    Message,
    PositionLogprobs,
    Role,
    Sampling,
    TextDelta,
    TextPart,
)
from octet.engine.vllm.launch import startup
from octet.engine.vllm.launch.args import parse_engine_args
from octet.engine.vllm.serving.engine import VllmEngine, create_engine
from octet.engine.vllm.serving.scoring import Scorer
from octet.errors import StartupError
from tests.e2e.checkpoints import write_adapter, write_embedding_checkpoint
from tests.e2e.conftest import ENGINE_FLAGS

pytestmark = pytest.mark.asyncio(loop_scope="session")

PROMPT = (
    "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n"
    "<start_of_turn>model\nThe capital of France is Paris.<end_of_turn>\n"
)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quantized(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The engine with --fp8-vocabulary, and with an adapter that changes nothing."""
    adapter = tmp_path_factory.mktemp("adapters") / "silent"
    write_adapter(Path(model_path), adapter, strength=0.0)
    flags = (*ENGINE_FLAGS, "--fp8-vocabulary", "--enable-lora", "--lora-modules", f"silent={adapter}")
    engine = await create_engine(parse_engine_args([model_path, *flags]))
    yield engine
    engine.close()


async def test_it_says_so(engine: VllmEngine, quantized: VllmEngine) -> None:
    assert (engine.model.vocabulary_format, quantized.model.vocabulary_format) == ("", "e4m3")
    name = f"fp8_linear=octet/{ops.isa()}"
    layers = [
        next(int(line.split()[2]) for line in each.model.active_kernels if line.startswith(name))
        for each in (engine, quantized)
    ]
    assert layers[1] == layers[0] + 1


async def test_predictions_move_by_little_and_do_move(engine: VllmEngine, quantized: VllmEngine) -> None:
    """Log probabilities of the prompt's own tokens; those of the answer come the same way."""
    ours, theirs = [await Scorer(each.llm).score(PROMPT, 1) for each in (quantized, engine)]
    assert np.array_equal(ours.ids, theirs.ids)
    moved = np.abs(ours.logprobs - theirs.logprobs)
    assert 0 < moved.mean() < 0.1
    assert (ours.top_ids == theirs.top_ids).mean() > 0.9


async def test_answers_with_an_adapter_and_without_are_the_same(quantized: VllmEngine) -> None:
    async def answer(adapter: str) -> tuple[str, list[PositionLogprobs]]:
        asked = Message(Role.USER, (TextPart("What is the capital of France?"),))
        sampling = Sampling(temperature=0.0, max_tokens=12, logprobs=True, top_logprobs=3)
        request = GenerationRequest(f"vocabulary-{adapter}", (asked,), adapter=adapter, sampling=sampling)
        events = [event async for event in quantized.generate(request)]
        deltas = [delta for event in events for delta in getattr(event, "deltas", ())]
        text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
        return text, [p for d in deltas if isinstance(d, LogprobsDelta) for p in d.positions]

    plain, adapted = await answer(""), await answer("silent")
    assert "Paris" in plain[0]
    assert plain == adapted
    assert all(len(position.top) == 3 for position in plain[1])
    assert plain[1]


async def test_a_model_that_makes_vectors_is_refused(model_path: str, tmp_path: Path) -> None:
    """Before a process is started for it."""
    write_embedding_checkpoint(Path(model_path), tmp_path / "embedding")
    settings = parse_engine_args([str(tmp_path / "embedding"), *ENGINE_FLAGS, "--fp8-vocabulary"])
    with pytest.raises(StartupError, match=r"^--fp8-vocabulary: .* makes vectors, and has no output layer"):
        startup._prepare(settings)
