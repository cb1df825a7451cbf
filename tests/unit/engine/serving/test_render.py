"""Messages and tools in the form that vLLM's renderer takes."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from PIL import Image
from vllm.renderers import chat_utils, hf

from octet import demo
from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolChoiceMode,
    ToolResultPart,
)
from octet.engine.vllm.serving import render, vllm_messages
from octet.engine.vllm.serving.special_tokens import SpecialTokens, Speech
from octet.engine.vllm.serving.templates import GEMMA3_TEMPLATE, _variables
from octet.engine.vllm.serving.turns import Abilities, to_turns
from octet.engine.vllm.serving.vllm_messages import to_vllm_tools
from tests.unit.engine.serving.conftest import LoadRenderer


def to_vllm_messages(messages: tuple[Message, ...]) -> list[dict[str, Any]]:
    return vllm_messages.to_vllm_messages(messages, Speech(None))


PICTURE = Image.new("RGB", (2, 2))


def test_pictures_and_text_keep_their_order() -> None:
    parts = (TextPart("Look: "), ImagePart(PICTURE), TextPart("What is it?"))
    assert to_vllm_messages((Message(Role.USER, parts),)) == [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Look: "},
                {"type": "image_pil", "image_pil": PICTURE},
                {"type": "text", "text": "What is it?"},
            ],
        }
    ]


def test_calls_and_their_results() -> None:
    calls = (ToolCallPart("1", "f", '{"a": 1}'), ToolCallPart("2", "g", ""))
    results = (ToolResultPart("1", "f", "one"), ToolResultPart("2", "g", "two"))
    rendered = to_vllm_messages((Message(Role.ASSISTANT, calls), Message(Role.TOOL, results)))
    assert rendered == [
        {
            "role": "assistant",
            "content": [],
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": {}}},
            ],
        },
        {"role": "tool", "tool_call_id": "1", "name": "f", "content": "one"},
        {"role": "tool", "tool_call_id": "2", "name": "g", "content": "two"},
    ]


def request(mode: ToolChoiceMode) -> GenerationRequest:
    tool = Tool("f", "Does it.", {"type": "object"})
    return GenerationRequest("id", (), tools=(tool,), tool_choice=ToolChoice(mode))


def test_tools_are_offered_unless_none_may_be_called() -> None:
    function = {"name": "f", "description": "Does it.", "parameters": {"type": "object"}}
    assert to_vllm_tools(request(ToolChoiceMode.AUTO)) == [{"type": "function", "function": function}]
    assert to_vllm_tools(request(ToolChoiceMode.NONE)) is None
    assert to_vllm_tools(GenerationRequest("id", ())) is None


def test_templates_that_read_tools_are_told_apart() -> None:
    assert _variables("{% if tools %}{{ tools | tojson }}{% endif %}") == {"tools"}
    assert _variables("{% set tools = [] %}{{ tools }}{{ messages[0]['content'] }}") == {"messages"}
    assert _variables("{{ 'tools' }}{% for m in messages %}{{ m.tools }}{% endfor %}") == {"messages"}


def test_reasoning_goes_to_the_template() -> None:
    message = Message(Role.ASSISTANT, (ReasoningPart("hm"), ReasoningPart("m"), TextPart("Yes.")))
    assert to_vllm_messages((message,)) == [
        {"role": "assistant", "content": [{"type": "text", "text": "Yes."}], "reasoning": "hmm"}
    ]


TOOLS = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]


def gemma3(*messages: Message, tools: list[dict[str, Any]] | None = None) -> str:
    """The prompt that Octet's template for Gemma 3 makes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    able = Abilities(late_system=False, repeated=False, calls=False)
    turns = to_vllm_messages(tuple(to_turns(messages, able)))
    ((text,), _) = render_jinja_template(
        conversations=[turns],
        chat_template=GEMMA3_TEMPLATE.read_text(),
        tools=tools,
        add_generation_prompt=True,
        bos_token="<bos>",
    )
    assert isinstance(text, str)
    return text


QUESTION = Message(Role.USER, (TextPart("Weather in Oslo?"),))
CALL = ToolCallPart("1", "get_weather", '{"city": "Oslo"}')
RESULT = ToolResultPart("1", "get_weather", "rain")


