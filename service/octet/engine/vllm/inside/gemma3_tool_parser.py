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

from octet.translate.tools import ArgumentsFound, CallFound, Found, TextFound, ToolCallScanner


class Gemma3ToolParser(ToolParser):  # type: ignore[misc]
    """Finds calls written as JSON, or as Python in a list; see `octet.translate.tools`."""

    def __init__(self, tokenizer: Any, tools: list[Any] | None = None) -> None:
        super().__init__(tokenizer, tools)
        self._scanner: ToolCallScanner | None = None

    def extract_tool_calls(self, model_output: str, request: Any) -> ExtractedToolCallInformation:
        """Separates a whole answer's calls from its text."""
        scanner = _scanner(request)
        found = scanner.feed(model_output) + scanner.finish()
        names = [item.name for item in found if isinstance(item, CallFound)]
        arguments = [""] * len(names)
        for item in found:
            if isinstance(item, ArgumentsFound):
                arguments[item.index] += item.json
        text = "".join(item.text for item in found if isinstance(item, TextFound))
        return ExtractedToolCallInformation(
            tools_called=bool(names),
            tool_calls=[
                ToolCall(function=FunctionCall(name=name, arguments=written))
                for name, written in zip(names, arguments, strict=True)
            ],
            content=text or None,
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
            self._scanner = _scanner(request)
        found = self._scanner.feed(delta_text)
        if self.model_tokenizer.eos_token_id in delta_token_ids:
            found += self._scanner.finish()
        text = "".join(item.text for item in found if isinstance(item, TextFound))
        calls = [self._delta(item) for item in found if not isinstance(item, TextFound)]
        return DeltaMessage(content=text or None, tool_calls=calls) if text or calls else None

    def _delta(self, item: Found) -> DeltaToolCall:
        """A delta, noted where vLLM looks up what has been sent."""
        if isinstance(item, CallFound):
            self.prev_tool_call_arr.append({"name": item.name, "arguments": ""})
            self.streamed_args_for_tool.append("")
            function = DeltaFunctionCall(name=item.name)
            return DeltaToolCall(index=item.index, id=make_tool_call_id(), type="function", function=function)
        assert isinstance(item, ArgumentsFound)
        self.streamed_args_for_tool[item.index] += item.json
        self.prev_tool_call_arr[item.index]["arguments"] = self.streamed_args_for_tool[item.index]
        return DeltaToolCall(index=item.index, function=DeltaFunctionCall(arguments=item.json))


def _scanner(request: Any) -> ToolCallScanner:
    return ToolCallScanner([tool.function.name for tool in request.tools or ()])
