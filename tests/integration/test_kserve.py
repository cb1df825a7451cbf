"""GRPCInferenceService as KServe's protocol has it; Triton's own client is in test_triton_client.py."""

import asyncio
import base64
import io
import json
import math
import threading
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from PIL import Image

from octet.config import ServerConfig
from octet.engine.types import (
    Deltas,
    Event,
    GenerationRequest,
    ImagePart,
    LogprobsDelta,
    PositionLogprobs,
    Service,
    TokenLogprob,
)
from octet.errors import EngineDeadError, InvalidRequestError
from octet.kserve import grpc_service_pb2, grpc_service_pb2_grpc
from octet.server import reload
from octet.server.warmup import REQUEST_ID as WARM_UP_ID
from octet.translate.kserve.answer import Answer
from octet.v1 import chat_service_pb2
from tests.integration.conftest import Running, Start, code_of, details_of, until
from tests.integration.fake_engine import Endless, accepted, finished, text, usage
from tests.kserve import make

SERVICE = "inference.GRPCInferenceService"


def infer(said: str = "one two", **fields: Any) -> grpc_service_pb2.ModelInferRequest:
    return make(False, ("text_input", said), **fields)


def kserve(**settings: Any) -> ServerConfig:
    return ServerConfig(port=0, kserve=True, **settings)


def stub(running: Running) -> grpc_service_pb2_grpc.GRPCInferenceServiceStub:
    return grpc_service_pb2_grpc.GRPCInferenceServiceStub(running.channel)


def outputs(response: grpc_service_pb2.ModelInferResponse) -> dict[str, list[Any]]:
    """The elements of a response's outputs, from where typed ones are."""
    found = {}
    for tensor in response.outputs:
        [(_, values)] = tensor.contents.ListFields()
        assert list(tensor.shape) == [len(values)]
        found[tensor.name] = list(values)
    return found


async def answers(stream: Any) -> list[grpc_service_pb2.ModelStreamInferResponse]:
    found = []
    while (response := await stream.read()) is not grpc.aio.EOF:
        found.append(response)
    return found


async def test_a_whole_answer_with_what_was_asked_for(start: Start) -> None:
    running = await start(config=kserve())
    request = make(
        False,
        ("text_input", "one two"),
        ("sampling_parameters", '{"temperature": 0.5, "n": 2}'),
        ("exclude_input_in_output", True),
        ("return_finish_reason", True),
        ("return_num_input_tokens", True),
        id="7",
    )
    response = await stub(running).ModelInfer(request)
    assert (response.model_name, response.model_version, response.id) == ("fake", "1", "7")
    assert not response.parameters
    assert outputs(response) == {
        "text_output": [b"one two ", b"one two "],
        "finish_reason": [b"stop", b"stop"],
        "num_input_tokens": [7],
    }


async def test_answers_are_raw_where_requests_are(start: Start) -> None:
    running = await start(config=kserve())
    request = make(True, ("text_input", "one"), ("return_num_output_tokens", True))
    response = await stub(running).ModelInfer(request)
    assert list(response.raw_output_contents) == [b"\7\0\0\0oneone ", b"\1\0\0\0"]
    assert [(one.name, one.datatype) for one in response.outputs] == [
        ("text_output", "BYTES"),
        ("num_output_tokens", "UINT32"),
    ]
    assert not any(tensor.HasField("contents") for tensor in response.outputs)


async def test_a_stream_gives_the_text_as_it_is_produced(start: Start) -> None:
    running = await start(config=kserve())
    request = make(
        False,
        ("text_input", "one two"),
        ("stream", True),
        ("return_num_output_tokens", True),
        ("return_finish_reason", True),
        id="7",
    )
    responses = [one.infer_response for one in await answers(stub(running).ModelStreamInfer(iter([request])))]
    assert [outputs(one)["text_output"] for one in responses] == [[b"one "], [b"two "], [b""]]
    assert [outputs(one)["num_output_tokens"] for one in responses] == [[1], [1], [0]]
    assert [outputs(one)["finish_reason"] for one in responses] == [[b"None"], [b"None"], [b"stop"]]
    finals = [one.parameters["triton_final_response"].bool_param for one in responses]
    assert finals == [False, False, True]
    assert {one.id for one in responses} == {"7"}


