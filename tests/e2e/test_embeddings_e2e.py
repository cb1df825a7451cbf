"""Vectors of a small model by the real engine, against what transformers makes of it."""

import asyncio
import math
import os
import re
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
import pytest_asyncio
import torch

from octet import demo
from octet.client import AsyncClient, OctetRpcError
from octet.config import ServerConfig
from octet.engine.types import Service
from octet.engine.vllm.serving.engine import VllmEngine
from octet.server.server import Server
from tests.e2e.checkpoints import EMBEDDING_CONTEXT, write_embedding_checkpoint

pytestmark = pytest.mark.asyncio(loop_scope="session")

NAME = "embedder"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "embedding"
    write_embedding_checkpoint(Path(demo.PATH), folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def embedder(folder: Path) -> AsyncIterator[VllmEngine]:
    """Started as `octet serve` starts it, which finds out by itself what the model is for."""
    from octet.engine.vllm.launch.args import parse_engine_args
    from octet.engine.vllm.serving.engine import create_engine

    flags = ("--enforce-eager", "--kv-cache-memory-bytes", "64M", "--max-num-seqs", "8")
    engine = await create_engine(parse_engine_args([str(folder), *flags, "--served-model-name", NAME]))
    yield engine
    engine.close()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(embedder: VllmEngine) -> AsyncIterator[Server]:
    server = Server(ServerConfig(port=0))
    await server.start()
    await server.attach(embedder)
    yield server
    await server.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture(scope="module")
def reference(folder: Path) -> "Reference":
    return Reference(folder)


class Reference:
    """transformers' model: the last token's state."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModel, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModel.from_pretrained(folder, torch_dtype=torch.float32)

    def vector(self, ids: Sequence[int]) -> list[float]:
        with torch.no_grad():
            states = self._model(torch.tensor([list(ids)])).last_hidden_state
        return states[0, -1].tolist()  # type: ignore[no-any-return]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / (math.hypot(*a) * math.hypot(*b))


async def test_what_the_model_is_for(client: AsyncClient, embedder: VllmEngine) -> None:
    assert embedder.model.services == (Service.EMBEDDING,)
    [model] = await client.list_models()
    assert list(model.services) == ["octet.v1.EmbeddingService"]
    assert model.context_window == EMBEDDING_CONTEXT
    assert (model.embedding.dimensions, list(model.embedding.dimensions_offered)) == (64, [8, 16])


async def test_vectors_are_the_models(client: AsyncClient, reference: Reference) -> None:
    texts = ["Hello", "a red circle", "What is the weather in Oslo?", "x " * 20]
    given = await client.embed(texts)
    ids = [reference.tokenizer.encode(text) for text in texts]
    for vector, tokens in zip(given.vectors, ids, strict=True):
        assert len(vector) == 64
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-3)
        assert cosine(vector, reference.vector(tokens)) > 0.99
    assert [one.prompt_tokens for one in given.response.embeddings] == [len(tokens) for tokens in ids]
    assert given.usage.prompt_tokens == sum(len(tokens) for tokens in ids)
    by_ids = await client.embed(ids)
    for vector, same in zip(given.vectors, by_ids.vectors, strict=True):
        assert cosine(vector, same) > 0.9999


async def test_not_normalized(client: AsyncClient, reference: Reference) -> None:
    [vector] = (await client.embed("a red circle", normalize=False)).vectors
    expected = reference.vector(reference.tokenizer.encode("a red circle"))
    assert math.hypot(*vector) == pytest.approx(math.hypot(*expected), rel=0.05)
    assert math.hypot(*vector) > 2


async def test_shorter_vectors(client: AsyncClient) -> None:
    [whole] = (await client.embed("a red circle", normalize=False)).vectors
    [shorter] = (await client.embed("a red circle", normalize=False, dimensions=8)).vectors
    assert shorter == pytest.approx(whole[:8])
    [scaled] = (await client.embed("a red circle", dimensions=16)).vectors
    assert math.hypot(*scaled) == pytest.approx(1, abs=1e-3)
    with pytest.raises(OctetRpcError, match="9 is not one of 8, 16, nor 64"):
        await client.embed("a", dimensions=9)


async def test_texts_that_are_too_long(client: AsyncClient, reference: Reference) -> None:
    fits = [5] * EMBEDDING_CONTEXT
    assert len((await client.embed(fits)).vectors) == 1
    with pytest.raises(OctetRpcError) as raised:
        await client.embed([[5], [5] * (EMBEDDING_CONTEXT + 1)])
    assert raised.value.reason == "CONTEXT_LENGTH_EXCEEDED"
    [violation] = raised.value.field_violations
    assert violation.field == "inputs[1]"
    text = "what " * 100
    count = len(reference.tokenizer.encode(text))
    with pytest.raises(
        OctetRpcError, match=f"has {count} tokens, more than the model's context window of 64"
    ):
        await client.embed(text)
    cut = await client.embed([text, "short"], truncate=True)
    assert [one.truncated for one in cut.response.embeddings] == [True, False]
    assert cut.response.embeddings[0].prompt_tokens == EMBEDDING_CONTEXT
    assert cosine(cut.vectors[0], reference.vector(reference.tokenizer.encode(text)[:64])) > 0.99


async def test_names_of_special_tokens_are_only_text(client: AsyncClient) -> None:
    said = await client.embed("<end_of_turn>")
    assert said.usage.prompt_tokens > 2
    parsed = await client.embed("<end_of_turn>", parse_special_tokens=True)
    assert parsed.usage.prompt_tokens < said.usage.prompt_tokens


async def test_other_services_say_what_the_model_is_for(client: AsyncClient) -> None:
    for asked in (client.chat("Hello"), client.complete("Hello"), client.count_tokens("Hello")):
        with pytest.raises(OctetRpcError, match="embedder makes vectors of texts and writes none") as raised:
            await asked
        assert raised.value.code.name == "UNIMPLEMENTED"


async def test_tokens_can_be_asked_about(client: AsyncClient, reference: Reference) -> None:
    assert await client.tokenize("a red circle") == reference.tokenizer.encode("a red circle")


async def test_who_gives_up_frees_the_engine(client: AsyncClient, embedder: VllmEngine) -> None:
    with pytest.raises(OctetRpcError, match=r"DEADLINE_EXCEEDED|RESOURCE_EXHAUSTED"):
        await client.embed(["x " * 30] * 1000, timeout=0.05)
    async with asyncio.timeout(5):
        while await embedder.num_unfinished():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def test_the_program_in_the_docs(client: AsyncClient, server: Server) -> None:
    page = (Path(__file__).parents[2] / "docs" / "completions.md").read_text()
    [(program, printed)] = re.findall(r"```python\n(.*?)```\n\n((?:    [^\n]*\n)+)", page, re.DOTALL)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program),
        env=os.environ | {"OCTET": f"127.0.0.1:{server.port}"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert (process.returncode, err) == (0, b"")
    assert out.decode().splitlines() == [line[4:] for line in printed.splitlines()]
