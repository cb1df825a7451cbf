"""What the model writes, as deltas: text, and tool calls wherever the request has tools."""

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from octet.engine.types import Delta, GenerationRequest, ReasoningDelta, TextDelta, ToolCallDelta
from octet.engine.vllm.constraints.request import forces_calls, is_calls_or_text
from octet.engine.vllm.launch.args import SCANNER, finder_of_calls, one_line
from octet.engine.vllm.serving.vllm_messages import to_vllm_tools
from octet.errors import InvalidRequestError, StartupError
from octet.translate.calls_or_text import CallsOrText
from octet.translate.strict_calls import strict_functions, strict_tools
from octet.translate.tool_schema import offered
from octet.translate.tool_values import is_cut_off
from octet.translate.tools import (
    ArgumentsFound,
    CallFound,
    Found,
    TextFound,
    ToolCallScanner,
    argument_names,
)

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.sampling_params import SamplingParams


class AnswerReader:
    """Reads one candidate's text as it grows.

    vLLM's parser, where there is one, separates reasoning and a model's special call syntax. The scanner
    finds calls in what is left.

    Attributes:
        made_calls: whether calls were found; at the answer's end, whether all of them are complete, too.
        done: whether the only call that is wanted is complete, and nothing else will be read.
    """

    def __init__(
        self,
        index: int,
        scanner: ToolCallScanner | CallsOrText | None,
        parser: Any,
        chat_request: Any,
        *,
        names: Collection[str] | None = None,
        one_call: bool = False,
        whole_calls: bool = False,
    ) -> None:
        """With `whole_calls` nothing is given of a call that the answer's end cuts off.

        What vLLM's parser takes for calls of tools that are not among `names`, if these are given, is text.
        """
        self._index = index
        self._scanner = scanner
        self._parser = parser
        self._chat_request = chat_request
        self._offered = _OfferedCalls(names)
        self._parsed = _ParsedCalls(one_call=one_call, whole_calls=whole_calls)
        self.made_calls = False
        self.done = False

    def read(self, text: str, token_ids: list[int], prompt_ids: list[int], *, finished: bool) -> list[Delta]:
        """Takes the next piece of the answer; returns what it adds."""
        deltas: list[Delta] = []
        calls: list[ToolCallDelta] = []
        cut_off = False
        if self._parser is not None:
            message = self._parser.parse_delta(
                text, token_ids, self._chat_request, prompt_ids, finished=finished
            )
            text = (message.content or "") if message is not None else ""
            if message is not None and message.reasoning:
                deltas.append(ReasoningDelta(self._index, message.reasoning))
            found = (message.tool_calls or ()) if message is not None else ()
            others, offered = self._offered.sort(
                [self._parsed_call(call) for call in found], finished=finished
            )
            text += others
            calls = self._parsed.take(offered, finished=finished)
            self.done, cut_off = self._parsed.done, self._parsed.cut_off
        if self._scanner is not None:
            deltas += self._scanned(self._scanner.feed(text) + (self._scanner.finish() if finished else []))
            self.done, cut_off = self._scanner.done, self._scanner.cut_off
        elif text:
            deltas.append(TextDelta(self._index, text))
        deltas += calls
        made = self.made_calls or any(isinstance(delta, ToolCallDelta) for delta in deltas)
        self.made_calls = made and not cut_off
        return deltas

    def _parsed_call(self, call: Any) -> ToolCallDelta:
        function = call.function
        return ToolCallDelta(
            self._index,
            call.index,
            call.id or "",
            (function.name or "") if function else "",
            (function.arguments or "") if function else "",
        )

    def _scanned(self, found: list[Found]) -> list[Delta]:
        deltas: list[Delta] = []
        for item in found:
            match item:
                case TextFound(text):
                    deltas.append(TextDelta(self._index, text))
                case CallFound(call, name):
                    deltas.append(ToolCallDelta(self._index, call, f"call_{uuid.uuid4().hex[:24]}", name, ""))
                case ArgumentsFound(call, text):
                    last = deltas[-1] if deltas else None
                    if isinstance(last, ToolCallDelta) and last.call_index == call:
                        deltas[-1] = ToolCallDelta(
                            self._index, call, last.id, last.name, last.arguments_json + text
                        )
                    else:
                        deltas.append(ToolCallDelta(self._index, call, "", "", text))
        return deltas


