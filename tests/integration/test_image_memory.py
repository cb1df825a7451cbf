"""Pictures that are large, slow or broken, and what they cost their own callers and others."""

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import grpc
import psutil
import pytest

from octet.config import ServerConfig
from octet.v1 import chat_service_pb2, content_pb2, model_service_pb2
from tests.integration.conftest import Running, Start, ask, details_of, until
from tests.integration.fake_engine import Endless
from tests.pictures import flat, flat_png, slow_jpeg

SMALL = flat_png(3, 2)
SECRETS = {"alice": "a" * 16, "bob": "b" * 16}
KEYS = "\n".join(f"{name} {secret}" for name, secret in SECRETS.items())
MB = 2**20


def config(**settings: Any) -> ServerConfig:
    return ServerConfig(port=0, api_keys=KEYS, **settings)


def show(*files: bytes, **fields: Any) -> chat_service_pb2.ChatRequest:
    request = ask("look", **fields)
    for file in files:
        request.messages[0].parts.add(image=content_pb2.Image(data=file))
    return request


def chat(running: Running, caller: str, *files: bytes, timeout: float | None = 60, **fields: Any) -> Any:
    metadata = [("authorization", f"Bearer {SECRETS[caller]}")]
    return asyncio.ensure_future(
        _answer(running.chat.Chat(show(*files, **fields), metadata=metadata, timeout=timeout))
    )


async def _answer(call: Any) -> Any:
    return await call


Decoders = Callable[[], list[psutil.Process]]


@pytest.fixture
def decoders() -> Decoders:
    """Tells the processes that decode pictures for this test; another test's server may have some as well."""
    others = _decoders()
    return lambda: [process for process in _decoders() if process not in others]


def _decoders() -> list[psutil.Process]:
    found = []
    for child in psutil.Process().children():
        try:
            if "octet.pictures.worker" in child.cmdline():
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await asyncio.wait_for(call, 30)
    return raised.value


@pytest.mark.parametrize(
    "files",
    [
        (flat("WEBP", 4000),),
        (flat("PNG", 4000),),
        (flat("GIF", 6000),),
        (SMALL, flat("PNG", 1500), flat("PNG", 4000)),
    ],
    ids=["WebP", "PNG", "GIF", "the third"],
)
async def test_what_can_never_fit_is_refused_with_its_numbers(
    start: Start, decoders: Decoders, files: tuple[bytes, ...]
) -> None:
    running = await start(config=config(max_image_memory=120 * MB))
    error = await failure(chat(running, "alice", *files))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(error).bad_request.field_violations
    assert violation.field == f"messages[0].parts[{len(files)}].image.data"
    assert f"limit of {120 * MB}" in violation.description
    assert not decoders()
    assert running.server.admission.load().image_bytes == 0
    await chat(running, "alice", SMALL)


async def test_requests_wait_for_memory_and_text_does_not(start: Start) -> None:
    running = await start(config=config(max_image_memory=200 * MB, image_decode_seconds=60))
    slow = chat(running, "alice", slow_jpeg(), request_id="slow")
    await until(lambda: running.server.admission.load().image_bytes > 0)
    waiting = chat(running, "bob", slow_jpeg(), request_id="waits")
    await until(lambda: running.server.admission.load().waiting_image_bytes > 0)
    for caller in SECRETS:
        await chat(running, caller)
    await cancel(running, "bob", "waits")
    assert (await waiting).candidates[0].finish_reason == chat_service_pb2.FINISH_REASON_CANCELLED
    assert running.server.admission.load().waiting_image_bytes == 0
    small = chat(running, "bob", flat("PNG", 4000))
    await until(lambda: running.server.admission.load().waiting_image_bytes > 0)
    await cancel(running, "alice", "slow")
    await small
    await slow
    await until(lambda: running.server.admission.load().image_bytes == 0)


async def cancel(running: Running, caller: str, request_id: str) -> None:
    await running.chat.CancelChat(
        chat_service_pb2.CancelChatRequest(request_ids=[request_id]),
        metadata=[("authorization", f"Bearer {SECRETS[caller]}")],
    )


async def test_a_callers_slow_pictures_leave_a_process_to_others(start: Start, decoders: Decoders) -> None:
    running = await start(config=config(image_threads=2, image_decode_seconds=60))
    slow = [chat(running, "alice", slow_jpeg()) for _ in range(6)]
    await until(lambda: len(decoders()) == 2)
    await asyncio.wait_for(chat(running, "bob", SMALL), 20)
    assert not any(call.done() for call in slow)
    assert len(decoders()) == 3
    for call in slow:
        call.cancel()
    await until(lambda: running.server.admission.load().image_bytes == 0)
    await asyncio.wait_for(chat(running, "alice", SMALL), 20)


