"""The tool parser `gemma3` for a plain vLLM server; Octet itself reads answers with the scanner directly."""

from collections.abc import Sequence
from typing import Any

from vllm.entrypoints.generate.base.protocol import (
    DeltaFunctionCall,
    DeltaMessage,
    DeltaToolCall,
    ExtractedToolCallInformation,
    FunctionCall,
    ToolCall,
)
from vllm.renderers.chat_utils import make_tool_call_id
from vllm.tool_parsers.abstract_tool_parser import ToolParser

from octet.translate.tools import (
    ArgumentsFound,
    CallFound,
    Found,
    TextFound,
    ToolCallScanner,
    argument_names,
)


class Gemma3ToolParser(ToolParser):  # type: ignore[misc]
    """Finds calls in every form that `octet.translate.tools` knows.

    Attributes:
        engine_based_streaming: vLLM asks the parsers that say so for what they hold back when an answer has
            ended, for whatever reason. It is said when the first piece of an answer comes, for vLLM would not
            read the calls of a required choice in the usual way for a parser that says so from the start.
    """

    def __init__(self, tokenizer: Any, tools: list[Any] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._scanner: ToolCallScanner | None = None

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Separates a whole answer's calls from its text."""
        # Whether its end has cut off a call is not said: only complete ones are calls.
        scanner = _scanner(request, whole_calls=True)
        found = scanner.feed(model_output) + scanner.finish()
        names = [item.name for item in found if isinstance(item, CallFound)]
        arguments = [""] * len(names)
        for item in found:
            if isinstance(item, ArgumentsFound):
                arguments[item.index] += item.json
        return ExtractedToolCallInformation(
            tools_called=bool(names),
            tool_calls=[
                ToolCall(function=FunctionCall(name=name, arguments=written))
                for name, written in zip(names, arguments, strict=True)
            ],
            content=_text(found) or None,
        )

    def extract_tool_calls_streaming(
        self,
        previous_text: str,
        current_text: str,
        delta_text: str,
        previous_token_ids: Sequence[int],
        current_token_ids: Sequence[int],
        delta_token_ids: Sequence[int],
        request: Any,
    ) -> DeltaMessage | None:
        """Takes the next piece of an answer; returns what it adds, or None."""
        if self._scanner is None:
            self._scanner = _scanner(request, whole_calls=bool(request.stop or request.stop_token_ids))
            self.engine_based_streaming = True
        return self._message(self._scanner.feed(delta_text))

    def finish_streaming(self) -> DeltaMessage | None:
        """Returns what was held back of an answer that has ended, or None."""
        return None if self._scanner is None else self._message(self._scanner.finish())

    def _message(self, found: list[Found]) -> DeltaMessage | None:
        text = _text(found)
        calls = [self._delta(item) for item in found if not isinstance(item, TextFound)]
        return DeltaMessage(content=text or None, tool_calls=calls) if text or calls else None

    def _delta(self, item: CallFound | ArgumentsFound) -> DeltaToolCall:
        """A delta, noted where vLLM looks up what has been sent."""
        if isinstance(item, CallFound):
            self.prev_tool_call_arr.append({"name": item.name, "arguments": ""})
            self.streamed_args_for_tool.append("")
            function = DeltaFunctionCall(name=item.name)
            return DeltaToolCall(index=item.index, id=make_tool_call_id(), type="function", function=function)
        self.streamed_args_for_tool[item.index] += item.json
        self.prev_tool_call_arr[item.index]["arguments"] = self.streamed_args_for_tool[item.index]
        return DeltaToolCall(index=item.index, function=DeltaFunctionCall(arguments=item.json))


def _text(found: list[Found]) -> str:
    return "".join(item.text for item in found if isinstance(item, TextFound))


def _scanner(request: Any, *, whole_calls: bool) -> ToolCallScanner:
    # The two APIs that have tools write functions differently; other kinds of tools have no names.
    functions = [getattr(tool, "function", tool) for tool in request.tools or () if tool.type == "function"]
    return ToolCallScanner(
        [function.name for function in functions],
        parameters={function.name: argument_names(function.parameters or {}) for function in functions},
        whole_calls=whole_calls,
    )
