"""Pictures in results of tools: where they are in prompts, with every kind of template."""

from typing import Any

import pytest
from PIL import Image

from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    Tool,
    ToolCallPart,
    ToolResultPart,
)
from octet.engine.vllm.serving.render import PromptRenderer

TOOL = Tool("shoot", "A screenshot.", {"type": "object"})
RED, GREEN, BLUE = (ImagePart(Image.new("RGB", (8, 8), colour)) for colour in ("red", "green", "blue"))


def user(*parts: Part) -> Message:
    return Message(Role.USER, parts)


def result(call: str, words: str, *pictures: ImagePart) -> tuple[Part, ...]:
    return (ToolResultPart(call, TOOL.name, words), *pictures)


ASKED = user(TextPart("first word"), RED)
CALLED = Message(Role.ASSISTANT, (ToolCallPart("c1", "shoot", "{}"), ToolCallPart("c2", "shoot", '{"n": 2}')))
LAST = user(TextPart("last word"), RED)


async def measured(renderer: PromptRenderer, *messages: Message, tools: tuple[Tool, ...]) -> Any:
    return (await renderer.measure(GenerationRequest("id", messages, tools=tools))).engine_input


@pytest.mark.parametrize("tools", [(), (TOOL,)])
@pytest.mark.parametrize("name", ["demo", "strict", "thinking", "showing"])
async def test_each_is_where_its_result_is(
    renderers: dict[str, PromptRenderer], name: str, tools: tuple[Tool, ...]
) -> None:
    renderer = renderers[name]
    results = Message(Role.TOOL, (*result("c2", "one word", GREEN, BLUE), *result("c1", "other word", RED)))
    prompt = await measured(renderer, ASKED, CALLED, results, LAST, tools=tools)
    alike = await measured(renderer, user(RED, GREEN, BLUE, RED, RED), tools=tools)
    assert prompt["mm_hashes"] == alike["mm_hashes"]
    pieces = prompt["prompt"].split("<start_of_image>")
    words = ["first word", "one word", "other word", "last word"]
    before = [word for piece in pieces for word in (*(w for w in words if w in piece), "|")]
    said = ["first word", "|", "one word", "|", "|", "other word", "|", "last word", "|"]
    assert before[:-1] == said


@pytest.mark.parametrize("words", ["\nnext", "\n", "\n\nnext", "\n\n\nnext", " \nnext", "next", "\tnext\n"])
@pytest.mark.parametrize("before", ["a", "a\n", "a\n\n", "\n"])
@pytest.mark.parametrize("pictures", [(RED,), (RED, GREEN)])
async def test_line_breaks_beside_pictures_hide_none(
    renderers: dict[str, PromptRenderer], words: str, before: str, pictures: tuple[ImagePart, ...]
) -> None:
    """In a template that does not trim texts."""
    asked = user(TextPart(before), *pictures, TextPart(words))
    prompt = await measured(renderers["thinking"], asked, tools=())
    tokens = prompt["prompt_token_ids"]
    renderer = renderers["thinking"]
    begin = renderer.picture_token
    places = prompt["mm_placeholders"]["image"]
    assert len(places) == len(pictures)
    for place in places:
        assert tokens[place.offset : place.offset + place.length].count(begin) == 1


async def test_a_template_that_shows_them_says_its_own_calls(renderers: dict[str, PromptRenderer]) -> None:
    results = Message(Role.TOOL, (*result("c1", "one", GREEN), *result("c2", "", BLUE)))
    prompt = await measured(renderers["showing"], ASKED, CALLED, results, LAST, tools=(TOOL,))
    assert "[tool]one<start_of_image>[tool]<start_of_image>" in prompt["prompt"]
    strict = await measured(renderers["strict"], ASKED, CALLED, results, LAST, tools=(TOOL,))
    shown = "Result of shoot: one<start_of_image>Result of shoot:<start_of_image>last word"
    assert shown in strict["prompt"].replace("\n", "")
