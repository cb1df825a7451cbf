"""The chat template of a model: which one is used when, and what it can say of a conversation."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from octet.engine.types import ImagePart, Message, Part, Role, TextPart, ToolCallPart, ToolResultPart
from octet.engine.vllm import compat
from octet.engine.vllm.serving.special_tokens import Speech
from octet.engine.vllm.serving.turns import Abilities
from octet.engine.vllm.serving.vllm_messages import to_vllm_messages
from octet.errors import InvalidRequestError

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.renderers import BaseRenderer, ChatParams

    from octet.engine.vllm.launch.args import EngineSettings

GEMMA3_TEMPLATE = Path(__file__).with_name("gemma3_tools.jinja")

_NAME = "octet_probe"
_TOOLS = [{"type": "function", "function": {"name": _NAME, "description": "", "parameters": {}}}]
_WORD = re.compile(r"octet\d+probe")
_TAGS = re.compile(r"<[^<>]*>|\s")


class ChatTemplates:
    """The template for requests without tools and the one for those with.

    Attributes:
        exist: whether there is any.
        takes_tools: whether there is one for requests with tools.
        opens_turns: whether what they make ends with how a turn of the model's begins.
        is_mistral: whether mistral-common takes the place of a template.

    Args:
        renderer: vLLM's.
        model: vLLM's.
        settings: how the engine was started.
    """

    def __init__(self, renderer: "BaseRenderer", model: "ModelConfig", settings: "EngineSettings") -> None:
        self._renderer = renderer
        self._model = model
        self._settings = settings
        self._placeholder = compat.rendering.picture_placeholder(model)
        self.is_mistral = is_mistral(renderer.tokenizer)
        self.takes_tools = True
        self._plain = self._with_tools = settings.chat_template
        self.exist = self.is_mistral or self._resolve(self._plain, None) is not None
        if not self.is_mistral and "tools" not in _variables(self._resolve(self._plain, _TOOLS) or ""):
            self.takes_tools = settings.chat_template is None and model.hf_config.model_type.startswith(
                "gemma3"
            )
            self._with_tools = GEMMA3_TEMPLATE.read_text() if self.takes_tools else self._plain
        self._able = self._abilities()
        self.opens_turns = not self.is_mistral and self._opens_turns()

    def able(self, *, tools: bool) -> Abilities:
        """What is said of conversations, with or without tools: the same, but for calls.

        A model whose own template has calls only beside declared tools has them there.
        """
        return self._able[tools]

    def texts(self) -> list[str]:
        """The templates themselves, as far as they are known."""
        if self.is_mistral:
            return []
        found = {self._resolve(self._plain, None), self._resolve(self._with_tools, _TOOLS)}
        return [text for text in found if text]

    def opening(self, tools: list[dict[str, Any]] | None, variables: Mapping[str, Any]) -> str:
        """How a turn of the model's begins, as far as that can be told from what comes before it.

        Args:
            tools: as in `params`.
            variables: as in `params`.
        """
        before, opened = (
            self._text(_said("u"), self.params(tools, variables, opens=opens)) for opens in (False, True)
        )
        # Some templates begin a turn whether they are told to or not.
        return opened.removeprefix(before) or opened

    def params(
        self, tools: list[dict[str, Any]] | None, variables: Mapping[str, Any], *, opens: bool = True
    ) -> "ChatParams":
        """The template and what goes into it beside the messages.

        Args:
            tools: as `octet.engine.vllm.serving.vllm_messages.to_vllm_tools` gives them.
            variables: of the request, further ones for the template.
            opens: whether the beginning of a turn of the model's goes behind all.

        Raises:
            InvalidRequestError: the template has no place for a variable.
        """
        from vllm.renderers import ChatParams

        template = self._with_tools if tools else self._plain
        self._check_variables(variables, template, tools)
        return ChatParams(
            chat_template=template,
            chat_template_content_format=self._settings.chat_template_content_format,
            chat_template_kwargs={
                **self._settings.chat_template_kwargs,
                **variables,
                "tools": tools,
                "add_generation_prompt": opens,
                "tokenize": self.is_mistral,
            },
        )

    def _check_variables(
        self, variables: Mapping[str, Any], template: str | None, tools: list[dict[str, Any]] | None
    ) -> None:
        """vLLM drops what a template does not read; whoever sent it should know."""
        if not variables or self.is_mistral:
            return
        known = _variables(self._resolve(template, tools) or "")
        for name in variables:
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

    def _abilities(self) -> dict[bool, Abilities]:
        """What is said without tools and with them."""
        if self.is_mistral:
            # What comes of it are tokens, and it puts turns together itself.
            return dict.fromkeys((False, True), Abilities(shown_results=False))
        with compat.rendering.unsaid_about_templates():
            plain = self._probed(None)
            able = self._probed(_TOOLS) if self.takes_tools else plain
        both = plain & able
        return {
            with_tools: replace(
                both, calls=own.calls, loose_calls=own.loose_calls, shown_results=own.shown_results
            )
            for with_tools, own in ((False, plain), (True, able))
        }

    def _probed(self, tools: list[dict[str, Any]] | None) -> Abilities:
        return Abilities(
            **{
                name: all(self._says(conversation, tools) for conversation in conversations)
                for name, conversations in _PROBES.items()
            }
        )

    def _says(self, conversation: list[Message], tools: list[dict[str, Any]] | None) -> bool:
        """Whether the template says each word of a conversation once, in order and apart from the others.

        A picture is where its word is, behind it or before it.
        """
        try:
            text = self._text(conversation, self.params(tools, {}))
        except Exception:
            # Templates raise whatever they like.
            return False
        found = list(_WORD.finditer(text))
        apart = all(first.end() < second.start() for first, second in pairwise(found))
        parts = [part for message in conversation for part in message.parts]
        words = [_word(i) for i in range(sum(not isinstance(part, ImagePart) for part in parts))]
        return apart and [match[0] for match in found] == words and self._shows_pictures(parts, text)

    def _shows_pictures(self, parts: Sequence[Part], text: str) -> bool:
        """Whether a prompt has each picture once, and right beside the word of the part before it."""
        pictures = [isinstance(part, ImagePart) for part in parts]
        if not any(pictures):
            return True
        if not self._placeholder:
            return False
        *between, last = _WORD.split(text)
        shown = [piece.count(self._placeholder) for piece in (*between, last)]
        for behind_word in (1, 0):
            wanted = [0] * len(shown)
            words = 0
            for is_picture in pictures:
                wanted[words - 1 + behind_word] += is_picture
                words += not is_picture
            if shown == wanted:
                return True
        return False

    def _opens_turns(self) -> bool:
        """Whether what the model writes comes, in the templates, where its words in earlier turns are.

        A template may write words of its own before these, such as the name of a channel, which the model
        would have to write first; tags alone, such as those around reasoning, it may.
        """
        question, turn = _said("u"), _said("u", "a")
        with compat.rendering.unsaid_about_templates():
            for tools in (None, _TOOLS) if self.takes_tools else (None,):
                try:
                    before, opened = (
                        self._text(question, self.params(tools, {}, opens=opens)) for opens in (False, True)
                    )
                    said = self._text(turn, self.params(tools, {}, opens=False))
                except Exception:
                    # Templates raise whatever they like.
                    return False
                until, word, _ = said.partition(_word(1))
                told = len(opened) > len(before) and opened.startswith(before)
                if not told and not (word and opened.startswith(until.rstrip())):
                    return False
                if until.startswith(opened) and _TAGS.sub("", until[len(opened) :]):
                    return False
        return True

    def _text(self, conversation: list[Message], params: "ChatParams") -> str:
        """What comes of a conversation."""
        _, prompt = self._renderer.render_messages(to_vllm_messages(conversation, Speech(None)), params)
        return str(prompt.get("prompt", ""))


def is_mistral(tokenizer: Any) -> bool:
    """Whether a tokenizer is one of mistral-common's."""
    from vllm.utils.mistral import is_mistral_tokenizer

    return bool(is_mistral_tokenizer(tokenizer))


