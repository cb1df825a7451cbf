"""One real vLLM engine, on a CPU, for all tests that need one: its start takes longer than they do."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from octet import demo
from octet.client import AsyncClient
from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import VllmEngine
from octet.server.server import Server
from tests.e2e import openai_server
from tests.e2e.checkpoints import (
    STRICT_TEMPLATE,
    write_adapter,
    write_templated_checkpoint,
    write_thinking_checkpoint,
)

# Another checkpoint may be put to the test; what the demo checkpoint says is not asked of it.
MODEL = os.environ.get("OCTET_TEST_MODEL", str(demo.PATH))
MODEL_NAME = "octet-demo"
START_SECONDS = 280
ENGINE_FLAGS = ("--enforce-eager", "--kv-cache-memory-bytes", "256M", "--max-num-seqs", "8")
# What is started once for many files; `either_target` asks for one of them while a test runs.
SHARED = {"engine", "target", "versatile", "openai", "either_target"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the files that share engines, which belong into one process; see `tools/run_tests.sh`."""
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            files.setdefault(item.path, []).append(item)
    for tests in files.values():
        if any(SHARED.intersection(getattr(test, "fixturenames", ())) for test in tests):
            for test in tests:
                test.add_marker(pytest.mark.shares_engines)


@pytest.fixture(scope="session")
def model_path() -> str:
    """The checkpoint under test."""
    return MODEL


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[VllmEngine]:
    """The engine, started as `octet serve` starts it."""
    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import create_engine

    engine = await create_engine(parse_engine_args([MODEL, *ENGINE_FLAGS, "--served-model-name", MODEL_NAME]))
    yield engine
    engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def strict(engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The same engine behind a chat template as strict as the one published with Gemma 3."""
    folder = tmp_path_factory.mktemp("checkpoint") / "strict"
    write_templated_checkpoint(Path(MODEL), folder, STRICT_TEMPLATE)
    async with _behind_another_renderer(engine, folder) as twin:
        yield twin


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def base(engine: VllmEngine, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[VllmEngine]:
    """The same engine without a chat template, as base models are."""
    folder = tmp_path_factory.mktemp("checkpoint") / "base"
    write_templated_checkpoint(Path(MODEL), folder, None)
    async with _behind_another_renderer(engine, folder) as twin:
        yield twin


@asynccontextmanager
async def _behind_another_renderer(engine: VllmEngine, folder: Path) -> AsyncIterator[VllmEngine]:
    """Prompts are rendered here, so that no second engine has to be started for them."""
    from vllm.renderers import renderer_from_config

    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import services_of
    from octet.engine.vllm.serving.render import PromptRenderer

    settings = parse_engine_args([str(folder), *ENGINE_FLAGS])
    config = settings.engine.create_engine_config()
    vllms = renderer_from_config(config)
    renderer = PromptRenderer(vllms, config.model_config, settings)
    model = replace(engine.model, services=services_of(["generate"], renderer))
    twin = VllmEngine(
        engine.llm, engine._launch, settings, renderer, engine._vocabulary, engine._usage, model
    )
    yield twin
    # What is its own; the rest ends with the engine.
    twin._checker.close()
    vllms.shutdown()


@pytest.fixture(scope="session")
def thinking_checkpoint(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose template and tokenizer know of reasoning."""
    folder = tmp_path_factory.mktemp("checkpoint") / "thinker"
    write_thinking_checkpoint(Path(model_path), folder)
    return folder


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def versatile(
    thinking_checkpoint: Path, model_path: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[VllmEngine]:
    """An engine that thinks, knows priorities, and has two adapters and room for two more."""
    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import create_engine

    adapters = tmp_path_factory.mktemp("adapters")
    for name, strength in (("silent", 0.0), ("loud", 1.0)):
        write_adapter(Path(model_path), adapters / name, strength=strength)
    flags = (
        *ENGINE_FLAGS,
        *("--max-num-seqs", "1", "--scheduling-policy", "priority", "--reasoning-parser", "deepseek_r1"),
        *("--enable-lora", "--max-cpu-loras", "4"),
        *("--lora-modules", f"silent={adapters / 'silent'}", f"loud={adapters / 'loud'}"),
    )
    engine = await create_engine(parse_engine_args([str(thinking_checkpoint), *flags]))
    yield engine
    engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def in_process(engine: VllmEngine) -> AsyncIterator[str]:
    """The address of a server in this process, so that the engine can be asked whether it is idle."""
    async with _serving(engine, kserve=True) as target:
        yield target


@pytest_asyncio.fixture(scope="module", loop_scope="session", params=["forgiving", "strict"])
async def conversing(
    request: pytest.FixtureRequest, engine: VllmEngine, strict: VllmEngine
) -> AsyncIterator[AsyncClient]:
    """A client of a server in this process, over the checkpoint's own chat template and over a strict one."""
    async with (
        _serving(strict if request.param == "strict" else engine) as target,
        AsyncClient(target) as client,
    ):
        yield client


@asynccontextmanager
async def _serving(engine: VllmEngine, *, kserve: bool = False) -> AsyncIterator[str]:
    """The address of a server in this process."""
    server = Server(ServerConfig(port=0, kserve=kserve))
    await server.start()
    try:
        await server.attach(engine)
        yield f"127.0.0.1:{server.port}"
    finally:
        await server.stop()


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server started by `octet serve`, on the checkpoint that ships unless another is put to the test."""
    model = [os.environ["OCTET_TEST_MODEL"]] if "OCTET_TEST_MODEL" in os.environ else []
    command = [sys.executable, "-m", "octet", "serve", *model, "--smg", "--served-model-name", MODEL_NAME]
    log = tmp_path_factory.mktemp("serve") / "server.log"
    temporary = tmp_path_factory.mktemp("tmp")
    with log.open("w") as file:
        server = subprocess.Popen(
            [*command, "--port", "0"], stderr=file, env=os.environ | {"TMPDIR": str(temporary)}
        )
    try:
        yield wait_until_serving(server, log)
        shared = [folder.name for folder in temporary.glob("octet-engine-*")]
        assert shared
        server.send_signal(signal.SIGTERM)
        assert server.wait(timeout=60) == 0, log.read_text()
        # Compiled kernels are kept for the next start, in torch's folder.
        left = [path for path in temporary.iterdir() if not path.name.startswith("torchinductor_")]
        assert left == []
        assert [left for name in shared for left in Path("/dev/shm").glob(f"*{name}*")] == []
    finally:
        server.kill()
        server.wait()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def strict_target(strict: VllmEngine) -> AsyncIterator[str]:
    """A server in this process, with a chat template as strict as the one published with Gemma 3."""
    async with _serving(strict) as target:
        yield target


@pytest.fixture(scope="session")
def openai(model_path: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai_server.OpenAiServer]:
    """vLLM's OpenAI server on the same checkpoint, with the same flags."""
    log = tmp_path_factory.mktemp("openai") / "server.log"
    with openai_server.serving(model_path, log, *ENGINE_FLAGS) as server:
        yield server


@pytest.fixture(params=["target", "strict_target"])
def either_target(request: pytest.FixtureRequest) -> str:
    """Both, for conversations."""
    target: str = request.getfixturevalue(request.param)
    return target


async def becomes_idle(engine: VllmEngine) -> None:
    """Waits until the engine works for nobody; long before it could be done with an answer of thousands."""
    for _ in range(100):
        if await engine.num_unfinished() == 0:
            return
        await asyncio.sleep(0.02)
    pytest.fail("the engine still works for somebody who has given up")


def wait_until_serving(server: "subprocess.Popen[bytes]", log: Path) -> str:
    """The address that a server names in its log when it serves."""
    give_up = time.monotonic() + START_SECONDS
    while (match := re.search(r"octet: serving \S+ on (\S+)", log.read_text())) is None:
        assert server.poll() is None, log.read_text()
        assert time.monotonic() < give_up, log.read_text()
        time.sleep(0.2)
    return match[1]
