"""What is played to a server: calls made at the same time, and how they are written into files.

A file is JSON:

    {
      "about": "what it is there for",
      "together": true,
      "calls": [
        {
          "method": "/octet.v1.ChatService/StreamChat",
          "request": {"messages": [{"role": "ROLE_USER", "parts": [{"text": "Hi"}]}]},
          "key": "one", "metadata": [["x-request-id", "a"]],
          "seconds": 2, "cancel_seconds": 0.01, "reads": 3
        },
        {
          "method": "/octet.v1.ChatService/Chat",
          "headers": [[":method", "GET"], ["grpc-timeout", "soon"]], "body": "AAAAAAA="
        }
      ]
    }

All but the method may be left out. Without `together` the calls are made one after the other. `request` is
the message as protobuf's JSON; what is no such message is in `messages`, a list of serialized ones in base64,
or of lists of such parts of one. An object {"repeat": X, "times": N} stands for the text or the list X so
many times over.

A call with `headers` is made by hand, as no gRPC client would make it: these take the places of the usual
ones or come behind them, each character a byte, and `body` is what follows, in base64.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

from tests.fuzz.methods import methods

KEYS = ("one", "two")
"""The callers of a server that is fuzzed; each's key is its name."""


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        method: its path.
        messages: the serialized requests.
        key: which key it carries; empty: none.
        metadata: what else it carries.
        seconds: its deadline; None for none.
        cancel_seconds: when the client cancels it; None: never.
        reads: how many messages the client reads before it cancels; None: all.
        headers: those of a call by hand; None: a client of gRPC's makes it.
        body: what a call by hand sends behind its headers.
    """

    method: str
    messages: tuple[bytes, ...] = (b"",)
    key: str = KEYS[0]
    metadata: tuple[tuple[str, str | bytes], ...] = ()
    seconds: float | None = None
    cancel_seconds: float | None = None
    reads: int | None = None
    headers: tuple[tuple[str, str], ...] | None = None
    body: bytes = b""

    @property
    def request(self) -> Any:
        """The one request, parsed; None where it is none of the method's."""
        method = methods().get(self.method)
        if method is None or len(self.messages) != 1 or self.headers is not None:
            return None
        try:
            return method.request.FromString(self.messages[0])
        except Exception:
            return None


@dataclass(frozen=True)
class Case:
    """Calls.

    Attributes:
        calls: the calls.
        about: what the case is there for.
        together: whether they are made at the same time, and not one after the other.
    """

    calls: tuple[Call, ...]
    about: str = ""
    together: bool = True


def load(path: Path) -> Case:
    """Reads a file."""
    data = _expanded(json.loads(path.read_text()))
    return Case(
        tuple(_call(entry) for entry in data["calls"]), data.get("about", ""), data.get("together", False)
    )


def dump(case: Case) -> str:
    """A file's text."""
    data = {"about": case.about, "together": case.together, "calls": [_entry(call) for call in case.calls]}
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _call(entry: Mapping[str, Any]) -> Call:
    method = entry["method"]
    if "headers" in entry:
        headers = tuple((name, value) for name, value in entry["headers"])
        return Call(method, key=entry.get("key", KEYS[0]), headers=headers, body=_bytes(entry["body"]))
    if "messages" in entry:
        messages = tuple(_bytes(item) for item in entry["messages"])
    else:
        messages = (_serialized(method, entry.get("request", {})),)
    return Call(
        method,
        messages,
        entry.get("key", KEYS[0]),
        tuple((name, _value(name, value)) for name, value in entry.get("metadata", [])),
        entry.get("seconds"),
        entry.get("cancel_seconds"),
        entry.get("reads"),
    )


def _serialized(method: str, request: Mapping[str, Any]) -> bytes:
    if method not in methods():
        return b""
    message = methods()[method].request()
    json_format.ParseDict(request, message)
    data: bytes = message.SerializeToString(deterministic=True)
    return data


def _entry(call: Call) -> dict[str, Any]:
    entry: dict[str, Any] = {"method": call.method}
    if call.headers is None:
        entry |= _written(call)
    else:
        entry |= {"headers": call.headers, "body": base64.b64encode(call.body).decode()}
    if call.key != KEYS[0]:
        entry["key"] = call.key
    if call.metadata:
        entry["metadata"] = [
            [name, base64.b64encode(value).decode() if isinstance(value, bytes) else value]
            for name, value in call.metadata
        ]
    for name in ("seconds", "cancel_seconds", "reads"):
        if (value := getattr(call, name)) is not None:
            entry[name] = value
    return entry


def _written(call: Call) -> dict[str, Any]:
    """The requests: as JSON where that gives the same bytes."""
    request = call.request
    if request is not None:
        try:
            written = json_format.MessageToDict(request, preserving_proto_field_name=True)
            again = _call({"method": call.method, "request": written}).messages
        except Exception:
            again = ()
        if again == call.messages:
            return {"request": written}
    return {"messages": [base64.b64encode(message).decode() for message in call.messages]}


def _value(name: str, value: str) -> str | bytes:
    return base64.b64decode(value) if name.endswith("-bin") else value


def _bytes(item: str | Sequence[Any]) -> bytes:
    if isinstance(item, str):
        return base64.b64decode(item)
    return b"".join(_bytes(part) for part in item)


def _expanded(value: Any) -> Any:
    if isinstance(value, list):
        return [_expanded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"repeat", "times"}:
        return _expanded(value["repeat"]) * value["times"]
    return {name: _expanded(item) for name, item in value.items()}
