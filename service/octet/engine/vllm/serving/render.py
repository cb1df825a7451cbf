"""Conversations as the model's prompt: chat template, tokens and pictures, all by vLLM's renderer."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolResultPart,
)
from octet.engine.vllm import compat
from octet.engine.vllm.launch.args import one_line
from octet.engine.vllm.serving.special_tokens import SpecialTokens, Speech
from octet.engine.vllm.serving.templates import ChatTemplates
from octet.engine.vllm.serving.turns import to_turns
from octet.engine.vllm.serving.vllm_messages import to_vllm_messages, to_vllm_tools
from octet.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.renderers import BaseRenderer, ChatParams, TokenizeParams

    from octet.engine.vllm.launch.args import EngineSettings

# Characters; a millisecond's work.
_LONG = 16 * 1024


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


class PromptRenderer:
    """Renders requests with the model's chat template, off the event loop as vLLM does it."""

    def __init__(self, renderer: "BaseRenderer", model: "ModelConfig", settings: "EngineSettings") -> None:
        self._renderer = renderer
        self._model = model
        self._templates = ChatTemplates(renderer, model, settings)
        self._placeholder = compat.rendering.picture_placeholder(model)
        if self.pans_and_scans:
            compat.rendering.find_pictures_before_line_breaks()
        self._special = SpecialTokens(renderer.tokenizer, self._templates.texts(), self._placeholder or "")
        # mistral-common makes no special tokens out of texts.
        self._parses_special = settings.parse_special_tokens or self._templates.is_mistral

    def plain_names(self, parsed: bool | None = None) -> SpecialTokens | None:
        """The tokens whose names are plain text in what requests say; `parsed` decides unless it is None."""
        return None if (self._parses_special if parsed is None else parsed) else self._special

    @property
    def context_window(self) -> int:
        """Tokens of prompt and answer together."""
        limit: int = self._model.max_model_len
        return limit

    @property
    def pans_and_scans(self) -> bool:
        """Whether a request can say that large pictures are shown in crops, too."""
        return bool(self._model.hf_config.model_type == "gemma3")

    @property
    def picture_token(self) -> int | None:
        """The token that stands for a picture in prompts; None where there is none, or not only one."""
        tokens = self._special.encode([self._placeholder or ""])
        return tokens[0] if len(tokens) == 1 else None

    async def shows(self, picture: Image.Image) -> bool:
        """Whether the chat template gives pictures a place in which the model finds them.

        Raises:
            InvalidRequestError: the model cannot be shown this picture, with a template or without.
        """
        parts = (TextPart("x"), ImagePart(picture), TextPart("x"))
        try:
            await self.measure(GenerationRequest("octet-place", (Message(Role.USER, parts),)))
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

    async def render(self, request: GenerationRequest, *, count_only: bool = False) -> Prompt:
        """Renders the request's conversation and tools.

        The prompt has to reach the engine, or be given to `forget`: vLLM sends a picture only once, and notes
        here which ones it has sent.

        Args:
            request: the request.
            count_only: whether the prompt will not reach the engine whatever happens.

        Raises:
            ContextLengthError: the prompt leaves no room for an answer.
            InvalidRequestError: the template or the model does not take the conversation.
        """
        limit = self.context_window
        prompt = await self._render(request, limit, count_only=count_only)
        if prompt.tokens >= limit:
            self.forget(prompt)
            raise ContextLengthError("messages", _too_long(str(prompt.tokens), limit))
        return prompt

    async def measure(self, request: GenerationRequest) -> Prompt:
        """Renders what will not reach the engine, however long it becomes; otherwise like `render`."""
        return await self._render(request, None, count_only=True)

    async def _render(self, request: GenerationRequest, limit: int | None, *, count_only: bool) -> Prompt:
        """The prompt; `limit` is how many tokens texts may become, None for any number."""
        from vllm.exceptions import VLLMClientError
        from vllm.renderers import TokenizeParams

        tokenize = TokenizeParams(max_total_tokens=limit, max_output_tokens=0, add_special_tokens=False)
        speech = Speech(self.plain_names(), marked=not self._templates.is_mistral)
        if _is_long(request):
            messages, params = await asyncio.to_thread(self._put, request, speech)
        else:
            messages, params = self._put(request, speech)
        try:
            _, prompt = await self._renderer.render_messages_async(messages, params)
            if speech.is_marked:
                await self._tokenize(prompt, speech, tokenize)
            [tokens] = await self._renderer.tokenize_prompts_async([prompt], tokenize)
            tokens.update(_prompt_extras(request))
            engine_input = await self._renderer.process_for_engine_async(
                tokens,
                time.time(),  # noqa: TID251 - a date
                skip_mm_cache=count_only,
                tok_params=tokenize,
            )
        except VLLMClientError as error:
            raise _prompt_error(error, self.context_window) from error
        except (ValueError, TypeError) as error:
            raise InvalidRequestError("messages", str(error)) from error
        return Prompt(engine_input, len(engine_input["prompt_token_ids"]), _image_tokens(engine_input))

    def forget(self, prompt: Prompt) -> None:
        """Makes vLLM send the pictures of a prompt that did not reach the engine when they are used again."""
        cache = self._renderer.mm_processor_cache
        if cache is None:
            return
        for hashes in (prompt.engine_input.get("mm_hashes") or {}).values():
            for mm_hash in hashes:
                cache.invalidate(mm_hash)

    async def _tokenize(self, prompt: Any, speech: Speech, tokenize: "TokenizeParams") -> None:
        """Splits a prompt's text at the marks, and the pieces into tokens."""
        pieces = speech.pieces(prompt["prompt"])
        prompt["prompt"] = "".join(pieces)
        tokenize.apply_pre_tokenization(self._renderer.tokenizer, prompt)
        prompt["prompt_token_ids"] = await asyncio.to_thread(self._special.encode, pieces)

    def _put(self, request: GenerationRequest, speech: Speech) -> tuple[list[dict[str, Any]], "ChatParams"]:
        """The conversation as the template takes it, and what goes into the template beside it."""
        tools = to_vllm_tools(request)
        turns = to_turns(request.messages, self._templates.able(tools=bool(tools)))
        return to_vllm_messages(turns, speech), self._chat_params(request, tools, speech)

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


def _is_long(request: GenerationRequest) -> bool:
    """Whether going through all that a request says takes long enough to be done off the event loop."""
    length = 0
    for message in request.messages:
        for part in message.parts:
            match part:
                case (
                    TextPart(text)
                    | ReasoningPart(text)
                    | ToolResultPart(_, _, text)
                    | ToolCallPart(_, _, text)
                ):
                    length += len(text)
    return length > _LONG


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


def _prompt_error(error: Exception, limit: int) -> InvalidRequestError:
    """vLLM's refusal of a prompt as ours."""
    parameter, value = getattr(error, "parameter", None), getattr(error, "value", None)
    if parameter == "input_tokens":
        # vLLM stops to tokenize one token after the limit.
        return ContextLengthError("messages", _too_long(f"at least {value}", limit))
    if parameter == "input_text":
        return ContextLengthError(
            "messages",
            f"the prompt's {value} characters cannot fit into the model's context window of {limit} tokens",
        )
    return InvalidRequestError("messages", str(error.args[0] if error.args else error))
