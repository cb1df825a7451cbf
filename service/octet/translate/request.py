"""Requests from the protocol to the engine's types; everything that can be wrong with them is found here."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from octet.engine.types import GenerationRequest, ModelInfo, ToolChoiceMode
from octet.errors import InvalidRequestError, ModelNotFoundError
from octet.pictures.decode import decode_here
from octet.translate.media import Decode, ImageLimits
from octet.translate.messages import to_messages
from octet.translate.output_format import to_output_format
from octet.translate.prompt_options import (
    to_adapter,
    to_cache_salt,
    to_chat_template_args,
    to_pan_and_scan,
    to_priority,
)
from octet.translate.sampling import check_reasoning, check_unconstrained, to_sampling
from octet.translate.schemas import SchemaReader
from octet.translate.tool_declarations import to_tool_choice, to_tools
from octet.translate.tool_schema import offered
from octet.v1 import chat_service_pb2, completion_service_pb2

MAX_CANCELLED_IDS = 1000

_REQUEST_ID = re.compile(r"[\x20-\x7e]{1,128}")

# Checking a schema that was not seen before takes some ten milliseconds for every KiB.
_COSTLY_SCHEMA_BYTES = 2 * 1024
# Of many small parts, or of numbers, this takes some ten milliseconds.
_COSTLY_BYTES = 16 * 1024


def to_generation_request(
    request: chat_service_pb2.ChatRequest,
    *,
    model: ModelInfo,
    limits: ImageLimits,
    request_id: str,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
    decode: Decode = decode_here,
) -> GenerationRequest:
    """Checks and converts a request.

    Args:
        request: what the client sent.
        model: what is served.
        limits: of pictures.
        request_id: the request's own id, or the one that the server made.
        fetched: the files that `octet.translate.pictures.uris_of` named, by their URIs.
        decode: decodes pictures.

    Raises:
        InvalidRequestError: at the wrong field; the first one found.
        ModelNotFoundError: when the request names another model.
        AdapterNotFoundError: when it names an adapter that there is none of.
    """
    resolve_model(request.model, model)
    adapter = to_adapter(request.adapter, model)
    if request.request_id:
        check_request_id(request.request_id)
    schemas = SchemaReader()
    tools = to_tools(request.tools, schemas)
    tool_choice = to_tool_choice(request.tool_choice, tools)
    output_format = None
    if request.HasField("output_format"):
        output_format = to_output_format(request.output_format, tool_choice, schemas)
    sampling = to_sampling(request.sampling, model.vocabulary_size)
    check_reasoning(sampling, model)
    if output_format is not None:
        check_unconstrained(sampling, "output_format")
    if tool_choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED):
        check_unconstrained(sampling, "tool_choice")
    if tool_choice.mode is ToolChoiceMode.AUTO:
        for i in offered(tools, tool_choice):
            if tools[i].strict:
                check_unconstrained(sampling, f"tools[{i}].strict")
    priority = to_priority(request.priority, model)
    cache_salt = to_cache_salt(request.cache_salt)
    chat_template_args = to_chat_template_args(request.chat_template_args)
    pan_and_scan = to_pan_and_scan(request.image_options, model)
    # Last, as pictures cost most.
    messages = to_messages(
        request.messages,
        model=model,
        limits=limits,
        fetched=fetched,
        pan_and_scan=pan_and_scan,
        decode=decode,
    )
    return GenerationRequest(
        request_id=request_id,
        messages=messages,
        tools=tools,
        tool_choice=tool_choice,
        sampling=sampling,
        output_format=output_format,
        priority=priority,
        adapter=adapter,
        cache_salt=cache_salt,
        chat_template_args=chat_template_args,
        pan_and_scan=pan_and_scan,
    )


def is_costly(
    request: chat_service_pb2.ChatRequest | completion_service_pb2.CompletionRequest, size: int
) -> bool:
    """Whether checking and converting it takes long even without pictures, so that a thread should do it.

    Args:
        request: what the client sent.
        size: its length as bytes.
    """
    if size > _COSTLY_BYTES:
        return True
    schemas = request.output_format.ByteSize()
    if isinstance(request, chat_service_pb2.ChatRequest):
        schemas += sum(tool.ByteSize() for tool in request.tools)
    return schemas > _COSTLY_SCHEMA_BYTES


def resolve_model(name: str, model: ModelInfo) -> str:
    """Gives the served name that `name` stands for: itself, or the default when it is empty.

    Raises:
        ModelNotFoundError: when it is not served.
    """
    if not name:
        return model.names[0]
    if name not in model.names:
        raise ModelNotFoundError(f"the model {name[:256]!r} is not served here; use {', '.join(model.names)}")
    return name


def check_request_id(request_id: str, field: str = "request_id") -> None:
    """Raises InvalidRequestError at `field` when `request_id` is no well-formed id."""
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidRequestError(field, "is not 1 to 128 printable ASCII characters")


def to_cancelled_ids(ids: Sequence[str]) -> tuple[str, ...]:
    """Checks the `request_ids` of a request that cancels others, and gives them, each once, in order.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    if not 1 <= len(ids) <= MAX_CANCELLED_IDS:
        raise InvalidRequestError("request_ids", f"has {len(ids)} ids, not 1 to {MAX_CANCELLED_IDS}")
    for i, request_id in enumerate(ids):
        check_request_id(request_id, f"request_ids[{i}]")
    return tuple(dict.fromkeys(ids))
