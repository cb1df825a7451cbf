"""What is held against a call's end, and what is not."""

import json
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from octet.v1 import chat_service_pb2, model_service_pb2
from tests.fuzz.cases import Call
from tests.fuzz.judge import judge
from tests.fuzz.methods import CHAT, COUNT_TOKENS, STREAM_CHAT
from tests.fuzz.play import Outcome
from tests.integration.conftest import ask

Code = grpc.StatusCode


def outcome(code: grpc.StatusCode, details: str = "", *, method: str = CHAT, **fields: Any) -> Outcome:
    request: Any = ask("hello", **fields.pop("request", {}))
    if method == COUNT_TOKENS:
        request = model_service_pb2.CountTokensRequest(request=request)
    call = Call(method, (request.SerializeToString(),), **fields.pop("call", {}))
    return Outcome(call, code, details, **fields)


def refused(
    field: str = "messages[0].parts[0].text",
    *,
    reason: str = "INVALID_FIELD",
    domain: str = "octet.v1",
    description: str = "is empty",
    **more: Any,
) -> Outcome:
    bad = error_details_pb2.BadRequest(
        field_violations=[{"field": field, "description": description, "reason": reason}]
    )
    status = status_pb2.Status(code=3, message="no")
    for detail in (error_details_pb2.ErrorInfo(reason=reason, domain=domain), bad):
        status.details.add().Pack(detail)
    trailers = (("x-request-id", "a"), ("grpc-status-details-bin", status.SerializeToString()))
    return outcome(Code.INVALID_ARGUMENT, "no", trailers=trailers, **more)


RIGHT = {
    "refused at a field": refused(),
    "refused at a map's entry": refused("sampling.logit_bias[-5]"),
    "refused at a field within a request": refused("request.sampling.top_p", method=COUNT_TOKENS),
    "refused at a name within a Struct": refused("chat_template_args.tools"),
    "no request": refused("", reason="MALFORMED_REQUEST"),
    "cancelled by the client": outcome(Code.CANCELLED, cancelled=True),
    "too late": outcome(Code.DEADLINE_EXCEEDED, call={"seconds": 1.0}),
    "a method that nobody has": outcome(Code.UNIMPLEMENTED, method="/a/b"),
    "too much metadata": outcome(Code.RESOURCE_EXHAUSTED, call={"metadata": (("x", "y" * 17_000),)}),
}

WRONG = {
    "did not end": Outcome(Call(CHAT)),
    "ended INTERNAL": outcome(Code.INTERNAL),
    "ended UNKNOWN": outcome(Code.UNKNOWN, method="/a/b"),
    "ended UNAVAILABLE": outcome(Code.UNAVAILABLE),
    "nobody cancelled it": outcome(Code.CANCELLED),
    "without a deadline": outcome(Code.DEADLINE_EXCEEDED),
    "although it carries a key": outcome(Code.UNAUTHENTICATED),
    "which no call does": outcome(Code.OUT_OF_RANGE),
    "is unimplemented": outcome(Code.UNIMPLEMENTED),
    "without details": outcome(Code.NOT_FOUND),
    "without a reason": refused(domain="elsewhere"),
    "at no field": refused(""),
    "without a sentence": refused(description=" "),
    "which no request has": refused("messages[0].colour"),
    "which the request does not have": refused("messages[1].role"),
    "which counts what is not repeated": refused("sampling[0]"),
    "which is no path": refused("messages[0]. role"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_nothing_is_held_against(case: str) -> None:
    assert list(judge(RIGHT[case])) == []


@pytest.mark.parametrize("case", WRONG)
def test_what_is_held_against(case: str) -> None:
    [problem] = judge(WRONG[case])
    assert case in problem


def answer(**candidate: Any) -> dict[str, Any]:
    whole = {"index": 0, "finish_reason": "FINISH_REASON_STOP", "message": {"parts": [{"text": "hello"}]}}
    usage = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
    return {"id": "a", "model": "fake", "usage": usage, "candidates": [whole | candidate]}


def called(name: str, arguments: str) -> dict[str, Any]:
    parts = [{"tool_call": {"id": "1", "name": name, "arguments_json": arguments}}]
    return answer(message={"parts": parts}, finish_reason="FINISH_REASON_TOOL_CALLS")


TOOL = {
    "name": "f",
    "parameters_json": json.dumps({"type": "object", "properties": {"a": {"type": "integer"}}}),
}
DEMANDED = {"tools": [TOOL], "tool_choice": {"mode": "MODE_REQUIRED"}}
FORM = {"output_format": {"json_schema_text": '{"type": "integer", "minimum": 5}'}}


@pytest.mark.parametrize(
    ("problem", "request_", "given"),
    [
        ("", {}, answer()),
        ("without a reason to end", {}, answer(finish_reason=0)),
        ("has candidates [1] of 1", {}, answer(index=1)),
        ("has no id", {}, answer() | {"id": ""}),
        ("does not add up", {}, answer() | {"usage": {"prompt_tokens": 1}}),
        ("which is no tool", {}, called("g", "{}")),
        ("", DEMANDED, called("f", '{"a": 1}')),
        ("are no JSON", DEMANDED, called("f", "{")),
        ("that are no object", DEMANDED, called("f", "[]")),
        ("breaks the schema", DEMANDED, called("f", '{"a": "b"}')),
        ("calls no tool", DEMANDED, answer()),
        ("is no JSON", FORM, answer()),
        ("breaks the schema", FORM, answer(message={"parts": [{"text": "4"}]})),
        ("", FORM, answer(message={"parts": [{"text": "5"}]})),
        ("", FORM, answer(finish_reason="FINISH_REASON_LENGTH")),
        ("which is no choice", {"output_format": {"choice": {"values": ["a"]}}}, answer()),
    ],
)
def test_answers(problem: str, request_: dict[str, Any], given: dict[str, Any]) -> None:
    message = chat_service_pb2.ChatResponse(**given).SerializeToString()
    found = list(judge(outcome(Code.OK, request=request_, messages=[message]), constrains=True))
    assert len(found) == bool(problem)
    assert all(problem in text for text in found)


FIRST = {"id": "a", "model": "fake", "usage": {"prompt_tokens": 1, "total_tokens": 1}}
LAST = {"usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}}
END = {"deltas": [{"finish_reason": "FINISH_REASON_STOP"}], **LAST}


@pytest.mark.parametrize(
    ("problem", "chunks"),
    [
        ("", [FIRST, {"deltas": [{"text": "a"}]}, END]),
        ("has 1 chunks", [FIRST]),
        ("does not begin", [{"deltas": [{"text": "a"}]}, END]),
        ("its usage at its end", [FIRST, FIRST, END]),
        ("goes on with candidate 0", [FIRST, END | {"usage": None}, END]),
        ("has ends of the candidates [] of 1", [FIRST, {"deltas": [{"text": "a"}], **LAST}]),
        (
            "a piece of call 1",
            [FIRST, {"deltas": [{"tool_calls": [{"index": 1, "id": "1", "name": "f"}]}]}, END],
        ),
    ],
)
def test_streams(problem: str, chunks: list[dict[str, Any]]) -> None:
    messages = [chat_service_pb2.ChatChunk(**chunk).SerializeToString() for chunk in chunks]
    found = list(judge(outcome(Code.OK, method=STREAM_CHAT, messages=messages)))
    assert len(found) == bool(problem)
    assert all(problem in text for text in found)
