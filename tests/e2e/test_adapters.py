"""LoRA adapters, loaded into and dropped from the real vLLM while it answers."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from octet.engine.types import (
    CandidateFinished,
    GenerationRequest,
    Message,
    Prompt,
    Role,
    Sampling,
    TextDelta,
    TextPart,
)
from octet.engine.vllm.serving.engine import VllmEngine
from octet.errors import AdapterExistsError, AdapterLimitError, AdapterNotFoundError, InvalidRequestError
from tests.e2e.checkpoints import write_adapter

pytestmark = pytest.mark.asyncio(loop_scope="session")

GREEDY = Sampling(temperature=0.0, max_tokens=12, ignore_eos=True)
LONG = Sampling(temperature=0.0, max_tokens=200, ignore_eos=True)

_ids = iter(range(10**6))


@pytest.fixture(scope="module")
def folder(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Adapters that lie there: of three strengths."""
    root = tmp_path_factory.mktemp("root")
    for name, strength in (("none", 0.0), ("loud", 1.0), ("louder", 4.0)):
        write_adapter(Path(model_path), root / name, strength=strength)
    return root


@pytest_asyncio.fixture(loop_scope="session")
async def engine_(versatile: VllmEngine) -> AsyncIterator[VllmEngine]:
    """An engine with room for four, two of which are those of its start."""
    yield versatile
    for name in set(versatile.model.adapters) - {"silent", "loud"}:
        await versatile.unload_adapter(name)


async def text_of(engine: VllmEngine, adapter: str, sampling: Sampling = GREEDY) -> str:
    asked = Message(Role.USER, (TextPart("What is the capital of France?"),))
    request = GenerationRequest(f"adapter-{next(_ids)}", (asked,), adapter=adapter, sampling=sampling)
    deltas = [d for e in [e async for e in engine.generate(request)] for d in getattr(e, "deltas", ())]
    assert isinstance(deltas[-1], CandidateFinished)
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def completed(engine: VllmEngine, adapter: str) -> str:
    prompt = Prompt("prompts[0]", (TextPart("The capital of France is"),))
    request = GenerationRequest(f"adapter-{next(_ids)}", prompt=prompt, adapter=adapter, sampling=GREEDY)
    deltas = [d for e in [e async for e in engine.generate(request)] for d in getattr(e, "deltas", ())]
    return "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))


async def begun(engine: VllmEngine, requests: int) -> None:
    """Returns when the engine has so many requests, which it tells only when it is asked."""
    while await engine.num_unfinished() < requests:  # noqa: ASYNC110
        await asyncio.sleep(0)


async def test_adapters_come_and_go(engine_: VllmEngine, folder: Path) -> None:
    plain, loud = await text_of(engine_, ""), await text_of(engine_, "loud")
    assert await engine_.load_adapter("new", folder / "loud", replace=False)
    assert engine_.model.adapters == ("silent", "loud", "new")
    assert await text_of(engine_, "new") == loud != plain
    assert not await engine_.load_adapter("new", folder / "loud", replace=False)
    assert await engine_.unload_adapter("new") == 0
    assert engine_.model.adapters == ("silent", "loud")
    with pytest.raises(AdapterNotFoundError):
        await text_of(engine_, "new")
    assert await engine_.unload_adapter("new") is None
    assert await text_of(engine_, "") == plain


async def test_raw_prompts_run_on_them(engine_: VllmEngine, folder: Path) -> None:
    plain = await completed(engine_, "")
    await engine_.load_adapter("louder", folder / "louder", replace=False)
    assert await completed(engine_, "louder") != plain
    await engine_.unload_adapter("louder")
    with pytest.raises(AdapterNotFoundError):
        await completed(engine_, "louder")


async def test_a_name_means_what_it_means_now(engine_: VllmEngine, folder: Path) -> None:
    """Also where the prefix cache has the same prompt with the old adapter."""
    await engine_.load_adapter("changing", folder / "loud", replace=False)
    before = await text_of(engine_, "changing")
    with pytest.raises(AdapterExistsError):
        await engine_.load_adapter("changing", folder / "none", replace=False)
    assert await engine_.load_adapter("changing", folder / "none", replace=True)
    assert await text_of(engine_, "changing") == await text_of(engine_, "") != before
    await engine_.unload_adapter("changing")
    await engine_.load_adapter("changing", folder / "louder", replace=False)
    assert await text_of(engine_, "changing") != before