async def test_requests_of_a_stream_run_side_by_side_and_one_that_fails_is_alone_with_it(
    start: Start,
) -> None:
    script = Endless()
    running = await start(script, config=kserve())
    wrong = infer(id="wrong")
    wrong.inputs[0].datatype = "FP32"
    sent = [infer("a", id="slow"), wrong, infer("b", id="slow")]
    stream = stub(running).ModelStreamInfer(iter(sent))
    failed = await stream.read()
    assert failed.error_message.startswith("INVALID_ARGUMENT: inputs[0].datatype: ")
    assert failed.infer_response.id == "wrong"
    await until(lambda: len(running.engine.unfinished) == 2)
    script.release.set()
    ended = await answers(stream)
    assert [one.error_message for one in ended] == ["", ""]
    assert [outputs(one.infer_response)["text_output"] for one in ended] == [
        [b"afirst last"],
        [b"bfirst last"],
    ]
    assert await stream.code() == grpc.StatusCode.OK


async def test_a_status_ends_the_stream_of_who_asks_for_that(start: Start) -> None:
    running = await start(config=kserve())
    wrong = infer()
    wrong.inputs[0].shape[0] = 2
    stream = stub(running).ModelStreamInfer(iter([wrong]), metadata=[("triton_grpc_error", "true")])
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answers(stream)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(raised.value).bad_request.field_violations[0].field == "inputs[0].shape"


