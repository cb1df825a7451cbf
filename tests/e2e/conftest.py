"""One real vLLM engine, on a CPU, for all tests that need one: its start takes longer than they do."""

import os
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from octet import demo
from octet.config import ServerConfig
from octet.engine.vllm.engine import VllmEngine
from octet.server.server import Server

# Another checkpoint may be put to the test; what the demo checkpoint says is not asked of it.
MODEL = os.environ.get("OCTET_TEST_MODEL", str(demo.PATH))
ENGINE_FLAGS = ("--enforce-eager", "--kv-cache-memory-bytes", "256M", "--max-num-seqs", "8")


@pytest.fixture(scope="session")
def model_path() -> str:
    """The checkpoint under test."""
    return MODEL


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def engine() -> AsyncIterator[VllmEngine]:
    """The engine, started as `octet serve` starts it."""
    from octet.engine.vllm.args import parse_engine_args
    from octet.engine.vllm.engine import create_engine

    engine = await create_engine(parse_engine_args([MODEL, *ENGINE_FLAGS]))
    yield engine
    engine.close()


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def in_process(engine: VllmEngine) -> AsyncIterator[str]:
    """The address of a server in this process, so that the engine can be asked whether it is idle."""
    server = Server(ServerConfig(port=0))
    await server.start()
    await server.attach(engine)
    yield f"127.0.0.1:{server.port}"
    await server.stop()
