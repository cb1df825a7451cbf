"""Sampling, output formats and ModelService's messages, wrong in one field each, over a real channel."""

import math
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from octet.v1 import chat_service_pb2 as pb
from octet.v1 import model_service_pb2, tool_pb2
from tests.integration.conftest import Start, ask, details_of

# The scripted engine's.
VOCABULARY = 1000


def struct(**fields: Any) -> Struct:
    message = Struct()
    message.update(fields)
    return message


def sampling(**fields: Any) -> pb.ChatRequest:
    return ask(sampling=pb.SamplingParams(**fields))


def held(**fields: Any) -> pb.ChatRequest:
    return ask(output_format=pb.OutputFormat(**fields))


def counted(request: pb.ChatRequest) -> model_service_pb2.CountTokensRequest:
    return model_service_pb2.CountTokensRequest(request=request)


def demanding(**fields: Any) -> pb.ChatRequest:
    return ask(
        tools=[tool_pb2.Tool(name="f")],
        tool_choice=tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_REQUIRED),
        **fields,
    )


# Fields, the wrong one's name, a part of the sentence: one case for each way in which a field can be wrong.
SAMPLING: list[tuple[dict[str, Any], str, str]] = [
    ({"max_tokens": 0}, "max_tokens", "0 is not at least 1"),
    ({"max_tokens": -5}, "max_tokens", "-5 is not at least 1"),
    ({"temperature": -1}, "temperature", "-1 is not 0 to 2"),
    ({"temperature": 2.5}, "temperature", "2.5 is not 0 to 2"),
    ({"temperature": math.nan}, "temperature", "nan is not 0 to 2"),
    ({"temperature": math.inf}, "temperature", "inf is not 0 to 2"),
    ({"top_p": 0}, "top_p", "0 is not above 0, at most 1"),
    ({"top_p": math.nan}, "top_p", "nan is not above 0, at most 1"),
    ({"top_k": -1}, "top_k", "-1 is not at least 0"),
    ({"min_p": 1.5}, "min_p", "1.5 is not 0 to 1"),
    ({"seed": -1}, "seed", "-1 is not at least 0"),
    ({"stop": ["x"] * 10_000}, "stop", "has 10000 texts, more than the 16"),
    ({"stop": ["a", ""]}, "stop[1]", "has 0 characters, not 1 to 256"),
    ({"stop_token_ids": [1] * 65}, "stop_token_ids", "has 65 ids, more than the 64"),
    (
        {"stop_token_ids": [1, VOCABULARY]},
        "stop_token_ids[1]",
        "1000 is no token id; the model's are 0 to 999",
    ),
    ({"n": 0}, "n", "0 is not 1 to 16"),
    ({"n": 2, "temperature": 0}, "n", "asks for 2 equal answers"),
    ({"presence_penalty": 3}, "presence_penalty", "3 is not -2 to 2"),
    ({"frequency_penalty": math.nan}, "frequency_penalty", "nan is not -2 to 2"),
    ({"repetition_penalty": 0}, "repetition_penalty", "0 is not above 0, at most 2"),
    ({"min_tokens": -1}, "min_tokens", "-1 is not at least 0"),
    ({"min_tokens": 3, "max_tokens": 2}, "min_tokens", "3 is more than max_tokens, 2"),
    ({"logit_bias": {-1: 1}}, "logit_bias[-1]", "-1 is no token id"),
    ({"logit_bias": {VOCABULARY: 1}}, "logit_bias[1000]", "1000 is no token id"),
    ({"logit_bias": {5: 101}}, "logit_bias[5]", "101 is not -100 to 100"),
    ({"logit_bias": {5: math.nan}}, "logit_bias[5]", "nan is not -100 to 100"),
    ({"logit_bias": dict.fromkeys(range(1025), 1)}, "logit_bias", "has 1025 entries, more than the 1024"),
    ({"bad_words": ["x"] * 65}, "bad_words", "has 65 texts, more than the 64"),
    ({"bad_words": ["a", "b" * 257]}, "bad_words[1]", "has 257 characters, not 1 to 256"),
    ({"bad_words": [" "]}, "bad_words[0]", "has white space only"),
    ({"allowed_token_ids": [1] * 1025}, "allowed_token_ids", "has 1025 ids, more than the 1024"),
    ({"allowed_token_ids": [-1]}, "allowed_token_ids[0]", "-1 is no token id"),
    ({"top_logprobs": 3}, "top_logprobs", "is of use with logprobs only"),
    ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "21 is not 0 to 20"),
    ({"prompt_logprobs": -1}, "prompt_logprobs", "-1 is not 0 to 20"),
]