class _OfferedCalls:
    """Tells calls that vLLM's parser finds of tools on offer from those of other functions."""

    def __init__(self, names: Collection[str] | None) -> None:
        """`names` are those on offer; with None, all are."""
        self._names = names
        self._others = 0  # calls of other functions so far
        self._within_other = False

    def sort(self, calls: list[ToolCallDelta], *, finished: bool) -> tuple[str, list[ToolCallDelta]]:
        """Takes the next pieces of calls; returns others' as text, and those on offer, counted anew."""
        text, offered = "", []
        for call in calls:
            if call.name:
                text += "}" * self._within_other
                self._within_other = self._names is not None and call.name not in self._names
                self._others += self._within_other
                if self._within_other:
                    text += f'{{"name": {json.dumps(call.name)}, "arguments": '
            if self._within_other:
                text += call.arguments_json
            else:
                offered.append(replace(call, call_index=call.call_index - self._others))
        if finished:
            text += "}" * self._within_other
            self._within_other = False
        return text, offered


class _ParsedCalls:
    """The calls that vLLM's parser finds, of which it does not tell when they are complete.

    Attributes:
        done: whether the only call that is wanted is complete: the next one has begun.
        cut_off: whether the answer has ended within a call's arguments.
    """

    def __init__(self, *, one_call: bool, whole_calls: bool) -> None:
        self._one_call = one_call
        self._whole_calls = whole_calls
        self._held: list[ToolCallDelta] = []
        self._last: list[ToolCallDelta] = []  # the pieces of the last call
        self.done = False
        self.cut_off = False

    def take(self, calls: list[ToolCallDelta], *, finished: bool) -> list[ToolCallDelta]:
        """Takes the next pieces of calls; returns those that are to be passed on."""
        given: list[ToolCallDelta] = []
        for call in calls:
            if self._last and call.call_index != self._last[0].call_index:
                given += self._held
                self._held, self._last = [], []
                self.done = self._one_call
            if self.done:
                return given
            self._last.append(call)
            self._held.append(call)
        if finished and self._last:
            self.cut_off = is_cut_off("".join(call.arguments_json for call in self._last))
        if not self._whole_calls or (finished and not self.cut_off):
            given += self._held
            self._held = []
        return given


@dataclass(frozen=True, slots=True)
class AnswerPlan:
    """How a request's answer is read.

    Attributes:
        readers: one a candidate.
        engine_arguments: what vLLM's engine has to know about reasoning when it constrains decoding.
    """

    readers: list[AnswerReader]
    engine_arguments: dict[str, Any]