async def test_what_the_engine_refuses_is_said_of_the_tensor(start: Start) -> None:
    async def refuse(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        if request.request_id == WARM_UP_ID:
            yield accepted()
            yield finished(0)
            return
        raise InvalidRequestError("output_format.regex", "cannot be compiled")

    running = await start(refuse, config=kserve())
    request = make(True, ("text_input", "x"), ("sampling_parameters", '{"guided_decoding": {"regex": "("}}'))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ModelInfer(request)
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "raw_input_contents[1]"
    assert violation.description == "sampling_parameters.guided_decoding.regex: cannot be compiled"


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_pictures_larger_than_a_frame(start: Start, method: str) -> None:
    async def look(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        if request.prompt is not None:
            shown = [part for part in request.prompt.parts if isinstance(part, ImagePart)]
            yield text(f"{len(shown)} of {shown[0].image.size}", 1)
        yield finished(1)

    running = await start(look, config=kserve())
    file = io.BytesIO()
    Image.effect_noise((400, 300), 99).save(file, "PNG")
    assert len(file.getvalue()) > 2**16
    picture = base64.b64encode(file.getvalue())
    request = make(True, ("text_input", "look"), ("image", [picture]), ("exclude_input_in_output", True))
    if method == "ModelInfer":
        response = await stub(running).ModelInfer(request)
    else:
        [answer] = await answers(stub(running).ModelStreamInfer(iter([request])))
        response = answer.infer_response
    assert response.raw_output_contents[0][4:] == b"1 of (400, 300)"


async def test_a_picture_that_is_none(start: Start) -> None:
    running = await start(config=kserve())
    request = make(False, ("text_input", "x"), ("image", [base64.b64encode(b"no picture")]))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ModelInfer(request)
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "inputs[1].contents.bytes_contents[0]"
    assert violation.description.startswith("image[0]: ")


async def test_log_probabilities(start: Start) -> None:
    likely, other = TokenLogprob(5, "a", b"a", -0.5, 1), TokenLogprob(6, "b", b"b", -1.5, 2)

    async def probably(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        yield accepted()
        for tokens in (1, 2):
            shown = LogprobsDelta(0, (PositionLogprobs(likely, (likely, other)),))
            yield Deltas((shown,) if request.sampling.logprobs else (), usage(tokens))
        yield finished(2)

    running = await start(probably, config=kserve())
    tensors = [("text_input", "x"), ("return_cumulative_logprob", True), ("return_logprobs", True)]
    asked = outputs(await stub(running).ModelInfer(make(False, *tensors)))
    assert (asked["cumulative_logprob"], asked["logprobs"]) == ([-1.0], [b"null"])
    with_top = make(False, *tensors, ("sampling_parameters", '{"logprobs": 1}'))
    [shown] = outputs(await stub(running).ModelInfer(with_top))["logprobs"]
    entry = b'{"5": {"logprob": -0.5, "rank": 1, "decoded_token": "a"}, "6": {"logprob": -1.5, "rank": 2, '
    assert shown == b"[" + b", ".join([entry + b'"decoded_token": "b"}}'] * 2) + b"]"


async def test_log_probabilities_are_written_in_a_thread_and_are_json(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a whole answer, which may have a million; the loop answers everybody else meanwhile."""
    ruled_out = TokenLogprob(6, "b", b"b", -math.inf, 2)

    async def certainly(request: GenerationRequest) -> AsyncGenerator[Event, None]:
        shown = PositionLogprobs(TokenLogprob(5, "a", b"a", 0.0, 1), (ruled_out,))
        yield accepted()
        yield Deltas((LogprobsDelta(0, (shown,)),) if request.sampling.logprobs else (), usage(1))
        yield finished(1)

    threads = []
    response = Answer.response

    def noted(answer: Answer, *, in_stream: bool) -> grpc_service_pb2.ModelInferResponse:
        threads.append(threading.current_thread())
        return response(answer, in_stream=in_stream)

    monkeypatch.setattr(Answer, "response", noted)
    running = await start(certainly, config=kserve())
    tensors = [("text_input", "x"), ("return_logprobs", True)]
    await stub(running).ModelInfer(make(False, *tensors))
    asked = make(False, *tensors, ("sampling_parameters", '{"logprobs": 1}'))
    [shown] = outputs(await stub(running).ModelInfer(asked))["logprobs"]
    assert [thread is threading.main_thread() for thread in threads] == [True, False]
    [position] = json.loads(shown, parse_constant=pytest.fail)
    assert [one["logprob"] for one in position.values()] == [0.0, -9999.0]


@pytest.mark.parametrize(
    "sampling", [r'{"logit_bias": {"\ud800": 1}}', r'{"guided_decoding": {"\ud800": 1}}']
)
async def test_half_a_character_in_a_name_is_one_requests_error(start: Start, sampling: str) -> None:
    """No message of a status can hold it: the stream's other requests must not end for that."""
    running = await start(config=kserve())
    wrong = make(True, ("text_input", "x"), ("sampling_parameters", sampling), id="wrong")
    first, second = await answers(stub(running).ModelStreamInfer(iter([wrong, infer()])))
    said = first if first.error_message else second
    assert said.infer_response.id == "wrong"
    assert said.error_message.startswith("INVALID_ARGUMENT: raw_input_contents[1]: sampling_parameters.")
    assert r"\ud800" in said.error_message
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ModelInfer(wrong)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    [violation] = details_of(raised.value).bad_request.field_violations
    assert violation.field == "raw_input_contents[1]"


async def test_a_stream_outlasts_its_key_for_no_further_request(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was let in is answered, as calls are whose key is taken away."""
    monkeypatch.setattr(reload, "POLL_SECONDS", 0.01)
    keys = tmp_path / "keys"
    await asyncio.to_thread(keys.write_text, "team old-key\n")
    running = await start(script := Endless(), config=kserve(api_keys_file=str(keys)))
    stream = stub(running).ModelStreamInfer(metadata=[("authorization", "Bearer old-key")])
    await stream.write(infer("a", id="before"))
    await asyncio.wait_for(script.started.wait(), 5)
    await asyncio.to_thread(keys.write_text, "team new-key\n")
    with_new_key = [("authorization", "Bearer new-key")]

    async def opens() -> bool:
        try:
            await stub(running).ServerLive(grpc_service_pb2.ServerLiveRequest(), metadata=with_new_key)
        except grpc.aio.AioRpcError:
            return False
        return True

    async with asyncio.timeout(5):
        while not await opens():
            pass
    await stream.write(infer("b", id="after"))
    script.release.set()
    answer = await stream.read()
    assert outputs(answer.infer_response) == {"text_output": [b"afirst last"]}
    assert await code_of(stream) == grpc.StatusCode.UNAUTHENTICATED
    assert len(running.engine.asked) == 1


@pytest.mark.parametrize("method", ["ModelInfer", "ModelStreamInfer"])
async def test_a_cancel_stops_the_engine(start: Start, method: str) -> None:
    running = await start(script := Endless(), config=kserve())

    async def one_after_the_other() -> AsyncIterator[Any]:
        yield infer()
        await asyncio.Event().wait()

    requests = infer() if method == "ModelInfer" else one_after_the_other()
    call = getattr(stub(running), method)(requests)
    await asyncio.wait_for(script.started.wait(), 5)
    call.cancel()
    await asyncio.wait_for(running.engine.idle.wait(), 5)


async def test_the_timeout_of_a_request_is_its_deadline(start: Start) -> None:
    running = await start(Endless(), config=kserve())
    request = infer()
    request.parameters["timeout"].int64_param = 300_000
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ModelInfer(request, timeout=60)
    assert raised.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert details_of(raised.value).info.reason == "DEADLINE_EXCEEDED"
    [late] = await answers(stub(running).ModelStreamInfer(iter([request])))
    assert late.error_message.startswith("DEADLINE_EXCEEDED: ")
    await asyncio.wait_for(running.engine.idle.wait(), 5)


async def test_admission_and_keys_are_those_of_every_call(start: Start) -> None:
    config = kserve(api_key="secret", max_running_requests=1, max_waiting_requests=0)
    running = await start(script := Endless(), config=config)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ServerReady(grpc_service_pb2.ServerReadyRequest())
    assert raised.value.code() == grpc.StatusCode.UNAUTHENTICATED
    key = [("authorization", "Bearer secret")]
    first = stub(running).ModelInfer(infer(), metadata=key)
    await asyncio.wait_for(script.started.wait(), 5)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub(running).ModelInfer(infer(), metadata=key)
    assert raised.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert dict(raised.value.trailing_metadata())["grpc-retry-pushback-ms"]
    [refused] = await answers(stub(running).ModelStreamInfer(iter([infer()]), metadata=key))
    assert refused.error_message.startswith("RESOURCE_EXHAUSTED: ")
    first.cancel()
    await asyncio.wait_for(running.engine.idle.wait(), 5)


async def test_bytes_that_are_no_request_end_the_stream(start: Start) -> None:
    running = await start(config=kserve())
    call = running.channel.stream_stream(f"/{SERVICE}/ModelStreamInfer")
    stream = call(iter([b"\xff\xff"]))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stream.read()
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert details_of(raised.value).info.reason == "MALFORMED_REQUEST"


async def test_the_end_of_the_engine_ends_streams(start: Start) -> None:
    running = await start(script := Endless(), config=kserve())
    watching = asyncio.ensure_future(running.server.watch(running.engine))
    stream = stub(running).ModelStreamInfer(iter([infer(id="a")]))
    await asyncio.wait_for(script.started.wait(), 5)
    running.engine.death = EngineDeadError("the engine has died")
    [failed] = await answers(stream)
    assert failed.error_message.startswith("UNAVAILABLE: ")
    await watching
    assert await code_of(stub(running).ModelStreamInfer(iter([infer()]))) == grpc.StatusCode.UNAVAILABLE


async def test_cancelled_by_its_callers_other_call(start: Start) -> None:
    """An answer that CancelChat stops is complete: it says that it was aborted."""
    running = await start(script := Endless(), config=kserve())
    request = make(False, ("text_input", "x"), ("return_finish_reason", True))
    call = stub(running).ModelInfer(request, metadata=[("x-request-id", "mine")])
    await asyncio.wait_for(script.started.wait(), 5)
    await running.chat.CancelChat(chat_service_pb2.CancelChatRequest(request_ids=["mine"]))
    assert outputs(await call) == {"text_output": [b"xfirst "], "finish_reason": [b"abort"]}


async def test_what_is_served(start: Start) -> None:
    running = await start(config=kserve())
    described = await stub(running).ServerMetadata(grpc_service_pb2.ServerMetadataRequest())
    assert described.name == "octet"
    metadata = await stub(running).ModelMetadata(grpc_service_pb2.ModelMetadataRequest(name="fake-alias"))
    assert (metadata.name, list(metadata.versions)) == ("fake-alias", ["1"])
    answer = await stub(running).ModelConfig(grpc_service_pb2.ModelConfigRequest(name="fake", version="1"))
    config = answer.config
    assert config.model_transaction_policy.decoupled
    assert [one.name for one in config.input] == [one.name for one in metadata.inputs]
    assert [one.name for one in config.output] == [one.name for one in metadata.outputs]
    assert [one.name for one in config.input if not one.optional] == ["text_input"]
    for call in (
        stub(running).ModelMetadata(grpc_service_pb2.ModelMetadataRequest(name="other")),
        stub(running).ModelConfig(grpc_service_pb2.ModelConfigRequest(name="fake", version="7")),
    ):
        assert await call.code() == grpc.StatusCode.NOT_FOUND
    call = stub(running).ModelConfig(grpc_service_pb2.ModelConfigRequest())
    assert await call.code() == grpc.StatusCode.INVALID_ARGUMENT


async def ready(running: Running, name: str = "fake", version: str = "") -> tuple[bool, bool]:
    server = await stub(running).ServerReady(grpc_service_pb2.ServerReadyRequest())
    model = await stub(running).ModelReady(grpc_service_pb2.ModelReadyRequest(name=name, version=version))
    live = await stub(running).ServerLive(grpc_service_pb2.ServerLiveRequest())
    assert live.live
    return server.ready, model.ready


async def health_of(running: Running) -> int:
    answer = await health_pb2_grpc.HealthStub(running.channel).Check(
        health_pb2.HealthCheckRequest(service=SERVICE)
    )
    return int(answer.status)


async def test_ready_while_the_engine_is_and_until_the_server_leaves(start: Start) -> None:
    running = await start(config=kserve(grace_seconds=60), attach=False)
    assert await ready(running) == (False, False)
    assert await health_of(running) == health_pb2.HealthCheckResponse.NOT_SERVING
    await running.server.attach(running.engine)
    assert await ready(running) == (True, True)
    assert await ready(running, "other") == (True, False)
    assert await ready(running, "fake", "2") == (True, False)
    assert await health_of(running) == health_pb2.HealthCheckResponse.SERVING
    retiring = asyncio.ensure_future(running.server.retire())
    await until(lambda: running.server.metrics.serving._value.get() == 0)
    assert await ready(running) == (False, False)
    assert (await stub(running).ModelInfer(infer())).outputs, "calls are taken all the same"
    retiring.cancel()


async def test_a_model_that_writes_nothing(start: Start) -> None:
    running = await start(config=kserve(), services=(Service.EMBEDDING,))
    assert await ready(running) == (True, False)
    assert await health_of(running) == health_pb2.HealthCheckResponse.NOT_SERVING
    assert await stub(running).ModelInfer(infer()).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_it_is_not_there_unless_asked_for(start: Start) -> None:
    running = await start()
    assert await stub(running).ModelInfer(infer()).code() == grpc.StatusCode.UNIMPLEMENTED


async def test_calls_are_counted(start: Start) -> None:
    running = await start(config=kserve())
    await stub(running).ModelInfer(infer())
    await ready(running)
    registry = running.server.metrics.registry
    for method in ("ModelInfer", "ServerReady"):
        labels = {"method": f"{SERVICE}/{method}", "code": "OK", "key": ""}
        assert registry.get_sample_value("octet_rpc_requests_total", labels) == 1, method
    assert registry.get_sample_value("octet_generated_tokens_total", {"key": ""}) == 2
