"""What the contract says about how calls end; whatever else happens is a finding."""

import json
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

import grpc
import jsonschema
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.struct_pb2 import Struct
from google.rpc import error_details_pb2, status_pb2
from referencing.exceptions import Unresolvable

from octet.translate.calls_or_text import CALLS_BEGIN
from octet.translate.chunks import CompletionAccumulator
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2
from tests.fuzz.cases import KEYS
from tests.fuzz.methods import (
    ADMIN,
    CHAT,
    COMPLETE,
    EMBED,
    KSERVE,
    OWN,
    STREAM_CHAT,
    STREAM_COMPLETE,
    STREAM_INFER,
    methods,
)
from tests.fuzz.play import Outcome

Code = grpc.StatusCode

DOMAIN = "octet.v1"

# However wrong a call is, these are no answers to it.
_NEVER = {Code.UNKNOWN, Code.INTERNAL, Code.UNAVAILABLE, Code.DATA_LOSS, Code.FAILED_PRECONDITION}

_OWN_CODES = {
    Code.OK,
    Code.INVALID_ARGUMENT,
    Code.UNAUTHENTICATED,
    Code.NOT_FOUND,
    Code.ALREADY_EXISTS,
    Code.RESOURCE_EXHAUSTED,
    Code.ABORTED,
    Code.UNIMPLEMENTED,
    Code.FAILED_PRECONDITION,
}

# What gRPC itself ends has no details: messages that are too long, and metadata.
_TOO_LONG = "Received message larger than max"
_METADATA_BYTES = 16 * 1024
_ENTRY_BYTES = 32

_STEP = re.compile(r"\.?([a-z0-9_]+)|\[(-?\d+|[^\]]+)\]")
_COMPLETE = (chat_service_pb2.FINISH_REASON_STOP, chat_service_pb2.FINISH_REASON_TOOL_CALLS)


def judge(outcome: Outcome, *, constrains: bool = False, keys: bool = True) -> Iterator[str]:
    """Says what is wrong with how a call went.

    Args:
        outcome: how it went.
        constrains: whether the engine holds answers to what they are constrained to.
        keys: whether the server asks for keys.
    """
    for problem in _problems(outcome, constrains, keys):
        yield f"{outcome.call.method}: {problem}"


def _problems(outcome: Outcome, constrains: bool, keys: bool) -> Iterator[str]:
    call, code = outcome.call, outcome.code
    if code is None:
        yield "did not end"
    elif call.headers is not None:
        # gRPC's core ends malformed metadata and compression INTERNAL by itself.
        if code is Code.UNKNOWN or (code in _NEVER and outcome.details.startswith("an error inside")):
            yield f"by hand ended {code.name}: {outcome.details}"
    elif code in _NEVER and not (code is Code.FAILED_PRECONDITION and call.method.startswith(ADMIN)):
        yield f"ended {code.name}: {outcome.details}"
    elif code is Code.CANCELLED:
        if not outcome.cancelled:
            yield f"ended CANCELLED, and nobody cancelled it: {outcome.details}"
    elif code is Code.DEADLINE_EXCEEDED:
        if call.seconds is None and not call.method.endswith("/Watch"):
            yield "ended DEADLINE_EXCEEDED without a deadline"
    elif code is Code.OK:
        yield from _wrong_answer(outcome, constrains)
    elif call.method.startswith((OWN, KSERVE)) and call.method in methods():
        if code not in _OWN_CODES:
            yield f"ended {code.name}, which no call does: {outcome.details}"
        elif code is Code.UNAUTHENTICATED and not (keys and _has_other_key(outcome)):
            yield f"ended UNAUTHENTICATED although it carries a key: {outcome.details}"
        elif code is Code.UNIMPLEMENTED and call.method != EMBED:
            # The engines of these servers write.
            yield "is unimplemented"
        elif not (code is Code.RESOURCE_EXHAUSTED and _is_too_long(outcome)):
            yield from _wrong_details(outcome)


def _has_other_key(outcome: Outcome) -> bool:
    names = [name for name, _ in outcome.call.metadata]
    return outcome.call.key not in KEYS or "authorization" in names


