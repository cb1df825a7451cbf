"""The conversation of a request."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, assert_never

from google.protobuf.struct_pb2 import Struct

from octet.engine.types import (
    Message,
    ModelInfo,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from octet.errors import InvalidRequestError
from octet.pictures.decode import decode_here
from octet.translate.media import Decode, ImageLimits
from octet.translate.pictures import PictureReader, Pictures, check_image_count
from octet.translate.request_limits import count_values, limits_of
from octet.translate.tool_declarations import check_tool_name
from octet.translate.tool_values import is_cut_off
from octet.translate.values import dict_to_struct, parse_json_object, struct_to_dict
from octet.v1 import content_pb2, tool_pb2

MAX_CALL_ID_LENGTH = 128
MAX_ARGUMENTS_LENGTH = 1024 * 1024

_ROLES = {
    content_pb2.ROLE_SYSTEM: Role.SYSTEM,
    content_pb2.ROLE_USER: Role.USER,
    content_pb2.ROLE_ASSISTANT: Role.ASSISTANT,
    content_pb2.ROLE_TOOL: Role.TOOL,
    content_pb2.ROLE_DEVELOPER: Role.SYSTEM,
}
_ALLOWED = {
    Role.SYSTEM: ("text",),
    Role.USER: ("text", "image"),
    Role.ASSISTANT: ("reasoning", "text", "tool_call"),
    Role.TOOL: ("tool_result", "image"),
}


def to_messages(
    messages: Sequence[content_pb2.Message],
    *,
    model: ModelInfo,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
    pan_and_scan: bool | None = None,
    decode: Decode = decode_here,
) -> tuple[Message, ...]:
    """Checks and converts ChatRequest.messages; decodes their pictures.

    Args:
        messages: the conversation.
        model: what is served.
        limits: of pictures.
        fetched: the files that `octet.translate.pictures.uris_of` named, by their URIs.
        pan_and_scan: whether pictures are shown in crops as well; None where the request does not say.
        decode: decodes pictures.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    if not messages:
        raise InvalidRequestError("messages", "is empty; a request needs at least one message")
    roles = _to_roles(messages)
    check_image_count(pictures_of(messages), model)
    pictures = PictureReader(model, limits, fetched, pan_and_scan, decode)
    conversation = _Conversation(pictures, limits_of(model).values)
    converted = tuple(
        Message(role, conversation.to_parts(message.parts, role, f"messages[{i}]"))
        for i, (role, message) in enumerate(zip(roles, messages, strict=True))
    )
    return (*converted[:-1], _to_go_on_with(converted[-1], messages[-1], f"messages[{len(messages) - 1}]"))


def pictures_of(messages: Iterable[content_pb2.Message]) -> Pictures:
    """Gives all pictures with their paths, in order."""
    return [
        (f"messages[{i}].parts[{j}].image", part.image)
        for i, message in enumerate(messages)
        for j, part in enumerate(message.parts)
        if part.HasField("image")
    ]


def _to_roles(messages: Sequence[content_pb2.Message]) -> list[Role]:
    roles = []
    for i, message in enumerate(messages):
        role = _ROLES.get(message.role)
        if role is None:
            known = ", ".join(content_pb2.Role.Name(number) for number in _ROLES)
            raise InvalidRequestError(
                f"messages[{i}].role", f"{int(message.role)} is not a role; use {known}"
            )
        roles.append(role)
    return roles


