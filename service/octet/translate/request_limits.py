"""How much a request may hold: what follows from the model's context window, and is counted first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct, Value

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError
from octet.v1 import chat_service_pb2, prompt_pb2

_OTHER_BYTES = 4 * 1024 * 1024
_OTHER_FIELDS = 64 * 1024
_FIELDS_PER_TOKEN = 4
# vLLM takes each up on the event loop, in some 20 us.
_TOKENS_PER_PART = 64
_TOKENS_PER_VALUE = 2
_MIN_PARTS = 1024


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """What one request may hold. What is beyond could not be a prompt, and is refused before it costs much.

    Attributes:
        text_bytes: bytes of the serialized request without its pictures: the longest token for each place of
            the context window, and 4 MiB for what is no prompt.
        fields: protobuf fields of the serialized request, those of nested messages included: 4 a token of the
            context window (a JSON value takes two to four), and 65536 for what is no prompt.
        messages: messages of the conversation, and
        parts: parts of all its messages: one for 64 tokens of the context window, at least 1024.
        values: JSON values of all tool calls and tool results: one for two tokens, as each has a comma or a
            bracket beside it.
    """

    text_bytes: int = _OTHER_BYTES
    fields: int = _OTHER_FIELDS
    messages: int = _MIN_PARTS
    parts: int = _MIN_PARTS
    values: int = _OTHER_FIELDS


def limits_of(model: ModelInfo) -> RequestLimits:
    """The limits of requests to a model."""
    parts = max(_MIN_PARTS, model.context_window // _TOKENS_PER_PART)
    return RequestLimits(
        text_bytes=_OTHER_BYTES + model.context_window * model.longest_token,
        fields=_OTHER_FIELDS + _FIELDS_PER_TOKEN * model.context_window,
        messages=parts,
        parts=parts,
        values=model.context_window // _TOKENS_PER_VALUE,
    )


def check_counts(request: chat_service_pb2.ChatRequest, limits: RequestLimits) -> None:
    """Counts messages and parts, in a time that the limits bound.

    Raises:
        InvalidRequestError: at the field that holds more than the model's context window could.
    """
    count = len(request.messages)
    if count > limits.messages:
        raise InvalidRequestError(
            "messages",
            f"has {count} messages, more than the {limits.messages} that the model's context takes",
        )
    parts = 0
    for i, message in enumerate(request.messages):
        parts += len(message.parts)
        if parts > limits.parts:
            raise InvalidRequestError(
                f"messages[{i}].parts",
                f"takes the parts of the request to {parts}, more than the {limits.parts} that the model's "
                "context takes; put texts together",
            )


def check_prompt_counts(
    prompts: Sequence[prompt_pb2.Prompt], name: str, most: int, limits: RequestLimits
) -> None:
    """Counts prompts and their parts, in a time that the limits bound.

    Args:
        prompts: the request's.
        name: the field that they are.
        most: how many prompts there may be.
        limits: of one request.

    Raises:
        InvalidRequestError: at the field that holds too much.
    """
    if not 1 <= len(prompts) <= most:
        raise InvalidRequestError(name, f"has {len(prompts)} prompts, not 1 to {most}")
    parts = 0
    for i, prompt in enumerate(prompts):
        parts += len(prompt.parts)
        if parts > limits.parts:
            raise InvalidRequestError(
                f"{name}[{i}].parts",
                f"takes the parts of the request to {parts}, more than the {limits.parts} that it may have; "
                "put texts together, or send fewer prompts",
            )


def count_values(value: Any, most: int) -> int:
    """How many JSON values a Struct or a Python value holds, itself included; at most `most` and one."""
    count = 0
    waiting = [value]
    while waiting and count <= most:
        count += 1
        value = waiting.pop()
        if isinstance(value, Value):
            kind = value.WhichOneof("kind")
            value = value.struct_value if kind == "struct_value" else value.list_value.values
        if isinstance(value, Struct):
            value = value.fields
        if isinstance(value, str | int | float | None):
            continue
        if count + len(waiting) + len(value) > most:
            return most + 1
        waiting.extend(value.values() if hasattr(value, "values") else value)
    return count
