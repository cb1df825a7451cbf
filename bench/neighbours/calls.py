"""What a caller sends, as bytes that are made before anything is measured."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from octet.v1 import chat_service_pb2, content_pb2, model_service_pb2

_CHAT_SERVICE = "/octet.v1.ChatService/"
_MODEL_SERVICE = "/octet.v1.ModelService/"
CHAT = _CHAT_SERVICE + "Chat"
STREAM = _CHAT_SERVICE + "StreamChat"
COUNT = _MODEL_SERVICE + "CountTokens"
TOKENIZE = _MODEL_SERVICE + "Tokenize"


@dataclass(frozen=True, slots=True)
class Call:
    """A call.

    Attributes:
        data: the serialized request.
        method: which of them.
        left: a stream of which nothing is read, or a call that is cancelled as soon as it was sent.
    """

    data: bytes
    method: str = CHAT
    left: str = ""


@dataclass(frozen=True, slots=True)
class Case:
    """What the caller sends.

    Attributes:
        name: in words.
        make: makes the calls, which are sent all at a time, of the model's context window.
        again: whether each is sent again when it has ended, for as long as the case lasts.
    """

    name: str
    make: Callable[[int], list[Call]]
    again: bool = False


def field(number: int, data: bytes) -> bytes:
    """A field of a serialized message, whose own parser would take too long to make millions."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def turn(parts: bytes, role: int = content_pb2.ROLE_USER) -> bytes:
    """A message of a serialized ChatRequest."""
    return field(2, bytes([8, role]) + parts)


def text(said: str | bytes) -> bytes:
    """A message of a text."""
    return turn(field(2, field(1, said.encode() if isinstance(said, str) else said)))


def chat(said: str = "Count.", tokens: int = 4, **fields: Any) -> chat_service_pb2.ChatRequest:
    """A request for so many tokens."""
    said_part = content_pb2.Part(text=said)
    request = chat_service_pb2.ChatRequest(
        messages=[content_pb2.Message(role=content_pb2.ROLE_USER, parts=[said_part])], **fields
    )
    request.sampling.max_tokens = tokens
    return request


def counting(request: chat_service_pb2.ChatRequest) -> Call:
    """Asks for a prompt's tokens."""
    data = model_service_pb2.CountTokensRequest(request=request).SerializeToString()
    return Call(data, COUNT)


def tokenizing(said: str) -> Call:
    """Asks for a text's tokens."""
    return Call(model_service_pb2.TokenizeRequest(text=said).SerializeToString(), TOKENIZE)
