"""Conversations as the model's prompt: chat template, tokens and pictures, all by vLLM's renderer."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from PIL import Image

from octet.engine.types import (
    EmbeddingRequest,
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from octet.engine.types import Prompt as RawPrompt
from octet.engine.vllm import compat
from octet.engine.vllm.launch.args import one_line
from octet.engine.vllm.serving.begun import Begun, begun_turn, reasoning_of
from octet.engine.vllm.serving.raw_prompts import RawPrompts
from octet.engine.vllm.serving.reasoning import reasoning_marks
from octet.engine.vllm.serving.special_tokens import SpecialTokens, Speech
from octet.engine.vllm.serving.templates import ChatTemplates
from octet.engine.vllm.serving.turns import to_turns
from octet.engine.vllm.serving.vllm_messages import to_vllm_messages, to_vllm_tools
from octet.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.renderers import BaseRenderer, ChatParams, TokenizeParams

    from octet.engine.vllm.launch.args import EngineSettings

P = ParamSpec("P")
T = TypeVar("T")

# Characters; a millisecond's work, most of it the tokenizer's. A message or a part takes as long as a piece.
_SHORT = 3 * 1024
_PIECE = 512


@dataclass(frozen=True, slots=True)
class Prompt:
    """A rendered prompt.

    Attributes:
        engine_input: what vLLM's engine takes.
        tokens: its length, pictures included.
        image_tokens: those that pictures take.
    """

    engine_input: Any
    tokens: int
    image_tokens: int

    @property
    def leaves_pictures_out(self) -> bool:
        """Whether the engine is to find pictures in its cache."""
        items = self.engine_input.get("mm_kwargs") or {}
        return any(item is None for pictures in items.values() for item in pictures)


class PromptRenderer:
    """Renders requests with the model's chat template; what takes long, off the event loop.

    What is short is done at once: a thread gets to it when the event loop lets it, which with many requests
    at a time is milliseconds later, once for the template and once for the tokenizer.
    """

    def __init__(self, renderer: "BaseRenderer", model: "ModelConfig", settings: "EngineSettings") -> None:
        self._renderer = renderer
        self._model = model
        self._templates = ChatTemplates(renderer, model, settings)
        self._placeholder = compat.rendering.picture_placeholder(model)
        if self.pans_and_scans:
            compat.rendering.find_pictures_before_line_breaks()
        self._special = SpecialTokens(renderer.tokenizer, self._templates.texts(), self._placeholder or "")
        self._raw = RawPrompts(
            renderer.tokenizer,
            self._special,
            self._placeholder or "",
            lower_case=renderer.default_cmpl_tok_params.do_lower_case,
        )
        # mistral-common makes no special tokens out of texts.
        self._parses_special = settings.parse_special_tokens or self._templates.is_mistral
        self._reasoning = reasoning_marks(settings.engine.reasoning_parser, renderer.tokenizer)

    def plain_names(self, parsed: bool | None = None) -> SpecialTokens | None:
        """The tokens whose names are plain text in what requests say; `parsed` decides unless it is None."""
        return None if (self._parses_special if parsed is None else parsed) else self._special

    @property
    def context_window(self) -> int:
        """Tokens of prompt and answer together."""
        limit: int = self._model.max_model_len
        return limit

    @property
    def has_template(self) -> bool:
        """Whether conversations can be rendered at all."""
        return self._templates.exist

    @property
    def pans_and_scans(self) -> bool:
        """Whether a request can say that large pictures are shown in crops, too."""
        return bool(self._model.hf_config.model_type == "gemma3")

    @property
    def picture_mark(self) -> str:
        """The text that stands for a picture in prompts; empty where there is none."""
        return self._placeholder or ""

    @property
    def picture_token(self) -> int | None:
        """The token that stands for a picture in prompts; None where there is none, or not only one."""
        tokens = self._special.encode([self._placeholder or ""])
        return tokens[0] if len(tokens) == 1 else None

    async def shows(self, picture: Image.Image, count: int) -> bool:
        """Whether the chat template gives pictures a place in which the model finds them, or there is none.

        Args:
            picture: what is shown.
            count: how often; a template may have place for one, and not for more.

        Raises:
            InvalidRequestError: the model cannot be shown this picture, with a template or without.
        """
        parts = (TextPart("x"), *(ImagePart(picture), TextPart("x")) * count)
        try:
            await self.measure_parts(parts)
        except Exception:
            # What vLLM raises depends on the model.
            await self._show_alone(picture)
            return False
        return True

    async def _show_alone(self, picture: Image.Image) -> None:
        """Prepares a picture without a template."""
        if self._placeholder is None:
            return
        ids = self._special.encode([self._placeholder])
        try:
            await self._renderer.process_for_engine_async(
                {"prompt_token_ids": ids, "multi_modal_data": {"image": [picture]}},
                time.time(),  # noqa: TID251 - a date
                skip_mm_cache=True,
            )
        except Exception as error:
            raise InvalidRequestError("messages", one_line(error)) from error

    async def render(self, request: GenerationRequest, *, send_once: bool = True) -> Prompt:
        """Renders the request's conversation and tools, or its raw prompt.

        vLLM sends a picture only once, and notes here which ones it has sent: a prompt that does not reach
        the engine is given to `forget`.

        Args:
            request: the request.
            send_once: whether that is done. Otherwise the prompt brings all its pictures, and none is noted.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InvalidRequestError: the template or the model does not take the conversation.
        """
        limit = self.context_window
        prompt = await self._render(request, limit, send_once=send_once)
        if prompt.tokens >= limit:
            self.forget(prompt)
            raise ContextLengthError(request.prompt_field, _too_long(str(prompt.tokens), limit))
        return prompt

    async def measure(self, request: GenerationRequest) -> Prompt:
        """Renders what will not reach the engine, however long it becomes; otherwise like `render`."""
        return await self._render(request, None, send_once=False)

    async def measure_parts(
        self, parts: tuple[TextPart | ImagePart, ...], *, pan_and_scan: bool | None = None
    ) -> Prompt:
        """Renders what a user may say; as a raw prompt where there is no chat template."""
        request = GenerationRequest("octet-measure", pan_and_scan=pan_and_scan)
        if self.has_template:
            return await self.measure(replace(request, messages=(Message(Role.USER, parts),)))
        return await self.measure(replace(request, prompt=RawPrompt("prompt", parts)))

    async def render_input(self, request: EmbeddingRequest) -> tuple[Prompt, bool]:
        """Renders a text whose vector is asked for; also says whether it was cut.

        Raises:
            ContextLengthError: it is longer than the model takes, and is not to be cut.
            InvalidRequestError: the model does not take it.
        """
        raw, limit = request.prompt, self.context_window
        ids = await _at_once_if(_length([raw.parts]) <= _SHORT, self._raw.encode, raw)
        is_long = len(ids) > limit
        if is_long and not request.truncate:
            raise ContextLengthError(
                raw.field,
                f"has {len(ids)} tokens, more than the model's context window of {limit} tokens; "
                "shorten it, or set truncate",
            )
        tokens: dict[str, Any] = {"prompt_token_ids": self._raw.cut(ids, limit) if is_long else ids}
        if request.cache_salt:
            tokens["cache_salt"] = request.cache_salt
        engine_input = await self._renderer.process_for_engine_async(
            tokens,
            time.time(),  # noqa: TID251 - a date
        )
        return Prompt(engine_input, len(tokens["prompt_token_ids"]), 0), is_long

    async def _render(self, request: GenerationRequest, limit: int | None, *, send_once: bool) -> Prompt:
        """The prompt; `limit` is how many tokens texts may become, None for any number."""
        from vllm.exceptions import VLLMClientError
        from vllm.renderers import TokenizeParams

        tokenize = TokenizeParams(max_total_tokens=limit, max_output_tokens=0, add_special_tokens=False)
        short = _is_short(request)
        try:
            if request.prompt is None:
                prompt = await self._render_conversation(request, tokenize, short=short)
            else:
                prompt = await self._render_raw(request.prompt, tokenize, short=short)
            if short:
                tokens = self._renderer.tokenize_prompt(prompt, tokenize)
            else:
                tokens = await self._renderer.tokenize_prompt_async(prompt, tokenize)
            tokens.update(_prompt_extras(request))
            engine_input = await self._renderer.process_for_engine_async(
                tokens,
                time.time(),  # noqa: TID251 - a date
                skip_mm_cache=not send_once,
                tok_params=tokenize,
            )
        except VLLMClientError as error:
            raise _prompt_error(error, request.prompt_field, self.context_window) from error
        except (ValueError, TypeError) as error:
            raise InvalidRequestError(request.prompt_field, str(error)) from error
        return Prompt(engine_input, len(engine_input["prompt_token_ids"]), _image_tokens(engine_input))

    async def _render_conversation(
        self, request: GenerationRequest, tokenize: "TokenizeParams", *, short: bool
    ) -> Any:
        """A conversation as text, or as tokens where names in it are not to become special ones."""
        speech = Speech(self.plain_names(), marked=not self._templates.is_mistral)
        prompt = await _at_once_if(short, self._put_into_words, request, speech)
        if speech.is_marked:
            pieces = speech.pieces(prompt["prompt"])
            prompt["prompt"] = "".join(pieces)
            tokenize.apply_pre_tokenization(self._renderer.tokenizer, prompt)
            prompt["prompt_token_ids"] = await _at_once_if(short, self._special.encode, pieces)
        return prompt

    async def _render_raw(self, raw: RawPrompt, tokenize: "TokenizeParams", *, short: bool) -> dict[str, Any]:
        """A raw prompt as tokens, with its pictures."""
        # Refuses texts that cannot fit before they are split.
        text = "".join(part.text for part in raw.parts if isinstance(part, TextPart))
        tokenize.apply_pre_tokenization(self._renderer.tokenizer, {"prompt": text})
        ids = await _at_once_if(short, self._raw.encode, raw)
        if tokenize.max_total_tokens is not None and len(ids) > tokenize.max_total_tokens:
            raise ContextLengthError(raw.field, _too_long(str(len(ids)), self.context_window))
        prompt: dict[str, Any] = {"prompt_token_ids": ids}
        if pictures := [part.image for part in raw.parts if isinstance(part, ImagePart)]:
            prompt["multi_modal_data"] = {"image": pictures}
        return prompt

    def forget(self, prompt: Prompt) -> None:
        """Makes vLLM send the pictures of a prompt that did not reach the engine when they are used again."""
        cache = self._renderer.mm_processor_cache
        if cache is None:
            return
        for hashes in (prompt.engine_input.get("mm_hashes") or {}).values():
            for mm_hash in hashes:
                cache.invalidate(mm_hash)

    def _put_into_words(self, request: GenerationRequest, speech: Speech) -> Any:
        """A conversation as the template writes it."""
        messages, params, begun = self._put(request, speech)
        _, prompt = self._renderer.render_messages(messages, params)
        if begun:
            prompt["prompt"] += speech.cut() + begun
        return prompt

    def _put(
        self, request: GenerationRequest, speech: Speech
    ) -> tuple[list[dict[str, Any]], "ChatParams", str]:
        """The conversation as the template takes it, what goes into the template beside it, and the beginning
        of the answer."""
        tools = to_vllm_tools(request)
        able = self._templates.able(tools=bool(tools))
        if begun := begun_turn(request.messages):
            *turns, last = to_turns([*request.messages[:-1], begun.said], able)
            written = self._written(request, tools, last, begun, speech)
            if all(turn.role is Role.SYSTEM for turn in turns):
                # Templates begin with somebody who asks.
                turns.append(Message(Role.USER, ()))
        else:
            turns, written = to_turns(request.messages, able), ""
        return to_vllm_messages(turns, speech), self._chat_params(request, tools, speech), written

    def _written(
        self,
        request: GenerationRequest,
        tools: list[dict[str, Any]] | None,
        turn: Message,
        begun: Begun,
        speech: Speech,
    ) -> str:
        """What the model has written of its turn.

        Raises:
            InvalidRequestError: it cannot go on with that.
        """
        if not self._templates.opens_turns:
            raise InvalidRequestError(
                f"{begun.field}.role",
                "of the last message is ROLE_ASSISTANT, and this model's chat template has no way to go on "
                "with an answer; end with what is asked",
            )
        text = speech.text(begun.written(turn), of_model=True)
        reasoning = speech.text(reasoning_of(turn), of_model=True)
        if self._reasoning is None:
            if reasoning:
                raise InvalidRequestError(
                    f"{begun.field}.parts",
                    "hold reasoning, and this server does not know how the model writes it "
                    "(--reasoning-parser); leave it out",
                )
            return text
        opening = self._templates.opening(tools, request.chat_template_args)
        return self._reasoning.around(reasoning, text, opening)

    def _chat_params(
        self, request: GenerationRequest, tools: list[dict[str, Any]] | None, speech: Speech
    ) -> "ChatParams":
        """The template and what goes into it beside the messages.

        Raises:
            InvalidRequestError: the template has no place for tools or for a variable.
        """
        if tools and not self._templates.takes_tools:
            raise InvalidRequestError(
                "tools",
                "this model's chat template has no place for tools; start the server with --chat-template",
            )
        said = [{**tool, "function": speech.value(tool["function"])} for tool in tools] if tools else None
        variables = {name: speech.value(value) for name, value in request.chat_template_args.items()}
        return self._templates.params(said, variables)


async def _at_once_if(short: bool, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Calls a function here if its work is short, and otherwise in a thread."""
    return function(*args, **kwargs) if short else await asyncio.to_thread(function, *args, **kwargs)