class AnswerParsing:
    """Chooses, for each request, how its answer is read."""

    def __init__(
        self,
        tokenizer: Any,
        model: "ModelConfig",
        tool_parser: str | None,
        reasoning_parser: str,
        template_arguments: Mapping[str, Any],
    ) -> None:
        """Looks the parsers up by vLLM's names.

        Raises:
            StartupError: a name is unknown, or the parser cannot work with the model's tokenizer.
        """
        tool_parser = finder_of_calls(tool_parser, model.hf_config.model_type)
        self._tokenizer = tokenizer
        self._model = model
        self._tool_parser = tool_parser
        self._template_arguments = template_arguments
        foreign = None if tool_parser == SCANNER else tool_parser
        self._reasoning_cls = self._parser_class(None, reasoning_parser)
        self._tools_cls = self._parser_class(foreign, reasoning_parser) if foreign else None

    def plan(self, request: GenerationRequest, prompt_ids: list[int], params: "SamplingParams") -> AnswerPlan:
        """Makes the readers, and adapts `params` to what vLLM's parser needs to see.

        What vLLM's parsers would hold calls to that a model makes on its own is of another library's form,
        and nothing that the API promises.

        Raises:
            InvalidRequestError: the model may call tools on its own, and nobody knows how it writes that.
        """
        tools = to_vllm_tools(request)
        forced = forces_calls(request.tool_choice) or is_calls_or_text(request)
        if tools and not forced:
            self._check_free_calls(request)
        scans = bool(tools) and (forced or self._tool_parser == SCANNER)
        parser_cls = self._tools_cls if tools and not scans else self._reasoning_cls
        one_call = not request.tool_choice.parallel_calls
        # Where these end the answer, they may do so within a call.
        whole_calls = bool(request.sampling.stop or request.sampling.stop_token_ids)
        arguments = {**self._template_arguments, **request.chat_template_args}
        chat_request = _chat_request(tools if parser_cls is self._tools_cls else None) if parser_cls else None
        parsers = [self._parser(parser_cls, chat_request, arguments) for _ in range(params.n)]
        readers = [
            AnswerReader(
                index,
                scanner_of(request, whole_calls=whole_calls) if scans else None,
                parser,
                chat_request,
                names=[request.tools[i].name for i in offered(request.tools, request.tool_choice)],
                one_call=one_call,
                whole_calls=whole_calls,
            )
            for index, parser in enumerate(parsers)
        ]
        if chat_request is None:
            return AnswerPlan(readers, {})
        adjusted = parsers[0].adjust_request(chat_request)
        params.skip_special_tokens = params.skip_special_tokens and adjusted.skip_special_tokens
        return AnswerPlan(
            readers,
            {
                "reasoning_ended": chat_request.resolve_reasoning_ended(parsers[0], prompt_ids),
                "reasoning_parser_kwargs": {"chat_template_kwargs": arguments},
            },
        )

    def _check_free_calls(self, request: GenerationRequest) -> None:
        """Raises InvalidRequestError where calls that the model makes are not found, or not held."""
        if self._tool_parser is None:
            raise InvalidRequestError(
                "tool_choice",
                "this server has no --tool-call-parser; it serves required and named choices only, and tools "
                "beside an output format",
            )
        strict = strict_tools(request)
        if strict and self._tool_parser != SCANNER:
            raise InvalidRequestError(
                f"tools[{strict[0]}].strict",
                f"is not served with --tool-call-parser {self._tool_parser}, whose form of calls is not held "
                "to schemas; require the call, or leave it out",
            )

    def _parser_class(self, tool_parser: str | None, reasoning_parser: str) -> Any:
        from vllm.parser import ParserManager

        try:
            return ParserManager.get_parser(
                tool_parser_name=tool_parser,
                reasoning_parser_name=reasoning_parser,
                enable_auto_tools=tool_parser is not None,
                model_name=self._model.model,
                tokenizer=self._tokenizer,
            )
        except TypeError as error:
            raise StartupError(one_line(error)) from error

    def _parser(self, parser_cls: Any, chat_request: Any, arguments: dict[str, Any]) -> Any:
        if parser_cls is None:
            return None
        return parser_cls(
            self._tokenizer, chat_request.tools, chat_template_kwargs=arguments, model_config=self._model
        )


def scanner_of(request: GenerationRequest, *, whole_calls: bool) -> ToolCallScanner | CallsOrText:
    """What finds the calls in an answer of which nothing but text and calls is left.

    Args:
        request: the request that it answers, with tools.
        whole_calls: whether no call is given before it is complete.
    """
    tools = [request.tools[i] for i in offered(request.tools, request.tool_choice)]
    scanner = ToolCallScanner(
        [tool.name for tool in tools],
        parameters={tool.name: argument_names(tool.parameters) for tool in tools},
        strict=[request.tools[i].name for i in strict_tools(request)],
        functions=strict_functions(request),
        one_call=not request.tool_choice.parallel_calls,
        whole_calls=whole_calls,
    )
    return CallsOrText(scanner) if is_calls_or_text(request) else scanner


def _chat_request(tools: list[dict[str, Any]] | None) -> Any:
    """The request in the form that vLLM's parsers ask for; they read its tools and their choice only."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(
        messages=[{"role": "user", "content": ""}], tools=tools, tool_choice="auto" if tools else "none"
    )
