"""A conversation that ends with the assistant's message: the prompt ends with what it has said, as it is."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from octet import demo
from octet.engine.types import (
    GenerationRequest,
    Message,
    Part,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
)
from octet.engine.vllm.serving.begun import begun_turn
from octet.engine.vllm.serving.reasoning import ReasoningMarks, ThoughtCounter, reasoning_marks
from octet.engine.vllm.serving.render import PromptRenderer
from octet.errors import InvalidRequestError, StartupError
from tests.e2e.checkpoints import write_templated_checkpoint, write_thinking_checkpoint
from tests.unit.engine.serving.conftest import LoadRenderer
from tests.unit.engine.serving.test_conversations import (
    NAMES,
    conversations,
    decoration,
    prompt_of,
    request,
)

QUESTION = Message(Role.USER, (TextPart("Why?"),))
CUT = ToolCallPart("c9", "weather", '{"city": "Os')


def said(*parts: str | Part) -> Message:
    return Message(Role.ASSISTANT, tuple(TextPart(part) if isinstance(part, str) else part for part in parts))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    messages=conversations(),
    text=st.lists(decoration | st.sampled_from(["Because", "é€", "\n\n\n", "   "]), max_size=3).map("".join),
    tools=st.sampled_from(["", "offered", "none"]),
)
async def test_the_prompt_goes_on_with_what_was_said(
    renderers: dict[str, PromptRenderer], name: str, messages: tuple[Message, ...], text: str, tools: str
) -> None:
    renderer = renderers[name]
    open_text, open_ids, _ = await prompt_of(renderer, request(messages, tools=tools))
    prompt, ids, _ = await prompt_of(renderer, request((*messages, said(text)), tools=tools))
    assert prompt == open_text + text
    assert ids[: len(open_ids)] == open_ids
    tokenizer = renderer._renderer.get_tokenizer()
    written = ids[len(open_ids) :]
    assert tokenizer.decode(written) == text
    assert not {*written} & {*tokenizer.all_special_ids}
    if "<" not in text and ">" not in text and "_" not in text:
        assert written == tokenizer.encode(text, add_special_tokens=False)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "before", [(), (Message(Role.SYSTEM, (TextPart("Be brief."),)),)], ids=["nobody", "a system"]
)
async def test_nobody_asks(
    renderers: dict[str, PromptRenderer], name: str, before: tuple[Message, ...]
) -> None:
    prompt, _, _ = await prompt_of(renderers[name], request((*before, said("So: "))))
    silent, _, _ = await prompt_of(renderers[name], request((*before, Message(Role.USER, ()), said("So: "))))
    assert prompt == silent
    assert prompt.endswith("So: ")
    assert prompt.count("Be brief.") == len(before)


@pytest.mark.parametrize("name", NAMES)
async def test_a_turn_of_several_messages(renderers: dict[str, PromptRenderer], name: str) -> None:
    prompt, _, _ = await prompt_of(renderers[name], request((QUESTION, said("One."), said("Two. "))))
    assert prompt.endswith("Two. ")
    whole, _, _ = await prompt_of(renderers[name], request((QUESTION, said("One."), said("Two. "), QUESTION)))
    assert ("One.\n\nTwo." in prompt) == ("One.\n\nTwo." in whole)
    assert name != "strict" or "One.\n\nTwo." in prompt


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("turn", "end"),
    [
        (said(CUT), '[{"name": "weather", "parameters": {"city": "Os'),
        (said("I look.", CUT), 'I look.\n[{"name": "weather", "parameters": {"city": "Os'),
        (
            said(ToolCallPart("c8", "weather", "{}"), CUT),
            '[{"name": "weather", "parameters": {}}, {"name": "weather", "parameters": {"city": "Os',
        ),
        (said(ToolCallPart("c9", "weather", "")), '[{"name": "weather", "parameters": '),
    ],
)
async def test_calls_that_break_off(
    renderers: dict[str, PromptRenderer], name: str, turn: Message, end: str
) -> None:
    messages = (QUESTION, turn)
    open_text, _, _ = await prompt_of(renderers[name], request(messages[:1], tools="offered"))
    prompt, _, _ = await prompt_of(renderers[name], request(messages, tools="offered"))
    assert prompt == open_text + end
    begun = begun_turn(messages)
    assert begun is not None
    assert begun.text == end
    assert begun.latest == end.replace('{"name": "weather", "parameters": {}}, ', "")


CLOSED = {
    "turns that begin in a way that nobody is told of": (
        "{% for m in messages %}<start_of_turn>{{ m.role }}\n{% for p in m.content %}{{ p.text }}{% endfor %}"
        "<end_of_turn>\n{% endfor %}"
    ),
    "words before what the model says": (
        "{% for m in messages %}<start_of_turn>{{ m.role }}{{ '<ch>final<msg>' if m.role == 'assistant' }}"
        "{% for p in m.content %}{{ p.text }}{% endfor %}<end_of_turn>\n{% endfor %}"
        "{{ '<start_of_turn>assistant' if add_generation_prompt }}"
    ),
}


@pytest.mark.parametrize("name", CLOSED)
async def test_a_template_that_cannot_go_on(load_renderer: LoadRenderer, tmp_path: Path, name: str) -> None:
    write_templated_checkpoint(Path(demo.PATH), tmp_path / "closed", CLOSED[name])
    renderer = load_renderer(tmp_path / "closed")
    await renderer.measure(GenerationRequest("id", (QUESTION,)))
    with pytest.raises(InvalidRequestError, match="has no way to go on") as raised:
        await renderer.measure(GenerationRequest("id", (QUESTION, said("Well"))))
    assert raised.value.field == "messages[1].role"


async def test_reasoning_that_nobody_reads(renderers: dict[str, PromptRenderer]) -> None:
    with pytest.raises(InvalidRequestError, match="--reasoning-parser") as raised:
        await renderers["demo"].measure(
            GenerationRequest("id", (QUESTION, said(ReasoningPart("hm"), "Well")))
        )
    assert raised.value.field == "messages[1].parts"


# What was said, and what the prompt ends with behind "<start_of_turn>model\n": thinking, and not.
THOUGHTS: list[tuple[Message, str, str]] = [
    (said(), "<think>", "<think></think>"),
    (said(ReasoningPart("hm ")), "<think>hm ", "<think></think><think>hm "),
    (said(ReasoningPart("hm"), " So"), "<think>hm</think> So", "<think></think><think>hm</think> So"),
    (said("So "), "<think></think>So ", "<think></think>So "),
]


@pytest.mark.parametrize(("turn", "thinking", "not_thinking"), THOUGHTS)
async def test_reasoning(
    load_renderer: LoadRenderer, tmp_path: Path, turn: Message, thinking: str, not_thinking: str
) -> None:
    write_thinking_checkpoint(Path(demo.PATH), tmp_path / "thinker")
    renderer = load_renderer(tmp_path / "thinker", "--reasoning-parser", "deepseek_r1")
    for enabled, end in ((True, thinking), (False, not_thinking)):
        asked = GenerationRequest("id", (QUESTION, turn), chat_template_args={"enable_thinking": enabled})
        text, ids, _ = await prompt_of(renderer, asked)
        assert text.partition("<start_of_turn>model\n")[2] == end
        tokenizer = renderer._renderer.get_tokenizer()
        marks = [tokenizer.convert_tokens_to_ids(mark) for mark in ("<think>", "</think>")]
        assert sum(token in marks for token in ids) == end.count("think>")


@pytest.mark.parametrize(
    ("reasoning", "text", "opening", "written"),
    [
        ("", "", "model\n<t>", ""),
        ("r", "", "model\n<t>", "r"),
        ("r", "x", "model\n<t>", "r</t>x"),
        ("", "x", "model\n<t>", "</t>x"),
        ("", "x", "model\n<t></t>", "x"),
        ("r", "", "model\n", "<t>r"),
        ("r", "x", "model\n", "<t>r</t>x"),
        ("", "x", "model\n", "<t></t>x"),
    ],
)
def test_marks(reasoning: str, text: str, opening: str, written: str) -> None:
    assert ReasoningMarks("<t>", "</t>").around(reasoning, text, opening) == written


@pytest.mark.parametrize("parser", ["deepseek_r1", "nobody"])
def test_a_parser_that_does_not_fit(renderers: dict[str, PromptRenderer], parser: str) -> None:
    with pytest.raises(StartupError, match="--reasoning-parser: ") as raised:
        reasoning_marks(parser, renderers["demo"]._renderer.get_tokenizer())
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("start", "end", "written", "thought"),
    [
        ([8], [9], [], 0),
        ([8], [9], [1, 2, 3], 3),
        ([8], [9], [8, 1, 2], 2),
        ([8], [9], [1, 2, 9, 3, 9, 4], 2),
        ([8], [9], [9, 1], 0),
        ([8, 8], [9, 7], [8, 8, 1, 9, 2, 9, 7, 3], 3),
    ],
)
def test_thoughts_are_counted(start: list[int], end: list[int], written: list[int], thought: int) -> None:
    for size in (1, 2, 7):
        counter = ThoughtCounter(start, end)
        for at in range(0, len(written), size):
            counter.take(written[at : at + size])
        assert counter.tokens == thought