def _is_too_long(outcome: Outcome) -> bool:
    size = sum(len(name) + len(value) + _ENTRY_BYTES for name, value in outcome.call.metadata)
    # gRPC's own entries come on top.
    return outcome.details.startswith(_TOO_LONG) or size > _METADATA_BYTES - 1024


def _wrong_details(outcome: Outcome) -> Iterator[str]:
    """Says what an error's details lack."""
    code, trailers = outcome.code, dict(outcome.trailers)
    assert code is not None
    packed = trailers.get("grpc-status-details-bin")
    if not isinstance(packed, bytes):
        yield f"ended {code.name} without details: {outcome.details}"
        return
    status = status_pb2.Status.FromString(packed)
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    retry = error_details_pb2.RetryInfo()
    for detail in status.details:
        for wanted in (info, bad, retry):
            detail.Unpack(wanted)
    if status.code != code.value[0] or status.message != outcome.details:
        yield f"ended {code.name} with details of another status: {status}"
    if info.domain != DOMAIN or not re.fullmatch("[A-Z][A-Z0-9_]+", info.reason):
        yield f"ended {code.name} without a reason: {status}"
    if not trailers.get("x-request-id"):
        yield f"ended {code.name} without the request's id"
    if code is Code.RESOURCE_EXHAUSTED and not retry.HasField("retry_delay"):
        yield f"ended RESOURCE_EXHAUSTED without a time to try again: {status}"
    if code is Code.INVALID_ARGUMENT:
        yield from _wrong_violations(outcome, bad, info.reason)


def _wrong_violations(outcome: Outcome, bad: error_details_pb2.BadRequest, reason: str) -> Iterator[str]:
    if not bad.field_violations:
        yield f"ended INVALID_ARGUMENT without a field: {outcome.details}"
    for violation in bad.field_violations:
        if not violation.description.strip() or violation.reason != reason:
            yield f"ended INVALID_ARGUMENT without a sentence at {violation.field}"
        if not violation.field:
            # The request as a whole.
            if reason != "MALFORMED_REQUEST":
                yield f"ended INVALID_ARGUMENT at no field: {outcome.details}"
        elif (problem := _wrong_path(outcome, violation.field)) is not None:
            yield f"ended INVALID_ARGUMENT at {violation.field}, {problem}: {outcome.details}"


def _wrong_path(outcome: Outcome, path: str) -> str | None:
    """Why a path is none of a field of the request; None where it is one."""
    method = methods()[outcome.call.method]
    descriptor: Any = method.request.DESCRIPTOR
    message = outcome.call.request
    at = 0
    field: FieldDescriptor | None = None
    while at < len(path):
        if descriptor is not None and descriptor.full_name == Struct.DESCRIPTOR.full_name:
            # Names of the client's own.
            return None
        step = _STEP.match(path, at)
        if step is None:
            return "which is no path"
        at = step.end()
        if step[1] is None:
            if field is None or not field.is_repeated:
                return "which counts what is not repeated"
            if step[2].isdigit() and message is not None and not _is_map(field):
                if int(step[2]) >= len(message):
                    return "which the request does not have"
                message = message[int(step[2])]
            else:
                message = None
            continue
        if descriptor is None or step[1] not in descriptor.fields_by_name:
            return "which no request has"
        field = descriptor.fields_by_name[step[1]]
        message = None if message is None else getattr(message, field.name)
        descriptor = field.message_type
    return None


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _wrong_answer(outcome: Outcome, constrains: bool) -> Iterator[str]:
    """Says what is wrong with what came with OK."""
    call = outcome.call
    method = methods().get(call.method)
    if method is None:
        yield "ended OK, and there is no such method"
        return
    answers = [method.response.FromString(message) for message in outcome.messages]
    if not method.streams and len(answers) != 1:
        yield f"was answered with {len(answers)} messages"
    elif call.method == STREAM_CHAT:
        yield from _wrong_stream(call.request, answers, constrains)
    elif call.method == CHAT:
        yield from _wrong_response(call.request, answers[0], constrains)
    elif call.method == COMPLETE:
        yield from _wrong_completions(call.request, answers[0], constrains)
    elif call.method == STREAM_COMPLETE:
        received = CompletionAccumulator(len(call.request.prompts))
        for chunk in answers:
            received.add(chunk)
        yield from _wrong_completions(call.request, received.response(), constrains)
    elif call.method == STREAM_INFER:
        yield from _wrong_errors(answers)