def _is_short(request: GenerationRequest) -> bool:
    """Whether the template and the tokenizer are soon done with all that a request says."""
    if request.tools or request.chat_template_args:
        # Who knows what the template makes of them.
        return False
    said = [request.prompt.parts] if request.prompt else [message.parts for message in request.messages]
    return _length(said) <= _SHORT


def _length(said: Iterable[Sequence[Any]]) -> int:
    """Characters of what is said, each message or prompt by its parts."""
    length = 0
    for parts in said:
        length += _PIECE * (1 + len(parts))
        for part in parts:
            match part:
                case (
                    TextPart(text)
                    | ReasoningPart(text)
                    | ToolResultPart(_, _, text)
                    | ToolCallPart(_, _, text)
                ):
                    length += len(text)
    return length


def _prompt_extras(request: GenerationRequest) -> dict[str, Any]:
    """What goes with a prompt: the salt of its cached prefixes, and what the pictures' processor is told."""
    extras: dict[str, Any] = {}
    if request.cache_salt:
        extras["cache_salt"] = request.cache_salt
    if request.pan_and_scan is not None:
        extras["mm_processor_kwargs"] = {"do_pan_and_scan": request.pan_and_scan}
    return extras


def _image_tokens(engine_input: Any) -> int:
    placeholders = engine_input.get("mm_placeholders") or {}
    return sum(place.get_num_embeds() for place in placeholders.get("image", ()))


def _too_long(tokens: str, limit: int) -> str:
    return (
        f"the prompt has {tokens} tokens, and the model's context window of {limit} tokens must hold "
        "the prompt and at least one token of the answer"
    )


def _prompt_error(error: Exception, field: str, limit: int) -> InvalidRequestError:
    """vLLM's refusal of a prompt as ours."""
    parameter, value = getattr(error, "parameter", None), getattr(error, "value", None)
    if parameter == "input_tokens":
        # vLLM stops to tokenize one token after the limit.
        return ContextLengthError(field, _too_long(f"at least {value}", limit))
    if parameter == "input_text":
        return ContextLengthError(
            field,
            f"the prompt's {value} characters cannot fit into the model's context window of {limit} tokens",
        )
    return InvalidRequestError(field, str(error.args[0] if error.args else error))
