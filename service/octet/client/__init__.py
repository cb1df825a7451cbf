"""Clients of Octet: `Client` blocks, `AsyncClient` is for asyncio; otherwise they are the same.

from octet.client import Client

with Client("127.0.0.1:50051") as client:
    for text in client.stream("What is in the picture?", images=["picture.png"]):
        print(text, end="", flush=True)
"""

from octet.client.aio import AsyncChatStream, AsyncClient
from octet.client.answer import Answer, ToolCall
from octet.client.connection import Tls
from octet.client.errors import FieldViolation, OctetRpcError
from octet.client.functions import Function, ToolRoundsExceededError, ToolRun
from octet.client.requests import ChatOptions, assistant, joined, system, tool, tool_result, user
from octet.client.sync import ChatStream, Client

__all__ = [
    "Answer",
    "AsyncChatStream",
    "AsyncClient",
    "ChatOptions",
    "ChatStream",
    "Client",
    "FieldViolation",
    "Function",
    "OctetRpcError",
    "Tls",
    "ToolCall",
    "ToolRoundsExceededError",
    "ToolRun",
    "assistant",
    "joined",
    "system",
    "tool",
    "tool_result",
    "user",
]
