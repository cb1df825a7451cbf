"""Messages and tools in the form that vLLM's renderer takes."""

from PIL import Image

from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolChoice,
    ToolChoiceMode,
    ToolResultPart,
)
from octet.engine.vllm.render import GEMMA3_TEMPLATE, _reads_tools, to_vllm_messages, to_vllm_tools

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
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}},
                {"id": "2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
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
    assert _reads_tools("{% if tools %}{{ tools | tojson }}{% endif %}")
    assert not _reads_tools("{% set tools = [] %}{{ tools }}{{ messages[0]['content'] }}")
    assert not _reads_tools("{{ 'tools' }}{% for m in messages %}{{ m.tools }}{% endfor %}")


def test_gemma3_template_with_tools() -> None:
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = to_vllm_messages(
        (
            Message(Role.SYSTEM, (TextPart("Be brief."),)),
            Message(Role.USER, (TextPart("Weather in Oslo?"),)),
            Message(Role.ASSISTANT, (ToolCallPart("1", "get_weather", '{"city": "Oslo"}'),)),
            Message(Role.TOOL, (ToolResultPart("1", "get_weather", "rain"),)),
        )
    )
    messages[2]["tool_calls"][0]["function"]["arguments"] = {"city": "Oslo"}
    tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]
    ((text,), _) = render_jinja_template(
        conversations=[messages],
        chat_template=GEMMA3_TEMPLATE.read_text(),
        tools=tools,
        add_generation_prompt=True,
        bos_token="<bos>",
    )
    assert text.startswith("<bos><start_of_turn>user\nBe brief.\n\nYou have access to these functions")
    assert '"name": "get_weather"' in text
    assert (
        '<start_of_turn>model\n[{"name": "get_weather", "parameters": {"city": "Oslo"}}]<end_of_turn>\n'
        "<start_of_turn>user\nResult of get_weather: rain<end_of_turn>\n<start_of_turn>model\n"
    ) in text