def _wrong_errors(answers: list[Any]) -> Iterator[str]:
    """Says what is wrong with the errors that a stream has in its messages."""
    never = {code.name for code in _NEVER}
    for answer in answers:
        if answer.error_message and answer.error_message.partition(":")[0] in never:
            yield f"said {answer.error_message}"


def _wrong_completions(request: Any, answer: Any, constrains: bool) -> Iterator[str]:
    wanted = request.sampling.n or 1
    if not answer.id or not answer.model or not answer.HasField("usage"):
        yield "has no id, model or usage"
    if len(answer.results) != len(request.prompts):
        yield f"has {len(answer.results)} results for {len(request.prompts)} prompts"
    for result in answer.results:
        yield from _wrong_usage(result.usage)
        if [completion.index for completion in result.completions] != list(range(wanted)):
            yield f"has completions {[completion.index for completion in result.completions]} of {wanted}"
        for completion in result.completions:
            if not completion.finish_reason:
                yield "has a completion without a reason to end"
            stops = request.sampling.stop or request.sampling.stop_token_ids
            if constrains and not stops and completion.finish_reason == chat_service_pb2.FINISH_REASON_STOP:
                yield from _wrong_form(request.output_format, completion.text)
    total = sum(result.usage.total_tokens for result in answer.results)
    if total != answer.usage.total_tokens:
        yield f"has a usage that is not its prompts': {answer.usage}"


def _wrong_response(request: Any, answer: Any, constrains: bool) -> Iterator[str]:
    wanted = request.sampling.n or 1
    if [candidate.index for candidate in answer.candidates] != list(range(wanted)):
        yield f"has candidates {[candidate.index for candidate in answer.candidates]} of {wanted}"
    if not answer.id or not answer.model or not answer.HasField("usage"):
        yield "has no id, model or usage"
    yield from _wrong_usage(answer.usage)
    for candidate in answer.candidates:
        text = "".join(part.text for part in candidate.message.parts)
        calls = [
            (part.tool_call.name, part.tool_call.arguments_json)
            for part in candidate.message.parts
            if part.HasField("tool_call")
        ]
        yield from _wrong_candidate(request, candidate.finish_reason, text, calls, constrains)


def _wrong_stream(request: Any, chunks: list[Any], constrains: bool) -> Iterator[str]:
    if len(chunks) < 2:
        yield f"has {len(chunks)} chunks"
        return
    first, last = chunks[0], chunks[-1]
    if not first.id or not first.model or not first.HasField("usage") or first.deltas:
        yield "does not begin with its id, model and the prompt's usage"
    if not last.HasField("usage") or any(chunk.id or chunk.HasField("usage") for chunk in chunks[1:-1]):
        yield "does not have its usage at its end"
    yield from _wrong_usage(last.usage)
    texts: dict[int, str] = {}
    calls: dict[int, list[list[str]]] = {}
    reasons: dict[int, int] = {}
    for delta in chain.from_iterable(chunk.deltas for chunk in chunks):
        if delta.index in reasons:
            yield f"goes on with candidate {delta.index} after its end"
        texts[delta.index] = texts.get(delta.index, "") + delta.text
        made = calls.setdefault(delta.index, [])
        for call in delta.tool_calls:
            if call.index == len(made) and call.id and call.name:
                made.append([call.name, ""])
            elif call.index != len(made) - 1 or call.id or call.name:
                yield f"has a piece of call {call.index} after {len(made)} calls"
                return
            made[-1][1] += call.arguments_json
        if delta.finish_reason:
            reasons[delta.index] = delta.finish_reason
    if sorted(reasons) != list(range(request.sampling.n or 1)):
        yield f"has ends of the candidates {sorted(reasons)} of {request.sampling.n or 1}"
    for index, reason in reasons.items():
        found = [(name, arguments) for name, arguments in calls.get(index, [])]
        yield from _wrong_candidate(request, reason, texts[index], found, constrains)


def _wrong_usage(usage: Any) -> Iterator[str]:
    if usage.prompt_tokens + usage.completion_tokens != usage.total_tokens:
        yield f"has a usage that does not add up: {usage}"


