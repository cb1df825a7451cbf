"""How a request's prompt is made and queued: adapter, priority, cache salt, template variables, pictures."""

from typing import Any

from google.protobuf.struct_pb2 import Struct

from octet.engine.types import ModelInfo
from octet.errors import AdapterNotFoundError, InvalidRequestError
from octet.translate.values import struct_to_dict
from octet.v1 import chat_service_pb2

MAX_CACHE_SALT_LENGTH = 128
MAX_TEMPLATE_ARGS_BYTES = 16 * 1024

# What templates get from the conversation and the tokenizer, and what the renderer itself takes.
_RESERVED_ARGS = frozenset(
    {
        *("add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents"),
        *("messages", "tools", "tokenize", "padding", "truncation", "max_length", "return_tensors"),
        *("return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs"),
        *("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"),
        *("additional_special_tokens", "extra_special_tokens", "image_token", "boi_token", "eoi_token"),
        *("raise_exception", "strftime_now"),
    }
)


def to_priority(priority: int, model: ModelInfo) -> int:
    """Checks ChatRequest.priority.

    Raises:
        InvalidRequestError: when it is set and the server takes requests in the order in which they come.
    """
    if priority and not model.takes_priorities:
        raise InvalidRequestError(
            "priority", "is set, but this server takes requests as they come (--scheduling-policy fcfs)"
        )
    return priority


def to_adapter(name: str, model: ModelInfo) -> str:
    """Checks ChatRequest.adapter.

    Raises:
        AdapterNotFoundError: when it is set and no adapter has this name.
    """
    if name and name not in model.adapters:
        known = f"use {', '.join(model.adapters)}" if model.adapters else "there are none"
        raise AdapterNotFoundError(f"the adapter {name[:256]!r} is not loaded here; {known}")
    return name


def to_cache_salt(salt: str) -> str:
    """Checks ChatRequest.cache_salt.

    Raises:
        InvalidRequestError: when it is too long.
    """
    if len(salt) > MAX_CACHE_SALT_LENGTH:
        raise InvalidRequestError(
            "cache_salt", f"has {len(salt)} characters, more than {MAX_CACHE_SALT_LENGTH}"
        )
    return salt


def to_chat_template_args(struct: Struct) -> dict[str, Any]:
    """Checks and converts ChatRequest.chat_template_args.

    Raises:
        InvalidRequestError: when they are too large, no JSON, or have a reserved name.
    """
    field = "chat_template_args"
    if struct.ByteSize() > MAX_TEMPLATE_ARGS_BYTES:
        raise InvalidRequestError(
            field, f"has {struct.ByteSize()} bytes, more than the limit of {MAX_TEMPLATE_ARGS_BYTES}"
        )
    try:
        arguments = struct_to_dict(struct)
    except ValueError as error:
        raise InvalidRequestError(field, f"is not JSON: {error}") from error
    for name in arguments:
        if name in _RESERVED_ARGS:
            raise InvalidRequestError(
                f"{field}.{name}",
                "is what the template gets from the request itself; use the request's fields",
            )
    return arguments


def to_pan_and_scan(options: chat_service_pb2.ImageOptions, model: ModelInfo) -> bool | None:
    """Checks ChatRequest.image_options; None leaves it to the model's processor.

    Raises:
        InvalidRequestError: when it is set and the model has no such thing.
    """
    if not options.HasField("pan_and_scan"):
        return None
    if not model.pans_and_scans:
        raise InvalidRequestError(
            "image_options.pan_and_scan", f"is an option of Gemma 3's, and {model.names[0]} has none of it"
        )
    return options.pan_and_scan