def _word(number: int) -> str:
    return f"octet{number}probe"


def _said(*roles: str) -> list[Message]:
    """A conversation of these speakers, the first letters of whose roles are given, with a word in each part.

    "c" is an assistant's call, "r" the result of the earliest call that has none, and "p" a picture, which
    has no word.
    """
    kinds = {"s": Role.SYSTEM, "u": Role.USER, "a": Role.ASSISTANT, "c": Role.ASSISTANT, "r": Role.TOOL}
    calls = iter(range(len(roles) * 2)), iter(range(len(roles) * 2))
    words = iter(range(len(roles) * 2))
    messages = []
    for role in roles:
        parts: list[Part] = []
        for kind in role:
            if kind == "p":
                parts.append(ImagePart(Image.new("RGB", (8, 8))))
                continue
            word = _word(next(words))
            match kind:
                case "c":
                    parts.append(ToolCallPart(f"call{next(calls[0]):05}", _NAME, f'{{"a": "{word}"}}'))
                case "r":
                    parts.append(ToolResultPart(f"call{next(calls[1]):05}", _NAME, word))
                case _:
                    parts.append(TextPart(word))
        messages.append(Message(kinds[role[0]], tuple(parts)))
    return messages


# An ability is there where all of its conversations are said whole.
_PROBES = {
    "system": [_said("s", "u", "a", "u")],
    "late_system": [_said("s", "s", "u", "a", "s", "u")],
    "repeated": [_said("u", "u", "a", "a", "u")],
    "assistant_first": [_said("a", "u"), _said("s", "a", "u")],
    "calls": [_said("u", "acc", "rr", "a", "u", "c", "r", "u")],
    "loose_calls": [_said("u", "cc", "u", "r", "a", "u")],
    "shown_results": [_said("u", "cc", "rpr", "a", "u", "c", "rp")],
}


@lru_cache(maxsize=16)
def _variables(template: str) -> frozenset[str]:
    """The variables that a Jinja template reads."""
    import jinja2
    import jinja2.meta
    from jinja2.ext import loopcontrols
    from vllm.renderers.hf import AssistantTracker

    environment = jinja2.Environment(extensions=[loopcontrols, AssistantTracker])
    return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(template)))
