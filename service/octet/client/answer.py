"""Answers as Python objects."""

from dataclasses import dataclass
from typing import Any

from octet.translate.values import parse_json_object
from octet.v1 import chat_service_pb2, content_pb2


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that the model wants made.

    Attributes:
        id: names the call; the result must carry it.
        name: the tool's name.
        arguments_json: the arguments exactly as the model wrote them.
    """

    id: str
    name: str
    arguments_json: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments.

        Raises:
            ValueError: when the model did not write a JSON object.
        """
        return parse_json_object(self.arguments_json)


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. The properties speak of the first candidate, which is the only one unless n was given.

    Attributes:
        response: everything that the server gave.
    """

    response: chat_service_pb2.ChatResponse

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.response.id

    @property
    def message(self) -> content_pb2.Message:
        """The assistant's turn; empty when there is no candidate yet."""
        if not self.response.candidates:
            return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
        return self.response.candidates[0].message

    @property
    def text(self) -> str:
        """All text."""
        return "".join(part.text for part in self.message.parts)

    @property
    def reasoning(self) -> str:
        """What the model thought before it answered, of models that write it apart."""
        return "".join(part.reasoning for part in self.message.parts)

    @property
    def logprobs(self) -> list[chat_service_pb2.PositionLogprobs]:
        """One entry a generated token, when asked for."""
        return list(self.response.candidates[0].logprobs) if self.response.candidates else []

    @property
    def tool_calls(self) -> list[ToolCall]:
        """The calls that the model wants made, in order.

        The last one may be cut off when the finish reason is another than TOOL_CALLS.
        """
        calls = [part.tool_call for part in self.message.parts if part.HasField("tool_call")]
        return [ToolCall(call.id, call.name, call.arguments_json) for call in calls]

    @property
    def finish_reason(self) -> str:
        """Why it ended: "STOP", "LENGTH", "TOOL_CALLS", "CANCELLED" or "SCHEMA_VIOLATED".

        "UNSPECIFIED" when it has not.
        """
        reason = self.response.candidates[0].finish_reason if self.response.candidates else 0
        name: str = chat_service_pb2.FinishReason.Name(reason)
        return name.removeprefix("FINISH_REASON_")

    @property
    def stop(self) -> str | int | None:
        """The stop string that ended it, or the id of the token that did; None where nothing written did."""
        [candidate] = self.response.candidates[:1] or [chat_service_pb2.Candidate()]
        which = candidate.WhichOneof("stop")
        return getattr(candidate, which) if which else None

    @property
    def usage(self) -> chat_service_pb2.Usage:
        """What it cost, in tokens."""
        return self.response.usage
