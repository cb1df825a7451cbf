"""Conversations as the model's prompt: chat template, tokens and pictures, all by vLLM's renderer."""

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolChoiceMode,
    ToolResultPart,
)
from octet.errors import ContextLengthError, InvalidRequestError

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.renderers import BaseRenderer, ChatParams

    from octet.engine.vllm.launch.args import EngineSettings

GEMMA3_TEMPLATE = Path(__file__).with_name("gemma3_tools.jinja")


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
        self._kwargs = settings.chat_template_kwargs
        self._content_format = settings.chat_template_content_format
        self._template = settings.chat_template
        self._tool_template = self._template_for_tools()

    @property
    def context_window(self) -> int:
        """Tokens of prompt and answer together."""
        limit: int = self._model.max_model_len
        return limit

    @property
    def pans_and_scans(self) -> bool:
        """Whether a request can say that large pictures are shown in crops, too."""
        return bool(self._model.hf_config.model_type == "gemma3")

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
        try:
            _, (engine_input,) = await self._renderer.render_chat_async(
                [to_vllm_messages(request.messages)],
                self._chat_params(request),
                tokenize,
                prompt_extras=_prompt_extras(request),
                skip_mm_cache=count_only,
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

    def _chat_params(self, request: GenerationRequest) -> "ChatParams":
        """The template and what goes into it beside the messages.

        Raises:
            InvalidRequestError: the template has no place for tools or for a variable.
        """
        from vllm.renderers import ChatParams

        tools = to_vllm_tools(request)
        if tools and self._tool_template is _NO_TOOLS:
            raise InvalidRequestError(
                "tools",
                "this model's chat template has no place for tools; start the server with --chat-template",
            )
        template = self._tool_template if tools else self._template
        self._check_variables(request, template, tools)
        return ChatParams(
            chat_template=template,
            chat_template_content_format=self._content_format,
            chat_template_kwargs={
                **self._kwargs,
                **request.chat_template_args,
                "tools": tools,
                "add_generation_prompt": True,
                "tokenize": self._model.enable_prompt_embeds or _is_mistral(self._renderer.tokenizer),
            },
        )

    def _check_variables(
        self, request: GenerationRequest, template: str | None, tools: list[dict[str, Any]] | None
    ) -> None:
        """vLLM drops what a template does not read; whoever sent it should know."""
        if not request.chat_template_args or _is_mistral(self._renderer.tokenizer):
            return
        known = _variables(self._resolve(template, tools) or "")
        for name in request.chat_template_args:
            if name not in known:
                raise InvalidRequestError(
                    f"chat_template_args.{name}", "is not a variable of the model's chat template"
                )

    def _resolve(self, template: str | None, tools: list[dict[str, Any]] | None) -> str | None:
        """The text of the template that is used; None when the model has none."""
        from vllm.renderers.hf import resolve_chat_template

        text: str | None = resolve_chat_template(
            self._renderer.get_tokenizer(), template, tools, model_config=self._model
        )
        return text

    def _template_for_tools(self) -> str | None:
        """The template for requests with tools: None is the model's own, `_NO_TOOLS` that there is none."""
        if _is_mistral(self._renderer.tokenizer):
            return self._template
        probe = [{"type": "function", "function": {"name": "probe", "parameters": {}}}]
        own = self._resolve(self._template, probe)
        if own is not None and "tools" in _variables(own):
            return self._template
        if self._template is None and self._model.hf_config.model_type.startswith("gemma3"):
            return GEMMA3_TEMPLATE.read_text()
        return _NO_TOOLS


_NO_TOOLS = ""


def to_vllm_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    """Messages as vLLM's renderer takes them: OpenAI's form, pictures as PIL images.

    A message with several tool results becomes as many messages, since chat templates know no other way.
    """
    rendered: list[dict[str, Any]] = []
    for message in messages:
        content: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        reasoning: list[str] = []
        for part in message.parts:
            match part:
                case TextPart(text):
                    content.append({"type": "text", "text": text})
                case ReasoningPart(text):
                    reasoning.append(text)
                case ImagePart(image):
                    content.append({"type": "image_pil", "image_pil": image})
                case ToolCallPart(call_id, name, arguments):
                    function = {"name": name, "arguments": arguments or "{}"}
                    calls.append({"id": call_id, "type": "function", "function": function})
                case ToolResultPart(call_id, name, result):
                    rendered.append(
                        {"role": Role.TOOL.value, "tool_call_id": call_id, "name": name, "content": result}
                    )
        if content or calls or reasoning:
            turn: dict[str, Any] = {"role": message.role.value, "content": content}
            if calls:
                turn["tool_calls"] = calls
            if reasoning:
                turn["reasoning"] = "".join(reasoning)
            rendered.append(turn)
    return rendered


def to_vllm_tools(request: GenerationRequest) -> list[dict[str, Any]] | None:
    """The tools on offer, in OpenAI's form; None when there are none or none may be called."""
    if not request.tools or request.tool_choice.mode is ToolChoiceMode.NONE:
        return None
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                # A plain copy: templates print it, and what is not a dict they print in another way.
                "parameters": json.loads(json.dumps(dict(tool.parameters))),
            },
        }
        for tool in request.tools
    ]


def _prompt_extras(request: GenerationRequest) -> dict[str, Any]:
    """What goes with a prompt: the salt of its cached prefixes, and what the pictures' processor is told."""
    extras: dict[str, Any] = {}
    if request.cache_salt:
        extras["cache_salt"] = request.cache_salt
    if request.pan_and_scan is not None:
        extras["mm_processor_kwargs"] = {"do_pan_and_scan": request.pan_and_scan}
    return extras


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    """The variables that a Jinja template reads."""
    import jinja2
    import jinja2.meta
    from jinja2.ext import loopcontrols
    from vllm.renderers.hf import AssistantTracker

    environment = jinja2.Environment(extensions=[loopcontrols, AssistantTracker])
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(template)))


def _is_mistral(tokenizer: Any) -> bool:
    from vllm.utils.mistral import is_mistral_tokenizer

    return bool(is_mistral_tokenizer(tokenizer))


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
