"""Python functions as tools: schemas out of type hints, calls out of what the model wrote.

pydantic derives the JSON Schemas and checks the arguments. It is imported when the first function is given:
it would take a good part of the import of `octet.client`, and most programs give none.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING, Any, TypeAlias

from octet.client.answer import Answer, ToolCall
from octet.client.images import is_decoded
from octet.client.requests import ChatOptions, Conversation, Turn, tool, tool_result, turns_of
from octet.v1 import content_pb2, tool_pb2

if TYPE_CHECKING:
    from PIL import Image
    from pydantic import TypeAdapter, ValidationError

MAX_ROUNDS = 8
"""How often a model may ask for calls before `ToolRoundsExceededError`."""

Function: TypeAlias = Callable[..., Any]
"""A function whose parameters have type hints. Its docstring's first paragraph tells the model what it does;
`typing.Annotated[str, pydantic.Field(description="...")]` tells it what a parameter means. What it returns
goes to the model as text or JSON; a PIL picture, alone or in a list or tuple with the rest, is shown."""


@dataclass(frozen=True, slots=True)
class ToolRun:
    """What came of a conversation in which the model used functions.

    Attributes:
        answer: the final answer.
        turns: all that was said, the final answer included: a conversation to go on from.
    """

    answer: Answer
    turns: list[Turn]


class ToolRoundsExceededError(RuntimeError):
    """The model went on asking for calls.

    Attributes:
        run: how far it came; its answer holds the calls that were not made.
    """

    def __init__(self, run: ToolRun, rounds: int) -> None:
        super().__init__(f"the model asked for calls more than {rounds} times; see max_rounds")
        self.run = run


class Toolbox:
    """The functions that a model may use, by name."""

    def __init__(self, functions: Iterable[Function], *, strict: bool = False) -> None:
        """With `strict` the server holds the arguments of their calls to the functions' schemas."""
        by_name = {function.__name__: function for function in functions}
        self._adapters = {name: _adapter(function) for name, function in by_name.items()}
        self.tools = [
            _declaration(by_name[name], adapter, strict=strict) for name, adapter in self._adapters.items()
        ]

    def call(self, call: ToolCall) -> Any:
        """Makes a call and returns what the function does, a coroutine when it is asynchronous.

        Raises:
            ArgumentsError: when the model's arguments do not fit the function.
        """
        from pydantic import ValidationError

        adapter = self._adapters.get(call.name)
        if adapter is None:
            raise ArgumentsError(f"there is no function {call.name}")
        try:
            return adapter.validate_json(call.arguments_json)
        except ValidationError as error:
            if error.title != f"call[{call.name}]":
                raise  # from inside of the function
            raise ArgumentsError(_summary(error)) from None


class ArgumentsError(ValueError):
    """The model's arguments are wrong; the message is for the model to read."""


class ToolConversation:
    """The turns of a conversation with functions, and what to ask next; both clients drive it."""

    def __init__(
        self,
        conversation: Conversation,
        functions: Iterable[Function],
        rounds: int,
        options: ChatOptions,
        *,
        strict: bool = False,
    ) -> None:
        self.toolbox = Toolbox(functions, strict=strict)
        self.turns: list[Turn] = list(turns_of(conversation, options))
        self._rounds = rounds
        self._left = rounds
        self.options: ChatOptions = {**options, "tools": [*options.get("tools", ()), *self.toolbox.tools]}
        # The turns hold these two already.
        self.options.pop("images", None)
        self.options.pop("system", None)

    def take(self, answer: Answer) -> bool:
        """Notes an answer; returns whether it asks for calls.

        Raises:
            ToolRoundsExceededError: when it does so once too often.
        """
        self.turns.append(answer)
        if answer.finish_reason != "TOOL_CALLS":
            return False
        if self._left == 0:
            raise ToolRoundsExceededError(ToolRun(answer, self.turns), self._rounds)
        self._left -= 1
        # A choice that requires a call would require another one after every result.
        self.options.pop("tool_choice", None)
        return True

    def call(self, call: ToolCall) -> Any:
        """Makes a call; what is wrong with its arguments is its result, for the model to read."""
        try:
            return self.toolbox.call(call)
        except ArgumentsError as error:
            return f"error: {error}"

    def note(self, call: ToolCall, result: Any) -> None:
        """Notes what a call gave."""
        self.turns.append(_to_result(call, result))


def _adapter(function: Any) -> "TypeAdapter[Any]":
    """Derives the schema of a function's parameters, and calls it with what fits the schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(function)


def _declaration(function: Function, adapter: "TypeAdapter[Any]", *, strict: bool) -> tool_pb2.Tool:
    parameters = adapter.json_schema(mode="validation")
    if parameters.get("type") != "object":
        raise TypeError(f"{function.__name__}: parameters that can be given by name only make a tool")
    description = cleandoc(function.__doc__ or "").split("\n\n")[0].replace("\n", " ")
    name = function.__name__
    return tool({"name": name, "description": description, "parameters": parameters, "strict": strict})


def _to_result(call: ToolCall, result: Any) -> content_pb2.Message:
    from pydantic_core import to_jsonable_python

    result, pictures = _apart(result)
    plain = to_jsonable_python(result)
    if not isinstance(plain, str | dict):
        plain = json.dumps(plain, ensure_ascii=False)
    return tool_result(call.id, plain, pictures)


def _apart(result: Any) -> "tuple[Any, list[Image.Image]]":
    """What a function gave without its pictures, and these."""
    items = list(result) if isinstance(result, list | tuple) else [result]
    pictures = [item for item in items if is_decoded(item)]
    if not pictures:
        return result, []
    others = [item for item in items if not is_decoded(item)]
    return others[0] if len(others) == 1 else others or "", pictures


def _summary(error: "ValidationError") -> str:
    """One line a wrong argument."""
    return "; ".join(
        f"{'.'.join(str(part) for part in detail['loc'])}: {detail['msg']}"
        for detail in error.errors(include_url=False, include_input=False)
    )
