"""Answers that go on with what was said, over a forgiving template and a strict one."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from PIL import Image

from octet.client import Answer, AsyncClient, OctetRpcError, assistant, joined, system, tool_result, user
from octet.client.requests import Turn
from octet.v1 import chat_service_pb2, tool_pb2
from octet.v1 import content_pb2 as pb

pytestmark = pytest.mark.asyncio(loop_scope="session")

WEATHER = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
PICTURE = Image.new("RGB", (64, 64), "red")
GREEDY: dict[str, Any] = {"temperature": 0.0}

QUESTIONS: dict[str, list[Turn]] = {
    "a question": [user("What is the capital of France?")],
    "a story": [user("Tell me a story.")],
    "a picture": [user("What is in the picture?", images=[PICTURE])],
    "a system": [system("Be brief."), user("What is the capital of Japan?")],
    "several turns": [user("Hi."), assistant("Hello."), user("My name is Alice."), user("And yours?")],
    "a call and its result": [
        user("What is the weather in Oslo?"),
        pb.Message(
            role=pb.ROLE_ASSISTANT,
            parts=[pb.Part(tool_call=tool_pb2.ToolCall(id="c", name="get_weather", arguments_json="{}"))],
        ),
        tool_result("c", "rain, 7 degrees"),
    ],
}


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(in_process: str) -> AsyncIterator[AsyncClient]:
    """For what no template decides."""
    async with AsyncClient(in_process) as client:
        yield client


def tokens(answer: Answer) -> list[int]:
    return [position.chosen.token_id for position in answer.logprobs]


async def brackets(client: AsyncClient) -> set[int]:
    """The tokens that a list of calls may begin with."""
    texts = ("[", " [", '[{"', "[{", "{", '{"', " {", "```")
    return {(await client.tokenize(text, add_special_tokens=False))[0] for text in texts}


async def streamed(client: AsyncClient, turns: list[Turn], **options: Any) -> Answer:
    return await client.stream(turns, **options).answer()


@pytest.mark.parametrize(
    ("name", "tools"),
    [
        *((name, False) for name in QUESTIONS if name != "a system"),
        *((name, True) for name in ("a question", "a system", "a call and its result")),
    ],
)
async def test_an_answer_that_was_cut_off_goes_on_as_it_would_have(
    conversing: AsyncClient, name: str, tools: bool
) -> None:
    options: dict[str, Any] = {**GREEDY, "logprobs": True}
    if tools:
        # It is in the prompt, and what the model writes is looked through.
        options |= {"tools": [WEATHER], "logit_bias": dict.fromkeys(await brackets(conversing), -100)}
    whole = await conversing.chat(QUESTIONS[name], max_tokens=16, **options)
    assert not whole.tool_calls
    assert whole.usage.completion_tokens > 3
    for taken in {1, whole.usage.completion_tokens // 2}:
        first = await conversing.chat(QUESTIONS[name], max_tokens=taken, **options)
        turns = [*QUESTIONS[name], first]
        rest = await conversing.chat(turns, max_tokens=16 - taken, **options)
        assert first.text + rest.text == whole.text
        assert joined(first, rest).parts == whole.message.parts
        counted = await conversing.count_tokens(turns, **options)
        assert counted.prompt_tokens == rest.usage.prompt_tokens
        assert counted.image_tokens == whole.usage.image_tokens
        assert (rest.finish_reason, rest.stop) == (whole.finish_reason, whole.stop)
        written = await conversing.tokenize(first.text, add_special_tokens=False)
        if written == tokens(first):
            assert rest.usage.prompt_tokens == whole.usage.prompt_tokens + taken
            assert tokens(first) + tokens(rest) == tokens(whole)
    assert (await streamed(conversing, turns, max_tokens=16 - taken, **options)).text == rest.text


async def test_nothing_said_is_no_beginning(conversing: AsyncClient) -> None:
    asked: list[Turn] = [user("What is the capital of France?")]
    plain = await conversing.chat(asked, **GREEDY)
    for nothing in (pb.Message(role=pb.ROLE_ASSISTANT), assistant("")):
        answer = await conversing.chat([*asked, nothing], **GREEDY)
        assert (answer.text, answer.usage.prompt_tokens) == (plain.text, plain.usage.prompt_tokens)


@pytest.mark.parametrize(
    "said", ["The capital of ", "The capital of", "The\n\n", "  ", "Th", "<end_of_turn>", "é"]
)
async def test_the_prompt_holds_what_was_said_as_it_is(conversing: AsyncClient, said: str) -> None:
    asked: list[Turn] = [user("What is the capital of France?")]
    alone = (await conversing.count_tokens(asked)).prompt_tokens
    counted = (await conversing.count_tokens([*asked, assistant(said)])).prompt_tokens
    assert counted - alone == len(await conversing.tokenize(said, add_special_tokens=False))


async def test_an_answer_goes_on_in_the_middle_of_a_sentence(conversing: AsyncClient) -> None:
    answer = await conversing.chat(
        [user("What is the capital of France?"), assistant("The capital of France is")], **GREEDY
    )
    assert answer.text == " Paris."
    assert answer.finish_reason == "STOP"


async def test_every_candidate_goes_on(client: AsyncClient) -> None:
    turns = [user("Say something."), assistant("The ")]
    answer = await client.chat(turns, n=3, temperature=1.0, seed=1, max_tokens=6)
    assert len(answer.response.candidates) == 3
    assert not any(
        part.text.startswith("The ") for one in answer.response.candidates for part in one.message.parts
    )


FORMS = {
    "choice": chat_service_pb2.OutputFormat(choice=chat_service_pb2.ChoiceFormat(values=["é€ größer", "no"])),
    "regex": chat_service_pb2.OutputFormat(regex="a[bc]{6}é[0-9]{4}"),
    "json": chat_service_pb2.OutputFormat(
        json_schema_text=json.dumps(
            {
                "type": "object",
                "properties": {"city": {"enum": ["Oslo"]}, "n": {"enum": [12345]}},
                "required": ["city", "n"],
                "additionalProperties": False,
            }
        )
    ),
    "grammar": chat_service_pb2.OutputFormat(grammar='root ::= "x" [yz]{5} "é" ("a" | "€") "!"'),
}


@pytest.mark.parametrize("name", FORMS)
async def test_a_form_is_that_of_the_whole(client: AsyncClient, name: str) -> None:
    """Cut within characters as well: of such a one nothing was said."""
    asked: list[Turn] = [user("Go.")]
    options: dict[str, Any] = {**GREEDY, "output_format": FORMS[name]}
    whole = await client.chat(asked, max_tokens=60, **options)
    for taken in range(1, min(whole.usage.completion_tokens, 12), 3):
        first = await client.chat(asked, max_tokens=taken, **options)
        assert whole.text.startswith(first.text)
        rest = await client.chat([*asked, first], max_tokens=60, **options)
        assert first.text + rest.text == whole.text
        assert rest.finish_reason == whole.finish_reason


@pytest.mark.parametrize(
    ("said", "form"),
    [("x", FORMS["choice"]), ('{"city": ', FORMS["json"]), ("é€ größer!", FORMS["choice"])],
)
async def test_what_a_form_does_not_permit(
    client: AsyncClient, said: str, form: chat_service_pb2.OutputFormat
) -> None:
    for ask in (client.chat, client.count_tokens):
        with pytest.raises(OctetRpcError, match="begins nothing that output_format") as raised:
            await ask([user("Go."), assistant(said)], output_format=form)  # type: ignore[operator]
        assert raised.value.code.name == "INVALID_ARGUMENT"
        assert raised.value.field_violations[0].field.endswith("messages[1]")


async def test_items_that_repeat_what_was_said(client: AsyncClient) -> None:
    schema = {"type": "array", "items": {"enum": [1, 2]}, "uniqueItems": True, "minItems": 2, "maxItems": 2}
    form = chat_service_pb2.OutputFormat(json_schema_text=json.dumps(schema))
    reasons = set()
    for bias in ("1", "2"):
        [token] = await client.tokenize(bias, add_special_tokens=False)
        answer = await client.chat(
            [user("Go."), assistant("[1,")], output_format=form, logit_bias={token: 100}, **GREEDY
        )
        assert answer.text == f"{bias}]"
        reasons.add((bias, answer.finish_reason))
    assert reasons == {("1", "SCHEMA_VIOLATED"), ("2", "STOP")}


@pytest.mark.parametrize("include", [False, True])
async def test_stop_strings_that_begin_in_what_was_said(client: AsyncClient, include: bool) -> None:
    turns = [user("What is the capital of France?"), assistant("The capital of France is")]
    options: dict[str, Any] = {**GREEDY, "include_stop_string": include}
    across = await client.chat(turns, stop=["is Par", "never"], **options)
    assert (across.text, across.stop) == (" Par" if include else "", "is Par")
    behind = await client.chat(turns, stop=["is.", "capital"], **options)
    assert (behind.text, behind.stop) == (" Paris." if include else " Par", "is.")


async def test_calls_that_were_cut_off_go_on(conversing: AsyncClient) -> None:
    """Wherever the answer was cut, what comes of both is the call, once and whole."""
    asked: list[Turn] = [user("What is the weather in Oslo?")]
    options: dict[str, Any] = {**GREEDY, "tools": [WEATHER], "parallel_calls": False}
    whole = await conversing.chat(asked, **options)
    [call] = whole.tool_calls
    within = 0
    for taken in range(1, whole.usage.completion_tokens - 1, 3):
        first = await conversing.chat(asked, max_tokens=taken, **options)
        assert first.finish_reason == "LENGTH"
        if first.tool_calls and first.tool_calls[0].arguments_json == call.arguments_json:
            # That is whole, and to be made.
            with pytest.raises(OctetRpcError, match="its result comes next"):
                await conversing.chat([*asked, first], **options)
            continue
        within += bool(first.tool_calls)
        for ask in (conversing.chat, lambda *turns, **given: streamed(conversing, *turns, **given)):
            rest = await ask([*asked, first], **options)  # type: ignore[operator]
            assert rest.finish_reason == "TOOL_CALLS"
            assert rest.text == ""
            [again] = rest.tool_calls
            assert (again.name, again.arguments_json) == (call.name, call.arguments_json)
            assert not first.tool_calls or again.id == first.tool_calls[0].id
            if first.tool_calls:
                assert [part.WhichOneof("kind") for part in joined(first, rest).parts] == ["tool_call"]
    assert within > 1


@pytest.mark.parametrize("choice", ["required", "get_weather"])
async def test_demanded_calls_go_on(client: AsyncClient, choice: str) -> None:
    turns = [user("Hello!"), assistant('[{"name": "get_weather", "parameters": {"city": "Ro')]
    options: dict[str, Any] = {**GREEDY, "tools": [WEATHER], "max_tokens": 60, "tool_choice": choice}
    answer = await client.chat(turns, stop=['"}'], include_stop_string=True, **options)
    assert answer.text or answer.tool_calls
    for call in answer.tool_calls:
        assert call.arguments["city"].startswith("Ro")
    with pytest.raises(OctetRpcError, match="begins nothing that tools permits"):
        await client.chat([user("Hello!"), assistant("I ")], **options)


@pytest.mark.parametrize(
    "options",
    [
        {"tools": [WEATHER], "output_format": FORMS["json"]},
        {"tools": [WEATHER], "output_format": FORMS["regex"], "parallel_calls": False},
        {"tools": [{**WEATHER, "strict": True}], "parallel_calls": False},
    ],
    ids=["beside JSON", "one beside a regex", "strict"],
)
async def test_held_calls_go_on(client: AsyncClient, options: dict[str, Any]) -> None:
    """Beside an output format, or of strict tools: cut anywhere, the call comes once and whole."""
    asked: list[Turn] = [user("What is the weather in Oslo?")]
    given: dict[str, Any] = {**GREEDY, **options}
    whole = await client.chat(asked, max_tokens=100, **given)
    call = whole.tool_calls[0]
    within = 0
    for taken in range(1, whole.usage.completion_tokens, 4):
        first = await client.chat(asked, max_tokens=taken, **given)
        if first.tool_calls and first.tool_calls[0].arguments_json == call.arguments_json:
            break
        within += bool(first.tool_calls)
        rest = await client.chat([*asked, first], max_tokens=100, **given)
        assert rest.text == ""
        again = rest.tool_calls[0]
        assert (again.name, again.arguments_json) == (call.name, call.arguments_json)
        assert not first.tool_calls or again.id == first.tool_calls[0].id
    assert within


@pytest.mark.parametrize("strict", [False, True])
async def test_calls_that_held_ones_do_not_permit(client: AsyncClient, strict: bool) -> None:
    options: dict[str, Any] = {"tools": [{**WEATHER, "strict": strict}]}
    if not strict:
        options["output_format"] = FORMS["json"]
    call = tool_pb2.ToolCall(id="c", name="get_weather", arguments_json='{"town": "Os')
    turn = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(tool_call=call)])
    for ask in (client.chat, client.count_tokens):
        with pytest.raises(OctetRpcError, match=r"begins nothing that .*tools permits") as raised:
            await ask([user("Hi."), turn], **options)  # type: ignore[operator]
        assert raised.value.field_violations[0].field.endswith("messages[1]")


async def test_no_call_follows_text_beside_a_form(client: AsyncClient) -> None:
    call = tool_pb2.ToolCall(id="c", name="get_weather", arguments_json='{"city": "Os')
    turn = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(text="a"), pb.Part(tool_call=call)])
    form = chat_service_pb2.OutputFormat(regex="(.|\n)*")
    with pytest.raises(OctetRpcError, match="follows text, and beside an output format") as raised:
        await client.chat([user("Hi."), turn], tools=[WEATHER], output_format=form)
    assert raised.value.field_violations[0].field == "messages[1].parts[1].tool_call"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "is none of the functions"),
        ({"tools": [WEATHER, {**WEATHER, "name": "g"}], "allowed_tools": ["g"]}, "is none of the functions"),
        ({"tools": [WEATHER], "tool_choice": "none"}, "is none of the functions"),
        ({"tools": [{**WEATHER, "name": "other"}]}, "is none of the functions"),
    ],
)
async def test_calls_that_cannot_go_on(client: AsyncClient, options: dict[str, Any], problem: str) -> None:
    call = tool_pb2.ToolCall(id="c", name="get_weather", arguments_json='{"city": "Os')
    turn = pb.Message(role=pb.ROLE_ASSISTANT, parts=[pb.Part(text="So"), pb.Part(tool_call=call)])
    with pytest.raises(OctetRpcError, match=problem) as raised:
        await client.chat([user("Hi."), turn], **options)
    assert raised.value.field_violations[0].field == "messages[1].parts[1].tool_call.name"
