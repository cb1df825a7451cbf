"""Vectors of texts, by a scripted engine over a real channel."""

import asyncio

import grpc
import pytest

from octet.config import ServerConfig
from octet.engine.types import Service, TextPart, TokensPart
from octet.v1 import embedding_service_pb2, model_service_pb2
from tests.integration.conftest import Running, Start, ask, complete, details_of, prompt, rest_of, until

Request = embedding_service_pb2.EmbedRequest
NOTICE_SECONDS = 1.0


@pytest.fixture
async def embedding(start: Start) -> Running:
    return await start(services=(Service.EMBEDDING,), config=ServerConfig(port=0, max_running_requests=2))


async def test_vectors_come_in_the_order_of_their_inputs(embedding: Running) -> None:
    request = Request(inputs=[prompt("x" * i) for i in range(1, 41)], request_id="r1")
    response = await embedding.embeddings.Embed(request)
    assert (response.id, response.model) == ("r1", "fake")
    assert response.HasField("create_time")
    assert [list(vector.values) for vector in response.embeddings] == [
        [float(i), 1.0, 2.0, 3.0] for i in range(1, 41)
    ]
    assert [vector.prompt_tokens for vector in response.embeddings] == list(range(1, 41))
    assert response.usage.prompt_tokens == response.usage.total_tokens == sum(range(1, 41))
    [warm_up, *asked] = embedding.engine.embedded
    assert warm_up.prompt.parts == (TextPart("Hello"),)
    assert {one.request_id for one in asked} == {f"r1/{i}" for i in range(40)}


async def test_what_the_engine_is_asked(embedding: Running) -> None:
    request = Request(
        inputs=[prompt("a", [1, 2])],
        request_id="r1",
        normalize=False,
        dimensions=2,
        truncate=True,
        adapter="pirate",
        cache_salt="s",
        add_special_tokens=False,
        parse_special_tokens=True,
    )
    response = await embedding.embeddings.Embed(request)
    assert len(response.embeddings[0].values) == 2
    [_, asked] = embedding.engine.embedded
    assert (asked.request_id, asked.adapter, asked.cache_salt) == ("r1", "pirate", "s")
    assert (asked.normalize, asked.dimensions, asked.truncate) == (False, 2, True)
    assert asked.prompt.parts == (TextPart("a"), TokensPart((1, 2)))
    assert (asked.prompt.add_special_tokens, asked.prompt.parse_special_tokens) == (False, True)
    await embedding.embeddings.Embed(Request(inputs=[prompt("a")], dimensions=4))
    plain = embedding.engine.embedded[-1]
    assert (plain.normalize, plain.dimensions, plain.truncate) == (None, None, False)
    assert (plain.prompt.add_special_tokens, plain.prompt.parse_special_tokens) == (True, False)


async def test_too_many_token_ids_are_taken_where_they_are_to_be_cut(embedding: Running) -> None:
    await embedding.embeddings.Embed(Request(inputs=[prompt([1] * 5000)], truncate=True))
    assert embedding.engine.embedded[-1].truncate


@pytest.mark.parametrize("how", ["cancel", "deadline", "id"])
async def test_who_gives_up_stops_all_of_it(embedding: Running, how: str) -> None:
    embedding.engine.embeds.clear()
    request = Request(inputs=[prompt("a")] * 5, request_id="r1")
    call = embedding.embeddings.Embed(request, timeout=0.3 if how == "deadline" else None)
    await until(lambda: len(embedding.engine.unfinished) == 2)
    if how == "cancel":
        call.cancel()
    elif how == "id":
        ids = embedding_service_pb2.CancelEmbedRequest(request_ids=["x", "r1"])
        assert list((await embedding.embeddings.CancelEmbed(ids)).cancelled_ids) == ["r1"]
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.CANCELLED
        assert details_of(raised.value).info.reason == "CANCELLED"
    else:
        assert await call.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(embedding.engine.idle.wait(), NOTICE_SECONDS)
    await until(lambda: embedding.server.admission.load().running == 0)


async def test_metrics_count_inputs(embedding: Running) -> None:
    await embedding.embeddings.Embed(Request(inputs=[prompt("abc"), prompt("de")]))
    sample = embedding.server.metrics.registry.get_sample_value
    assert sample("octet_prompt_tokens_total", {"key": ""}) == 5


async def test_other_services_say_what_the_model_is_for(embedding: Running) -> None:
    for call in (
        embedding.chat.Chat(ask()),
        embedding.completions.Complete(complete("a")),
        rest_of(embedding.completions.StreamComplete(complete("a"))),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
        assert raised.value.details() == (
            "fake makes vectors of texts and writes none; call octet.v1.EmbeddingService"
        )


async def test_embeddings_of_a_model_that_writes(start: Start) -> None:
    running = await start()
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running.embeddings.Embed(Request(inputs=[prompt("a")]))
    assert raised.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "octet.v1.ChatService and octet.v1.CompletionService" in (raised.value.details() or "")
    [model] = (await running.models.ListModels(model_service_pb2.ListModelsRequest())).models[:1]
    assert list(model.services) == ["octet.v1.ChatService", "octet.v1.CompletionService"]
    assert not model.HasField("embedding")


async def test_the_model_says_what_it_is_for(embedding: Running) -> None:
    [model] = (await embedding.models.ListModels(model_service_pb2.ListModelsRequest())).models[:1]
    assert list(model.services) == ["octet.v1.EmbeddingService"]
    assert list(model.output_modalities) == [model_service_pb2.MODALITY_VECTOR]
    assert (model.embedding.dimensions, list(model.embedding.dimensions_offered)) == (4, [2, 3])
    assert not model.embedding.any_dimensions