def _wrong_candidate(
    request: Any, reason: int, text: str, calls: list[tuple[str, str]], constrains: bool
) -> Iterator[str]:
    if not reason:
        yield "has a candidate without a reason to end"
    if "\ufffd" in text and not constrains and "\ufffd" not in str(request):
        yield f"has half a character in {text!r:.200}"
    names = set(request.tool_choice.allowed_names) or {tool.name for tool in request.tools}
    for name, arguments in calls:
        if name not in names:
            yield f"calls {name}, which is no tool that may be called"
        elif reason == chat_service_pb2.FINISH_REASON_TOOL_CALLS or (constrains and reason in _COMPLETE):
            # With another reason the scripted model's end may have cut off the last call.
            yield from _wrong_arguments(request, name, arguments, constrains)
    if not constrains or request.sampling.stop or request.sampling.stop_token_ids:
        return
    begun = _said(request) if request.messages[-1].role == content_pb2.ROLE_ASSISTANT else ""
    if reason in _COMPLETE and not calls and _demands_calls(request) and not begun:
        yield f"calls no tool although it must: {text!r:.200}"
    within_calls = any(part.HasField("tool_call") for part in request.messages[-1].parts) or (
        _may_call(request) and begun.startswith(CALLS_BEGIN)
    )
    if reason == chat_service_pb2.FINISH_REASON_STOP and not within_calls:
        yield from _wrong_form(request.output_format, begun + text)


def _may_call(request: Any) -> bool:
    """Whether calls may take the place of an answer in the output format."""
    free = (tool_pb2.ToolChoice.MODE_UNSPECIFIED, tool_pb2.ToolChoice.MODE_AUTO)
    return bool(request.tools) and request.tool_choice.mode in free


def _demands_calls(request: Any) -> bool:
    return request.tool_choice.mode in (tool_pb2.ToolChoice.MODE_REQUIRED, tool_pb2.ToolChoice.MODE_NAMED)


def _holds_calls(request: Any, name: str) -> bool:
    """Whether a call's arguments are held to the schema of the tool."""
    either = request.output_format.WhichOneof("format") not in (None, "text")
    return _demands_calls(request) or either or any(t.strict for t in request.tools if t.name == name)


def _said(request: Any) -> str:
    """What the scripted engine says."""
    return "".join(part.text for part in request.messages[-1].parts)


def _wrong_arguments(request: Any, name: str, arguments: str, constrains: bool) -> Iterator[str]:
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError) as error:
        # Of an object that names its tool first they are passed on as written, from the fault on.
        rest = arguments[getattr(error, "pos", 0) :]
        if _holds_calls(request, name) if constrains else rest not in _said(request):
            yield f"calls {name} with arguments that are no JSON, {error}: {arguments!r:.300}"
        return
    if not isinstance(value, dict):
        yield f"calls {name} with arguments that are no object: {arguments!r:.300}"
        return
    if constrains and _holds_calls(request, name):
        [tool] = [tool for tool in request.tools if tool.name == name]
        yield from _breaks(value, _schema(tool.parameters, tool.parameters_json), f"the arguments of {name}")


def _wrong_form(form: Any, text: str) -> Iterator[str]:
    kind = form.WhichOneof("format")
    if kind == "choice" and text not in form.choice.values:
        yield f"chose {text!r:.200}, which is no choice"
    if kind in ("json_object", "json_schema", "json_schema_text"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            yield f"is no JSON, {error}: {text!r:.300}"
            return
        if kind == "json_object" and not isinstance(value, dict):
            yield f"is no JSON object: {text!r:.200}"
        if kind != "json_object":
            yield from _breaks(value, _schema(form.json_schema, form.json_schema_text), "the answer")


def _schema(struct: Any, text: str) -> Any:
    from google.protobuf import json_format

    return json.loads(text) if text else json_format.MessageToDict(struct)


def _breaks(value: Any, schema: Any, what: str) -> Iterator[str]:
    """Says how a value breaks a schema, as far as Python's library understands that."""
    try:
        error = next(jsonschema.Draft202012Validator(schema).iter_errors(value), None)
    except (re.error, Unresolvable, RecursionError):
        # A pattern of another dialect, or a schema that leads nowhere.
        return
    if error is not None:
        text = f"{json.dumps(value):.200}, {json.dumps(schema):.500}"
        yield f"{what} breaks the schema, {error.message:.200}: {text}"