@pytest.mark.parametrize("how", ["deadline", "cancel", "gone"])
async def test_decoding_stops_with_its_request(start: Start, decoders: Decoders, how: str) -> None:
    running = await start(config=config(image_decode_seconds=600))
    await chat(running, "alice", SMALL)
    (decoder,) = decoders()
    call = chat(running, "alice", slow_jpeg(), request_id="r1", timeout=1.0 if how == "deadline" else 600)
    if how == "deadline":
        assert (await failure(call)).code() == grpc.StatusCode.DEADLINE_EXCEEDED
    else:
        await until(lambda: running.server.admission.load().image_bytes > 0)
        if how == "gone":
            call.cancel()
        else:
            await cancel(running, "alice", "r1")
            await call
    await until(lambda: not decoder.is_running())
    await until(lambda: running.server.admission.load().image_bytes == 0)
    assert [request.request_id for request in running.engine.asked if request.request_id == "r1"] == []
    await chat(running, "alice", SMALL)


async def test_what_takes_too_long_is_refused(start: Start) -> None:
    running = await start(config=config(image_decode_seconds=0.5))
    await chat(running, "alice", SMALL)
    error = await failure(chat(running, "alice", SMALL, slow_jpeg()))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = details_of(error).bad_request.field_violations
    assert violation.field == "messages[0].parts[2].image.data"
    assert "more than 0.5 seconds" in violation.description


async def test_a_crash_is_refused_and_the_server_goes_on(start: Start, decoders: Decoders) -> None:
    running = await start(config=config(image_decode_seconds=60))
    await chat(running, "alice", SMALL)
    (decoder,) = decoders()
    before = decoder.cpu_times().user
    call = chat(running, "alice", slow_jpeg())
    await until(lambda: decoder.cpu_times().user > before + 0.05)
    os.kill(decoder.pid, signal.SIGSEGV)
    error = await failure(call)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(error).bad_request.field_violations[0].field == "messages[0].parts[1].image.data"
    await chat(running, "alice", SMALL)


async def test_memory_is_free_when_the_engine_has_the_pictures(start: Start) -> None:
    script = Endless()
    running = await start(script, config=config())
    call = chat(running, "alice", flat("PNG", 2000))
    await script.started.wait()
    assert running.server.admission.load().image_bytes == 0
    script.release.set()
    await call


async def test_counting_tokens_waits_for_memory(start: Start) -> None:
    running = await start(config=config(max_image_memory=200 * MB, image_decode_seconds=60))
    slow = chat(running, "alice", slow_jpeg())
    await until(lambda: running.server.admission.load().image_bytes > 0)
    count = asyncio.ensure_future(
        _answer(
            running.models.CountTokens(
                model_service_pb2.CountTokensRequest(request=show(slow_jpeg())),
                metadata=[("authorization", f"Bearer {SECRETS['bob']}")],
            )
        )
    )
    await until(lambda: running.server.admission.load().waiting_image_bytes > 0)
    assert running.server.admission.load().token_calls == 1
    count.cancel()
    await until(lambda: running.server.admission.load().waiting_image_bytes == 0)
    slow.cancel()
    await until(lambda: running.server.admission.load().image_bytes == 0)


async def test_counting_that_waits_for_memory_keeps_no_turn_from_texts(start: Start) -> None:
    running = await start(config=config(max_image_memory=200 * MB, image_decode_seconds=60))
    slow = chat(running, "alice", slow_jpeg())
    await until(lambda: running.server.admission.load().image_bytes > 0)

    def metadata(caller: str) -> list[tuple[str, str]]:
        return [("authorization", f"Bearer {SECRETS[caller]}")]

    counts = [
        asyncio.ensure_future(
            _answer(
                running.models.CountTokens(
                    model_service_pb2.CountTokensRequest(request=show(slow_jpeg())), metadata=metadata(caller)
                )
            )
        )
        for caller in ("alice", "bob")
        for _ in range(3)
    ]
    await until(lambda: running.server.admission.load().token_calls == 6)
    for caller in SECRETS:
        text = model_service_pb2.TokenizeRequest(text="a text")
        await asyncio.wait_for(running.models.Tokenize(text, metadata=metadata(caller)), 20)
    assert running.server.admission.load().token_calls == 6
    for call in (*counts, slow):
        call.cancel()
    await until(lambda: running.server.admission.load().image_bytes == 0)
    assert running.server.admission.load().waiting_image_bytes == 0


async def test_the_end_of_a_server_is_that_of_its_decoders(start: Start, decoders: Decoders) -> None:
    running = await start(config=config(image_decode_seconds=60))
    await chat(running, "bob", SMALL)
    call = chat(running, "alice", slow_jpeg())
    await until(lambda: running.server.admission.load().image_bytes > 0)
    processes = decoders()
    await running.server.stop()
    assert (await failure(call)).code() == grpc.StatusCode.UNAVAILABLE
    await until(lambda: not any(process.is_running() for process in processes))


async def test_a_decoder_that_was_ended_while_it_was_idle_is_replaced(
    start: Start, decoders: Decoders
) -> None:
    running = await start(config=config())
    await chat(running, "alice", SMALL)
    (decoder,) = decoders()
    decoder.kill()
    await until(lambda: decoder.status() == psutil.STATUS_ZOMBIE)
    await chat(running, "alice", SMALL)