FORMATS: list[tuple[pb.ChatRequest, str, str]] = [
    (ask(output_format=pb.OutputFormat()), "output_format", "sets no format"),
    (held(json_schema=struct(type="nothing")), "output_format.json_schema", "is not a JSON Schema"),
    (held(json_schema=struct(minimum=math.nan)), "output_format.json_schema", "is not JSON"),
    (held(regex=""), "output_format.regex", "has 0 characters, not 1 to 8192"),
    (held(regex="a" * 8193), "output_format.regex", "has 8193 characters, not 1 to 8192"),
    (held(grammar="a" * 65537), "output_format.grammar", "has 65537 characters, not 1 to 65536"),
    (held(choice=pb.ChoiceFormat()), "output_format.choice.values", "has 0 texts, not 1 to 1000"),
    (held(choice=pb.ChoiceFormat(values=["a", ""])), "output_format.choice.values[1]", "has 0 characters"),
    (demanding(output_format=pb.OutputFormat(regex="a")), "output_format", "set one of the two"),
]

CONTRADICTIONS: list[tuple[dict[str, Any], str]] = [
    ({"allowed_token_ids": [1]}, "allowed_token_ids"),
    ({"bad_words": ["a"]}, "bad_words"),
    ({"min_tokens": 2}, "min_tokens"),
    ({"ignore_eos": True}, "ignore_eos"),
]


def chats() -> Iterator[tuple[pb.ChatRequest, str, str]]:
    for fields, name, sentence in SAMPLING:
        yield sampling(**fields), f"sampling.{name}", sentence
    yield from FORMATS
    for fields, name in CONTRADICTIONS:
        both = sampling(**fields)
        both.output_format.regex = "a"
        yield both, f"sampling.{name}", "could exclude every token that output_format permits"
        called = demanding(sampling=pb.SamplingParams(**fields))
        yield called, f"sampling.{name}", "could exclude every token that tool_choice permits"


OTHERS: list[tuple[str, Any, str, str]] = [
    ("GetModel", model_service_pb2.GetModelRequest(), "name", "name the model"),
    ("CountTokens", model_service_pb2.CountTokensRequest(), "request", "is missing"),
    ("CountTokens", counted(pb.ChatRequest()), "request.messages", "a request needs at least one message"),
    ("CountTokens", counted(sampling(n=0)), "request.sampling.n", "0 is not 1 to 16"),
    ("CountTokens", counted(held(regex="")), "request.output_format.regex", "has 0 characters"),
    ("CountTokens", counted(ask(request_id="ä")), "request.request_id", "is not 1 to 128 printable ASCII"),
    ("Tokenize", model_service_pb2.TokenizeRequest(), "text", "has 0 characters, not 1 to 1048576"),
    (
        "Tokenize",
        model_service_pb2.TokenizeRequest(text="a" * 1048577),
        "text",
        "has 1048577 characters, not 1 to 1048576",
    ),
    ("Detokenize", model_service_pb2.DetokenizeRequest(), "token_ids", "has 0 ids, not 1 to 262144"),
    (
        "Detokenize",
        model_service_pb2.DetokenizeRequest(token_ids=[1] * 262145),
        "token_ids",
        "has 262145 ids, not 1 to 262144",
    ),
    (
        "Detokenize",
        model_service_pb2.DetokenizeRequest(token_ids=[1, VOCABULARY]),
        "token_ids[1]",
        "1000 is no token id; the model's are 0 to 999",
    ),
    ("Detokenize", model_service_pb2.DetokenizeRequest(token_ids=[-1]), "token_ids[0]", "-1 is no token id"),
]

CASES: list[tuple[str, Any, str, str]] = [
    *(("Chat", request, field, sentence) for request, field, sentence in chats()),
    *OTHERS,
]


@pytest.mark.parametrize(
    ("method", "request_", "field", "sentence"),
    CASES,
    ids=[f"{method}-{field}-{i}" for i, (method, _, field, _) in enumerate(CASES)],
)
async def test_a_wrong_field_is_named(
    start: Start, method: str, request_: Any, field: str, sentence: str
) -> None:
    running = await start()
    stub = running.chat if hasattr(running.chat, method) else running.models
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await getattr(stub, method)(request_)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    [violation] = details.bad_request.field_violations
    assert violation.field == field
    assert sentence in violation.description
    assert (details.info.domain, details.info.reason) == ("octet.v1", "INVALID_FIELD")
    assert running.engine.asked == []
    assert running.engine.counted == []


async def test_a_model_that_is_not_served(start: Start) -> None:
    running = await start()
    for call in (
        running.models.CountTokens(model_service_pb2.CountTokensRequest(request=ask(model="other"))),
        running.models.Tokenize(model_service_pb2.TokenizeRequest(model="other", text="a")),
        running.models.Detokenize(model_service_pb2.DetokenizeRequest(model="other", token_ids=[1])),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert details_of(raised.value).info.reason == "MODEL_NOT_FOUND"
