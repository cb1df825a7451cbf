"""Clients of Octet: `Client` blocks, `AsyncClient` is for asyncio; otherwise they are the same.

from octet.client import Client

with Client("127.0.0.1:50051") as client:
    for text in client.stream("What is in the picture?", images=["picture.png"]):
        print(text, end="", flush=True)
"""

from octet.client.aio import AsyncClient
from octet.client.answer import Answer, ToolCall
from octet.client.completions import CompletionOptions, Completions, Embeddings, EmbedOptions, prompt
from octet.client.connection import Tls
from octet.client.errors import FieldViolation, OctetRpcError
from octet.client.functions import Function, ToolRoundsExceededError, ToolRun
from octet.client.requests import ChatOptions, assistant, joined, system, tool, tool_result, user
from octet.client.streams import AsyncChatStream, AsyncCompletionStream, ChatStream, CompletionStream
from octet.client.sync import Client

__all__ = [
    "Answer",
    "AsyncChatStream",
    "AsyncClient",
    "AsyncCompletionStream",
    "ChatOptions",
    "ChatStream",
    "Client",
    "CompletionOptions",
    "CompletionStream",
    "Completions",
    "EmbedOptions",
    "Embeddings",
    "FieldViolation",
    "Function",
    "OctetRpcError",
    "Tls",
    "ToolCall",
    "ToolRoundsExceededError",
    "ToolRun",
    "assistant",
    "joined",
    "prompt",
    "system",
    "tool",
    "tool_result",
    "user",
]
