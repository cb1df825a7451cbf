"""VllmEngine, which SMG gateways ask: the rules that hold for every other call hold for theirs."""

import asyncio
import base64
import io
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image
from smg_grpc_proto import vllm_engine_pb2, vllm_engine_pb2_grpc
from smg_grpc_proto.generated import common_pb2

from octet.config import ServerConfig
from octet.rpc.vllm_engine import SERVICE_NAME
from octet.server.server import Server
from tests.integration.conftest import Running, ask, code_of, details_of
from tests.integration.fake_engine import FakeEngine, echo

Request = vllm_engine_pb2.GenerateRequest


class Scripted(vllm_engine_pb2_grpc.VllmEngineServicer):  # type: ignore[misc]
    """What answers: gives the prompt back once it is released, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.started = asyncio.Event()
        self.ended = asyncio.Event()
        self.release = asyncio.Event()

    async def Generate(self, request: Request, context: Any) -> AsyncGenerator[Any, None]:
        self.asked.append(request)
        self.started.set()
        try:
            await self.release.wait()
            ids = list(request.tokenized.input_ids)
            if request.stream:
                for i in ids:
                    yield vllm_engine_pb2.GenerateResponse(
                        chunk={"token_ids": [i], "prompt_tokens": len(ids), "completion_tokens": 1}
                    )
            yield vllm_engine_pb2.GenerateResponse(
                complete=vllm_engine_pb2.GenerateComplete(
                    output_ids=ids[-1:] if request.stream else ids,
                    finish_reason="stop",
                    prompt_tokens=len(ids),
                    completion_tokens=1 if request.stream else len(ids),
                    cached_tokens=2,
                )
            )
        finally:
            self.ended.set()

    async def GetServerInfo(self, request: Any, context: Any) -> vllm_engine_pb2.GetServerInfoResponse:
        return vllm_engine_pb2.GetServerInfoResponse(
            mm_processor="inprocess", mm_media_ref_schemes="http,https,data,file"
        )

    async def GetTokenizer(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:
        yield common_pb2.GetTokenizerChunk(data=b"zip", sha256="sum")


@dataclass
class Worker(Running):
    """A server that a gateway can ask."""

    scripted: Scripted = field(default_factory=Scripted)

    @property
    def stub(self) -> vllm_engine_pb2_grpc.VllmEngineStub:
        return vllm_engine_pb2_grpc.VllmEngineStub(self.channel)


@asynccontextmanager
async def running_worker(attach: bool = True, **settings: Any) -> AsyncIterator[Worker]:
    scripted = Scripted()

    async def create_servicer(engine: object) -> Scripted:
        return scripted

    server = Server(ServerConfig(port=0, smg=True, **settings), create_servicer=create_servicer)
    engine = FakeEngine(echo)
    await server.start()
    try:
        if attach:
            await server.attach(engine)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield Worker(server, engine, channel, scripted)
    finally:
        await server.stop()


@pytest.fixture
async def worker() -> AsyncIterator[Worker]:
    async with running_worker() as worker:
        yield worker


def prompt(request_id: str = "r", **fields: Any) -> Request:
    return Request(request_id=request_id, tokenized={"input_ids": [5, 6, 7]}, **fields)


def picture(size: tuple[int, int] = (4, 4)) -> str:
    file = io.BytesIO()
    Image.new("RGB", size).save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def with_media(url: str, modality: int = common_pb2.IMAGE) -> Request:
    return prompt(media_refs={"items": [{"modality": modality, "url": url}]})


async def healthy(worker: Worker) -> bool:
    answer = await worker.stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest())
    return answer.healthy  # type: ignore[no-any-return]


async def test_a_prompt_is_answered(worker: Worker) -> None:
    worker.scripted.release.set()
    [answer] = [answer async for answer in worker.stub.Generate(prompt(media_refs=None))]
    assert list(answer.complete.output_ids) == [5, 6, 7]
    assert [request.request_id for request in worker.scripted.asked] == ["r"]


async def test_a_prompt_without_an_id_gets_one(worker: Worker) -> None:
    worker.scripted.release.set()
    assert await code_of(worker.stub.Generate(prompt(""))) == grpc.StatusCode.OK
    assert worker.scripted.asked[0].request_id


async def test_health_and_reflection_name_the_service(worker: Worker) -> None:
    health = health_pb2_grpc.HealthStub(worker.channel)
    answer = await health.Check(health_pb2.HealthCheckRequest(service=SERVICE_NAME))
    assert (SERVICE_NAME, answer.status) == (
        "vllm.grpc.engine.VllmEngine",
        health_pb2.HealthCheckResponse.SERVING,
    )


async def test_the_service_is_off_by_default() -> None:
    server = Server(ServerConfig(port=0))
    await server.start()
    await server.attach(FakeEngine(echo))
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = vllm_engine_pb2_grpc.VllmEngineStub(channel).Generate(prompt())
        assert await code_of(call) == grpc.StatusCode.UNIMPLEMENTED
    await server.stop()


async def test_nothing_is_answered_without_the_key() -> None:
    async with running_worker(api_key="secret") as worker:
        worker.scripted.release.set()
        for call in (
            worker.stub.Generate(prompt()),
            worker.stub.HealthCheck(vllm_engine_pb2.HealthCheckRequest()),
            worker.stub.GetModelInfo(vllm_engine_pb2.GetModelInfoRequest()),
            worker.stub.GetServerInfo(vllm_engine_pb2.GetServerInfoRequest()),
            worker.stub.GetLoads(vllm_engine_pb2.GetLoadsRequest()),
            worker.stub.GetTokenizer(common_pb2.GetTokenizerRequest()),
            worker.stub.SubscribeKvEvents(common_pb2.SubscribeKvEventsRequest()),
            worker.stub.Abort(vllm_engine_pb2.AbortRequest(request_ids=["r"])),
        ):
            assert await call.code() == grpc.StatusCode.UNAUTHENTICATED
        assert worker.scripted.asked == []
        key = (("authorization", "Bearer secret"),)
        assert await code_of(worker.stub.Generate(prompt(), metadata=key)) == grpc.StatusCode.OK


async def test_nothing_is_answered_before_the_model_is_loaded() -> None:
    async with running_worker(attach=False) as worker:
        assert not await healthy(worker)
        assert await code_of(worker.stub.Generate(prompt())) == grpc.StatusCode.UNAVAILABLE
        assert await code_of(worker.stub.GetTokenizer(common_pb2.GetTokenizerRequest())) == (
            grpc.StatusCode.UNAVAILABLE
        )
        await worker.server.attach(worker.engine)
        assert await healthy(worker)


async def test_a_drain_waits_for_what_runs_and_takes_nothing_new(worker: Worker) -> None:
    running = worker.stub.Generate(prompt())
    await worker.scripted.started.wait()
    draining = asyncio.ensure_future(worker.server.drain())
    async with asyncio.timeout(60):
        while await healthy(worker):  # noqa: ASYNC110 - the service says so to whoever asks
            await asyncio.sleep(0)
    assert await code_of(worker.stub.Generate(prompt("late"))) == grpc.StatusCode.UNAVAILABLE
    assert not draining.done()
    worker.scripted.release.set()
    assert await code_of(running) == grpc.StatusCode.OK
    await draining


async def test_abort_stops_a_request(worker: Worker) -> None:
    running = worker.stub.Generate(prompt())
    await worker.scripted.started.wait()
    await worker.stub.Abort(vllm_engine_pb2.AbortRequest(request_ids=["unknown", "r"]))
    [answer] = [answer async for answer in running]
    assert answer.complete.finish_reason == "abort"
    assert worker.scripted.ended.is_set()


async def test_abort_stops_nobody_elses_request() -> None:
    async with running_worker(api_keys="gateway key-one-of-sixteen\nother key-two-of-sixteen") as worker:
        running = worker.stub.Generate(prompt(), metadata=(("authorization", "Bearer key-one-of-sixteen"),))
        await worker.scripted.started.wait()
        await worker.stub.Abort(
            vllm_engine_pb2.AbortRequest(request_ids=["r"]),
            metadata=(("authorization", "Bearer key-two-of-sixteen"),),
        )
        worker.scripted.release.set()
        assert await code_of(running) == grpc.StatusCode.OK


async def test_a_gateway_that_hangs_up_ends_its_request(worker: Worker) -> None:
    running = worker.stub.Generate(prompt())
    await worker.scripted.started.wait()
    running.cancel()
    async with asyncio.timeout(60):
        await worker.scripted.ended.wait()


async def test_admission_counts_gateways_requests() -> None:
    async with running_worker(max_running_requests=1, max_waiting_requests=0) as worker:
        running = worker.stub.Generate(prompt())
        await worker.scripted.started.wait()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await worker.chat.Chat(ask())
        assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        refused = worker.stub.Generate(prompt("second"))
        assert await code_of(refused) == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "grpc-retry-pushback-ms" in dict(await refused.trailing_metadata())
        worker.scripted.release.set()
        assert await code_of(running) == grpc.StatusCode.OK


@pytest.mark.parametrize("stream", [False, True])
async def test_what_an_answer_takes_is_counted(worker: Worker, stream: bool) -> None:
    worker.scripted.release.set()
    assert await code_of(worker.stub.Generate(prompt(stream=stream))) == grpc.StatusCode.OK
    registry = worker.server.metrics.registry
    counted = {
        name: registry.get_sample_value(f"octet_{name}_tokens_total", {"key": ""})
        for name in ("prompt", "cached", "generated")
    }
    assert counted == {"prompt": 3, "cached": 2, "generated": 3}
    assert registry.get_sample_value("octet_candidates_total", {"finish_reason": "stop"}) == 1


async def test_pictures_come_with_the_request(worker: Worker) -> None:
    info = await worker.stub.GetServerInfo(vllm_engine_pb2.GetServerInfoRequest())
    assert (info.mm_processor, info.mm_media_ref_schemes) == ("inprocess", "data")
    worker.scripted.release.set()
    assert await code_of(worker.stub.Generate(with_media(picture()))) == grpc.StatusCode.OK
    [request] = worker.scripted.asked
    assert request.media_refs.items[0].url == picture()


async def test_a_large_picture_comes_as_the_model_needs_it(worker: Worker) -> None:
    worker.scripted.release.set()
    sent = picture((1500, 1200))
    [_] = [answer async for answer in worker.stub.Generate(with_media(sent))]
    [request] = worker.scripted.asked
    url = request.media_refs.items[0].url
    assert url.startswith("data:image/png;base64,")
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as image:
        assert (image.mode, image.size) == ("RGB", (1500, 1200))


async def test_what_takes_too_much_memory_is_refused() -> None:
    async with running_worker(max_image_memory=50_000_000) as worker:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in worker.stub.Generate(with_media(picture((4000, 4000)))):
                pass
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "media_refs.items[0].url"
    assert "more than the limit of 50000000" in violation.description


@pytest.mark.parametrize(
    ("request_", "path"),
    [
        (with_media("http://127.0.0.1/picture.png"), "media_refs.items[0].url"),
        (with_media("https://images.example.com/picture.png"), "media_refs.items[0].url"),
        (with_media("file:///etc/passwd"), "media_refs.items[0].url"),
        (with_media(""), "media_refs.items[0].url"),
        (with_media("data:image/png;base64,AAAA"), "media_refs.items[0].url"),
        (with_media("data:image/png;base64,"), "media_refs.items[0].url"),
        (with_media(picture((200, 100))), "media_refs.items[0].url"),
        (with_media(picture(), common_pb2.VIDEO), "media_refs.items[0].modality"),
        (with_media(picture(), 9), "media_refs.items[0].modality"),
        (with_media(picture(), -1), "media_refs.items[0].modality"),
        (prompt(mm_inputs={"mm_hashes": ["x"]}), "mm_inputs"),
        (prompt(extra_mm_inputs=[{"mm_hashes": ["x"]}]), "extra_mm_inputs"),
        (prompt(kv_transfer_params={"remote_host": "x"}), "kv_transfer_params"),
        (prompt(kv_transfer_params_json="{}"), "kv_transfer_params_json"),
        (prompt("a\nb"), "request_id"),
        (prompt(sampling_params={"n": 1000}), "sampling_params.n"),
    ],
)
async def test_what_is_refused(request_: Request, path: str) -> None:
    async with running_worker(max_image_pixels=10_000) as worker:
        worker.scripted.release.set()
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            async for _ in worker.stub.Generate(request_):
                pass
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == path
    assert worker.scripted.asked == []


@pytest.mark.parametrize("method", ["FlushCache", "StartProfile", "StopProfile", "Embed"])
async def test_what_routing_does_not_need_is_not_there(worker: Worker, method: str) -> None:
    requests = {
        "FlushCache": common_pb2.FlushCacheRequest,
        "StartProfile": common_pb2.StartProfileRequest,
        "StopProfile": common_pb2.StopProfileRequest,
        "Embed": vllm_engine_pb2.EmbedRequest,
    }
    assert await getattr(worker.stub, method)(requests[method]()).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_what_is_no_request(worker: Worker) -> None:
    """As everywhere: a status with details, for each of the methods."""
    for method in ("Generate", "Abort", "HealthCheck", "GetModelInfo", "GetTokenizer"):
        for messages in ([b"\xff"], [], [b"", b""]):
            call = worker.channel.stream_stream(f"/{SERVICE_NAME}/{method}")()
            for message in messages:
                await call.write(message)
            await call.done_writing()
            assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT, (method, messages)


async def test_requests_that_hold_too_much(worker: Worker) -> None:
    abort = vllm_engine_pb2.AbortRequest(request_ids=["r"] * 1001)
    with pytest.raises(grpc.aio.AioRpcError, match="has 1001 ids, more than 1000") as raised:
        await worker.stub.Abort(abort)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    long = Request(request_id="r", text="x" * 5_000_000)
    assert await code_of(worker.stub.Generate(long)) == grpc.StatusCode.INVALID_ARGUMENT
    # Pictures have limits of their own.
    picture = Request(request_id="r")
    picture.media_refs.items.add(modality=common_pb2.IMAGE, url="data:image/png;base64," + "A" * 5_000_000)
    call = worker.stub.Generate(picture)
    assert await code_of(call) == grpc.StatusCode.INVALID_ARGUMENT
    assert "media_refs" in await call.details()