async def test_requests_that_run_on_a_dropped_adapter_finish(
    engine_: VllmEngine, folder: Path, tmp_path: Path
) -> None:
    """Even where its files are gone, and another adapter has its name."""
    shutil.copytree(folder / "loud", tmp_path / "fleeting")
    await engine_.load_adapter("fleeting", tmp_path / "fleeting", replace=False)
    whole = await text_of(engine_, "fleeting", LONG)
    running = asyncio.create_task(text_of(engine_, "fleeting", LONG))
    waiting = asyncio.create_task(text_of(engine_, "fleeting", LONG))
    await begun(engine_, 2)
    shutil.rmtree(tmp_path / "fleeting")
    assert await engine_.load_adapter("fleeting", folder / "none", replace=True)
    # Both still hold the first one, which takes its place until they have ended.
    with pytest.raises(AdapterLimitError):
        await engine_.load_adapter("another", folder / "louder", replace=False)
    assert await engine_.unload_adapter("fleeting") == 0
    assert await running == await waiting == whole
    async with asyncio.timeout(10):
        while len(engine_._adapters._inside) > 2:  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(0)
    assert set(await engine_.llm.list_loras()) == {1, 2}


async def test_a_request_that_is_given_up_gives_its_adapter_back(engine_: VllmEngine, folder: Path) -> None:
    await engine_.load_adapter("held", folder / "loud", replace=False)
    task = asyncio.create_task(text_of(engine_, "held", Sampling(temperature=0.0, ignore_eos=True)))
    await begun(engine_, 1)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert await engine_.unload_adapter("held") == 0


async def test_there_is_room_for_some(engine_: VllmEngine, folder: Path) -> None:
    await engine_.load_adapter("a", folder / "loud", replace=False)
    await engine_.load_adapter("b", folder / "none", replace=False)
    with pytest.raises(AdapterLimitError, match="--max-cpu-loras"):
        await engine_.load_adapter("c", folder / "louder", replace=False)
    loaded = await asyncio.gather(*[text_of(engine_, name) for name in ("a", "b", "silent", "loud", "")])
    assert loaded[0] == loaded[3] != loaded[1] == loaded[2] == loaded[4]


async def test_the_same_at_once_is_loaded_once(engine_: VllmEngine, folder: Path) -> None:
    loads = [engine_.load_adapter("same", folder / "loud", replace=False) for _ in range(3)]
    assert sorted(await asyncio.gather(*loads)) == [False, False, True]
    assert len(await engine_.llm.list_loras()) == 3


async def test_what_cannot_be_loaded_leaves_nothing(
    engine_: VllmEngine, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(await engine_.llm.list_loras())
    shutil.copytree(folder / "loud", tmp_path / "dora")
    config = tmp_path / "dora" / "adapter_config.json"
    config.write_text(config.read_text().replace('"bias": "none"', '"bias": "none", "use_dora": true'))
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "dora", tmp_path / "empty"):
        with pytest.raises(InvalidRequestError) as raised:
            await engine_.load_adapter("bad", path, replace=False)
        assert raised.value.field == "path"
        assert "\n" not in raised.value.message
    # What nobody has looked at: vLLM itself finds it, half the way.
    monkeypatch.setattr(engine_._adapters._base, "check", lambda *_: None)
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "loud", tmp_path / "wide")
    file = tmp_path / "wide" / "adapter_model.safetensors"
    save_file({name: tensor.repeat(3, 3) for name, tensor in load_file(file).items()}, file)
    with pytest.raises(InvalidRequestError, match="cannot be loaded"):
        await engine_.load_adapter("bad", tmp_path / "wide", replace=False)
    assert set(await engine_.llm.list_loras()) == before
    assert engine_.model.adapters == ("silent", "loud")
    assert await text_of(engine_, "silent") == await text_of(engine_, "")