@dataclass(slots=True)
class _Conversation:
    """Converts the messages of one conversation in their order; remembers its tool calls.

    Attributes:
        pictures: reads its pictures.
        max_values: JSON values that its tool calls and results may hold together.
        values: those that they have held so far.
        open_calls: ids of the calls without a result, with the names of their tools.
        answered: ids of the calls that have their result.
    """

    pictures: PictureReader
    max_values: int
    values: int = 0
    open_calls: dict[str, str] = field(default_factory=dict)
    answered: set[str] = field(default_factory=set)

    def to_parts(self, parts: Sequence[content_pb2.Part], role: Role, path: str) -> tuple[Part, ...]:
        if not parts and role is not Role.ASSISTANT:
            raise InvalidRequestError(f"{path}.parts", "is empty; a message needs at least one part")
        if role is Role.TOOL:
            _check_results(parts, path)
        return tuple(self._to_part(part, role, f"{path}.parts[{j}]") for j, part in enumerate(parts))

    def _to_part(self, part: content_pb2.Part, role: Role, path: str) -> Part:
        kind = part.WhichOneof("kind")
        if kind is None:
            raise InvalidRequestError(
                path, "is empty; set one of text, image, tool_call, tool_result and reasoning"
            )
        if kind not in _ALLOWED[role]:
            allowed = " and ".join(_ALLOWED[role])
            raise InvalidRequestError(
                f"{path}.{kind}", f"is not allowed in a message of ROLE_{role.name}, which takes {allowed}"
            )
        match kind:
            case "text":
                return TextPart(_said(part.text, role, f"{path}.text"))
            case "reasoning":
                return ReasoningPart(part.reasoning)
            case "image":
                return self.pictures.read(part.image, f"{path}.image")
            case "tool_call":
                return self._to_tool_call(part.tool_call, f"{path}.tool_call")
            case "tool_result":
                return self._to_tool_result(part.tool_result, f"{path}.tool_result")
            case _:
                assert_never(kind)

    def _to_tool_call(self, call: tool_pb2.ToolCall, path: str) -> ToolCallPart:
        if not 1 <= len(call.id) <= MAX_CALL_ID_LENGTH:
            raise InvalidRequestError(
                f"{path}.id",
                f"has {len(call.id)} characters, not 1 to {MAX_CALL_ID_LENGTH}; repeat the call's id",
            )
        if call.id in self.open_calls or call.id in self.answered:
            raise InvalidRequestError(f"{path}.id", f"{call.id!r} is the id of an earlier call, too")
        check_tool_name(call.name, f"{path}.name")
        self.open_calls[call.id] = call.name
        return ToolCallPart(call.id, call.name, self._to_arguments_json(call, path))

    def _to_tool_result(self, result: tool_pb2.ToolResult, path: str) -> ToolResultPart:
        if result.call_id in self.answered:
            raise InvalidRequestError(f"{path}.call_id", f"{result.call_id[:80]!r} has a result already")
        name = self.open_calls.pop(result.call_id, None)
        if name is None:
            raise InvalidRequestError(
                f"{path}.call_id", f"{result.call_id[:80]!r} is not the id of a call in an earlier message"
            )
        self.answered.add(result.call_id)
        match result.WhichOneof("result"):
            case "text":
                return ToolResultPart(result.call_id, name, result.text)
            case "data":
                return ToolResultPart(result.call_id, name, self._to_json(result.data, f"{path}.data"))
            case _:
                # Pictures are, which follow.
                return ToolResultPart(result.call_id, name, "")

    def _to_arguments_json(self, call: tool_pb2.ToolCall, path: str) -> str:
        if not call.arguments_json:
            return self._to_json(call.arguments, f"{path}.arguments")
        if len(call.arguments_json) > MAX_ARGUMENTS_LENGTH:
            raise InvalidRequestError(
                f"{path}.arguments_json",
                f"has {len(call.arguments_json)} characters, more than {MAX_ARGUMENTS_LENGTH}",
            )
        arguments: dict[str, Any] | None
        try:
            arguments = parse_json_object(call.arguments_json)
        except ValueError:
            # Models make mistakes, and go on from them when they are told: it is sent back as it was written.
            arguments = None
        else:
            self._count(arguments, f"{path}.arguments_json")
        # Answers set both, and clients send their messages back as they are.
        if call.HasField("arguments") and (arguments is None or not _is_same(call.arguments, arguments)):
            raise InvalidRequestError(f"{path}.arguments_json", "contradicts arguments; set one of the two")
        return call.arguments_json

    def _to_json(self, struct: Struct, path: str) -> str:
        self._count(struct, path)
        try:
            return json.dumps(struct_to_dict(struct), ensure_ascii=False)
        except ValueError as error:
            raise InvalidRequestError(path, f"is not JSON: {error}") from error

    def _count(self, value: Struct | Mapping[str, Any], path: str) -> None:
        """Counts JSON values before anything else is done with them."""
        self.values += count_values(value, self.max_values - self.values)
        if self.values > self.max_values:
            raise InvalidRequestError(
                path,
                f"takes the JSON values of tool calls and results to more than the {self.max_values} that "
                "the model's context takes",
            )


def _check_results(parts: Sequence[content_pb2.Part], path: str) -> None:
    """Checks that pictures belong to results, and that each result has anything."""
    for j, part in enumerate(parts):
        if part.HasField("image") and j == 0:
            raise InvalidRequestError(
                f"{path}.parts[0].image",
                "belongs to no tool result; in a message of ROLE_TOOL it goes behind the one that it is of",
            )
        followed = parts[j + 1].HasField("image") if j + 1 < len(parts) else False
        if part.HasField("tool_result") and not (part.tool_result.WhichOneof("result") or followed):
            raise InvalidRequestError(
                f"{path}.parts[{j}].tool_result", "has no result; set text or data, or let pictures follow"
            )


def _to_go_on_with(message: Message, source: content_pb2.Message, path: str) -> Message:
    """The last message. If it ends with a call, the model is to go on with that.

    Raises:
        InvalidRequestError: the call is whole.
    """
    last = message.parts[-1] if message.parts else None
    if not isinstance(last, ToolCallPart):
        return message
    call = source.parts[-1].tool_call
    if not call.arguments_json and not call.HasField("arguments"):
        # The answer ended right before them.
        return replace(message, parts=(*message.parts[:-1], replace(last, arguments_json="")))
    if not is_cut_off(last.arguments_json):
        raise InvalidRequestError(
            f"{path}.parts[{len(message.parts) - 1}].tool_call",
            "is the last of all and complete; its result comes next, in a message of ROLE_TOOL",
        )
    return message


def _said(text: str, role: Role, path: str) -> str:
    """The text. A model may have said nothing; nobody else sends that on purpose."""
    if not text and role is not Role.ASSISTANT:
        raise InvalidRequestError(path, "is empty; leave the part out")
    return text


def _is_same(struct: Struct, arguments: Mapping[str, Any]) -> bool:
    """Whether `struct` says what `arguments` does, as exactly as a Struct can."""
    most = count_values(arguments, sys.maxsize)
    if count_values(struct, most) != most:
        return False
    try:
        return struct_to_dict(struct) == struct_to_dict(dict_to_struct(arguments))
    except ValueError:
        return False