def test_gemma3_template_with_tools() -> None:
    system = Message(Role.SYSTEM, (TextPart("Be brief."),))
    asked = Message(Role.ASSISTANT, (CALL,))
    text = gemma3(system, QUESTION, asked, Message(Role.TOOL, (RESULT,)), tools=TOOLS)
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nYou have access to these functions")
    assert '"name": "get_weather"' in text
    assert text.endswith(
        "Weather in Oslo?<end_of_turn>\n"
        '<start_of_turn>model\n[{"name": "get_weather", "parameters": {"city": "Oslo"}}]<end_of_turn>\n'
        "<start_of_turn>user\nResult of get_weather: rain<end_of_turn>\n<start_of_turn>model\n"
    )


def test_gemma3_template_keeps_users_and_the_model_in_turn() -> None:
    asked = Message(Role.ASSISTANT, (TextPart("I look."), CALL, ToolCallPart("2", "get_time", "{}")))
    results = Message(Role.TOOL, (RESULT, ToolResultPart("2", "get_time", "noon")))
    text = gemma3(QUESTION, asked, results, Message(Role.USER, (TextPart("And?"),)), tools=TOOLS)
    assert text.endswith(
        '<start_of_turn>model\nI look.\n[{"name": "get_weather", "parameters": {"city": "Oslo"}}, '
        '{"name": "get_time", "parameters": {}}]<end_of_turn>\n'
        "<start_of_turn>user\nResult of get_weather: rain\nResult of get_time: noon\n\nAnd?<end_of_turn>\n"
        "<start_of_turn>model\n"
    )
    assert text.count("<start_of_turn>user") == text.count("<start_of_turn>model") == 2


def test_gemma3_template_gives_pictures_their_place() -> None:
    parts = (TextPart("Look: "), ImagePart(PICTURE), TextPart("What is it?"))
    turns = to_vllm_messages((Message(Role.USER, parts),))
    turns[0]["content"][1] = {"type": "image"}  # as vLLM's renderer does it
    from transformers.utils.chat_template_utils import render_jinja_template

    ((text,), _) = render_jinja_template(
        conversations=[turns], chat_template=GEMMA3_TEMPLATE.read_text(), bos_token=""
    )
    assert text == "<start_of_turn>user\nLook:<start_of_image>What is it?<end_of_turn>\n"


LONG = {
    "text": [[TextPart("word " * 10_000)]],
    "page": [[TextPart("word " * 800)]],
    "turns": [[TextPart("a")]] * 200,
    "parts": [[TextPart("a")] * 200],
    "result": [[TextPart("a")], [ToolResultPart("1", "f", "word " * 10_000)]],
}


@pytest.mark.parametrize("kind", LONG)
async def test_a_long_conversation_is_put_into_words_off_the_event_loop(
    kind: str, load_renderer: LoadRenderer, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = load_renderer(demo.PATH)
    threads: list[int] = []

    def noting(function: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            threads.append(threading.get_ident())
            return function(*args, **kwargs)

        return noted

    monkeypatch.setattr(render, "to_turns", noting(render.to_turns))
    monkeypatch.setattr(
        chat_utils, "_parse_chat_message_content", noting(chat_utils._parse_chat_message_content)
    )
    monkeypatch.setattr(hf, "safe_apply_chat_template", noting(hf.safe_apply_chat_template))
    monkeypatch.setattr(renderer._renderer, "_tokenize_prompt", noting(renderer._renderer._tokenize_prompt))
    monkeypatch.setattr(SpecialTokens, "encode", noting(SpecialTokens.encode))

    def to_request(conversation: Sequence[Sequence[Any]]) -> GenerationRequest:
        roles = [Role.TOOL if isinstance(parts[0], ToolResultPart) else Role.USER for parts in conversation]
        turns = zip(roles, conversation, strict=True)
        return GenerationRequest("id", tuple(Message(role, tuple(parts)) for role, parts in turns))

    await renderer.measure(to_request(LONG[kind]))
    assert len(threads) >= 3
    assert threading.get_ident() not in threads
    threads.clear()
    await renderer.measure(to_request([[TextPart("short")]]))
    assert len(threads) == 4
    assert set(threads) == {threading.get_ident()}
    threads.clear()
    # Some of it is not to become special tokens.
    await renderer.measure(to_request([[TextPart("<bos>")]]))
    assert len(threads) == 4
    assert set(threads) == {threading.get_ident()}
