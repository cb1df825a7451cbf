"""What the model writes, as deltas: text, and tool calls wherever the request has tools."""

import json
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from octet.engine.types import Delta, GenerationRequest, ReasoningDelta, TextDelta, ToolCallDelta
from octet.engine.vllm.constraints.request import forces_calls, is_calls_or_text
from octet.engine.vllm.launch.args import SCANNER, finder_of_calls, one_line
from octet.engine.vllm.serving.begun import Begun
from octet.engine.vllm.serving.reasoning import ThoughtCounter
from octet.engine.vllm.serving.vllm_messages import to_vllm_tools
from octet.errors import InvalidRequestError, StartupError
from octet.translate.calls_or_text import CALLS_BEGIN, CallsOrText
from octet.translate.resumed_tools import ResumedScanner, Scanner
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
    from vllm.config import ModelConfig, ReasoningConfig
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
        scanner: Scanner | None,
        parser: Any,
        chat_request: Any,
        *,
        names: Collection[str] | None = None,
        one_call: bool = False,
        whole_calls: bool = False,
        call_id: str = "",
        thoughts: ThoughtCounter | None = None,
    ) -> None:
        """With `whole_calls` nothing is given of a call that the answer's end cuts off.

        What vLLM's parser takes for calls of tools that are not among `names`, if these are given, is text.
        `call_id` is the id of the first call, where the answer goes on with that; empty for a new one.
        `thoughts` counts what the model thinks, where it may do so.
        """
        self._thoughts = thoughts
        self._thought = False  # whether it has
        self._index = index
        self._call_id = call_id
        self._scanner = scanner
        self._parser = parser
        self._chat_request = chat_request
        self._offered = _OfferedCalls(names)
        self._parsed = _ParsedCalls(one_call=one_call, whole_calls=whole_calls)
        self.made_calls = False
        self.done = False

    @property
    def reasoning_tokens(self) -> int:
        """How many tokens of reasoning there were."""
        return self._thoughts.tokens if self._thoughts is not None and self._thought else 0

    def read(self, text: str, token_ids: list[int], prompt_ids: list[int], *, finished: bool) -> list[Delta]:
        """Takes the next piece of the answer; returns what it adds."""
        deltas: list[Delta] = []
        calls: list[ToolCallDelta] = []
        cut_off = False
        if self._thoughts is not None:
            self._thoughts.take(token_ids)
        if self._parser is not None:
            message = self._parser.parse_delta(
                text, token_ids, self._chat_request, prompt_ids, finished=finished
            )
            text = (message.content or "") if message is not None else ""
            if message is not None and message.reasoning:
                deltas.append(ReasoningDelta(self._index, message.reasoning))
                self._thought = True
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
                    call_id, self._call_id = self._call_id or f"call_{uuid.uuid4().hex[:24]}", ""
                    deltas.append(ToolCallDelta(self._index, call, call_id, name, ""))
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
        reasoning: "ReasoningConfig | None" = None,
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
        self._reasoning = reasoning if reasoning is not None and reasoning.enabled else None
        foreign = None if tool_parser == SCANNER else tool_parser
        self._reasoning_cls = self._parser_class(None, reasoning_parser)
        self._tools_cls = self._parser_class(foreign, reasoning_parser) if foreign else None

    def plan(
        self,
        request: GenerationRequest,
        prompt_ids: list[int],
        params: "SamplingParams",
        begun: Begun | None = None,
    ) -> AnswerPlan:
        """Makes the readers, and adapts `params` to what vLLM's parser needs to see.

        `begun` is what the answer goes on with.

        What vLLM's parsers would hold calls to that a model makes on its own is of another library's form,
        and nothing that the API promises.

        Raises:
            InvalidRequestError: the model may call tools on its own, and nobody knows how it writes that; or
                it is to go on with a call that it could not make.
        """
        if request.prompt is not None:
            return self._plan_raw(params)
        tools = to_vllm_tools(request)
        forced = forces_calls(request.tool_choice) or is_calls_or_text(request)
        if tools and not forced:
            self._check_free_calls(request)
        scans = bool(tools) and (forced or self._tool_parser == SCANNER)
        if begun is not None and begun.calls:
            _check_call(begun, request, scans=scans)
        parser_cls = self._tools_cls if tools and not scans else self._reasoning_cls
        one_call = not request.tool_choice.parallel_calls
        # Where these end the answer, they may do so within a call.
        whole_calls = bool(request.sampling.stop or request.sampling.stop_token_ids)
        arguments = {**self._template_arguments, **request.chat_template_args}
        chat_request = _chat_request(tools if parser_cls is self._tools_cls else None) if parser_cls else None
        parsers = [self._parser(parser_cls, chat_request, arguments) for _ in range(params.n)]
        engine_arguments, ended = {}, None
        if chat_request is not None:
            adjusted = parsers[0].adjust_request(chat_request)
            params.skip_special_tokens = params.skip_special_tokens and adjusted.skip_special_tokens
            ended = chat_request.resolve_reasoning_ended(parsers[0], prompt_ids)
            engine_arguments = {
                "reasoning_ended": ended,
                "reasoning_parser_kwargs": {"chat_template_kwargs": arguments},
            }
        readers = [
            AnswerReader(
                index,
                scanner_of(request, begun, whole_calls=whole_calls) if scans else None,
                parser,
                chat_request,
                names=[request.tools[i].name for i in offered(request.tools, request.tool_choice)],
                one_call=one_call,
                whole_calls=whole_calls,
                call_id=begun.calls[-1].id if begun is not None and begun.calls else "",
                thoughts=None if ended else self._counter(),
            )
            for index, parser in enumerate(parsers)
        ]
        return AnswerPlan(readers, engine_arguments)

    def _counter(self) -> ThoughtCounter | None:
        config = self._reasoning
        if config is None:
            return None
        return ThoughtCounter(
            config.reasoning_start_token_ids or (), config.natural_reasoning_end_token_ids or ()
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

    def _plan_raw(self, params: "SamplingParams") -> AnswerPlan:
        """What follows on a raw prompt is its text, whatever it says."""
        readers = [AnswerReader(index, None, None, None) for index in range(params.n)]
        # A constraint holds from the first token on, not from the end of reasoning.
        return AnswerPlan(readers, {"reasoning_ended": True} if self._reasoning_cls else {})

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


def scanner_of(request: GenerationRequest, begun: Begun | None = None, *, whole_calls: bool) -> Scanner:
    """What finds the calls in an answer of which nothing but text and calls is left.

    Args:
        request: the request that it answers, with tools.
        begun: what the answer goes on with.
        whole_calls: whether no call is given before it is complete.
    """
    tools = [request.tools[i] for i in offered(request.tools, request.tool_choice)]

    def new() -> ToolCallScanner:
        return ToolCallScanner(
            [tool.name for tool in tools],
            parameters={tool.name: argument_names(tool.parameters) for tool in tools},
            strict=[request.tools[i].name for i in strict_tools(request)],
            functions=strict_functions(request),
            one_call=not request.tool_choice.parallel_calls,
            whole_calls=whole_calls,
        )

    scanner: Scanner = new()
    if begun is not None and begun.latest:
        resumed = ResumedScanner(new(), begun.latest)
        # Where one call is wanted, one that was said whole is not it.
        scanner = scanner if resumed.done else resumed
    if is_calls_or_text(request):
        return CallsOrText(scanner, begun.text if begun is not None else "")
    return scanner


def _check_call(begun: Begun, request: GenerationRequest, *, scans: bool) -> None:
    """Raises InvalidRequestError where the call that an answer goes on with would not be found in it."""
    call, field = begun.calls[-1], f"{begun.field}.parts[{len(begun.said.parts) + len(begun.calls) - 1}]"
    callable_names = {request.tools[i].name for i in offered(request.tools, request.tool_choice)}
    if call.name not in callable_names or not to_vllm_tools(request):
        raise InvalidRequestError(
            f"{field}.tool_call.name",
            f"{call.name!r} is called, but is none of the functions that the model may call here",
        )
    if not scans:
        raise InvalidRequestError(
            f"{field}.tool_call",
            "breaks off, and this server cannot go on with calls as this model writes them; leave it out",
        )
    if is_calls_or_text(request) and not begun.text.startswith(CALLS_BEGIN):
        raise InvalidRequestError(
            f"{field}.tool_call",
            "follows text, and beside an output format an answer is either calls or text; leave one out",
        )


def _chat_request(tools: list[dict[str, Any]] | None) -> Any:
    """The request in the form that vLLM's parsers ask for; they read its tools and their choice only."""
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    return ChatCompletionRequest(
        messages=[{"role": "user", "content": ""}], tools=tools, tool_choice="auto" if tools else "none"
    )
