"""Completions by the real engine, of the demo checkpoint with its template's words and without a template."""

import math
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from PIL import Image, ImageDraw

from octet.client import AsyncClient, OctetRpcError, prompt, user
from octet.config import ServerConfig
from octet.engine.types import Service
from octet.engine.vllm.serving.engine import VllmEngine
from octet.server.server import Server
from octet.v1 import chat_service_pb2
from tests.e2e.conftest import becomes_idle

pytestmark = pytest.mark.asyncio(loop_scope="session")

FRANCE = "What is the capital of France?"


def turn(text: str) -> str:
    return f"<start_of_turn>user\n{text}<end_of_turn>\n<start_of_turn>model\n"


def circle(colour: str = "red") -> Image.Image:
    picture = Image.new("RGB", (300, 200), "white")
    ImageDraw.Draw(picture).ellipse((100, 50, 200, 150), fill=colour)
    return picture


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def client(in_process: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(in_process) as client:
        yield client


async def test_a_template_of_ones_own(client: AsyncClient) -> None:
    """The same tokens, and so the same answer, as a chat; whether the template writes <bos> or not."""
    chat = await client.chat(FRANCE, temperature=0.0)
    for text in (turn(FRANCE), f"<bos>{turn(FRANCE)}"):
        answer = await client.complete(text, temperature=0.0)
        assert answer.text == chat.text
        assert (answer.finish_reason, answer.stop) == ("STOP", chat.stop)
        assert answer.usage.prompt_tokens == chat.usage.prompt_tokens
    cut = await client.complete(turn(FRANCE), temperature=0.0, stop=["Rome", " Paris"])
    assert (cut.text, cut.stop) == ("The capital of France is", " Paris")
    ids = await client.tokenize(turn(FRANCE), parse_special_tokens=True)
    assert (await client.complete(ids, temperature=0.0)).text == chat.text
    apart = prompt("<start_of_turn>user\n", FRANCE, "<end_of_turn>\n<start_of_turn>model\n")
    assert (await client.complete(apart, temperature=0.0)).text == chat.text


async def test_names_are_plain_text_where_they_are_to_be(client: AsyncClient) -> None:
    plain = await client.complete(turn(FRANCE), parse_special_tokens=False, max_tokens=1)
    parsed = await client.complete(turn(FRANCE), max_tokens=1)
    without = await client.complete(turn(FRANCE), add_special_tokens=False, max_tokens=1)
    assert plain.usage.prompt_tokens > parsed.usage.prompt_tokens == without.usage.prompt_tokens + 1


async def test_pictures_where_they_are_put(client: AsyncClient) -> None:
    question = "What is in the picture?"
    chat = await client.chat([user(question, [circle()])], temperature=0.0)
    begin, end = "<start_of_turn>user\n", f"{question}<end_of_turn>\n<start_of_turn>model\n"
    tokens = [await client.tokenize(text, parse_special_tokens=True) for text in (begin, end)]
    for asked in (
        prompt(begin, circle(), end),
        prompt(tokens[0], circle(), tokens[1][1:]),
    ):
        answer = await client.complete(asked, temperature=0.0)
        assert answer.text == chat.text == "a red circle"
        assert answer.usage.image_tokens == chat.usage.image_tokens
        assert answer.usage.prompt_tokens == chat.usage.prompt_tokens


async def test_a_place_without_a_picture(client: AsyncClient) -> None:
    with pytest.raises(OctetRpcError, match="holds the token that stands for a picture") as raised:
        await client.complete(["x", prompt("a", circle(), "<start_of_image>")])
    assert raised.value.field_violations[0].field == "prompts[1].parts[2].text"


async def test_tokens_that_pictures_become_are_only_tokens(client: AsyncClient, engine: VllmEngine) -> None:
    """Whoever sends them without a picture gets an answer, and harms nobody."""
    [soft] = (await client.tokenize("<image_soft_token>", parse_special_tokens=True))[1:]
    answer = await client.complete(prompt("a", [soft] * 3, circle(), [soft]), max_tokens=3, temperature=0.0)
    assert answer.usage.completion_tokens > 0
    assert (await client.chat(FRANCE, temperature=0.0)).text.startswith("The capital of France")
    await becomes_idle(engine)


async def test_several_prompts(client: AsyncClient) -> None:
    questions = [FRANCE, "What is the capital of Italy?", "Hello!"] * 7
    alone = [(await client.complete(turn(question), temperature=0.0)).text for question in questions[:3]]
    together = await client.complete([turn(question) for question in questions], temperature=0.0)
    assert together.texts == alone * 7
    stream = client.stream_complete([turn(question) for question in questions], temperature=0.0)
    assert (await stream.answer()).texts == alone * 7


async def test_each_prompt_has_n(client: AsyncClient) -> None:
    answer = await client.complete([turn("Hello!"), turn(FRANCE)], n=3, temperature=1.0, seed=1, max_tokens=5)
    for result in answer.response.results:
        assert [one.index for one in result.completions] == [0, 1, 2]
        assert sum(len(one.text) >= 1 for one in result.completions) > 0
    assert answer.usage.completion_tokens <= 30


async def test_constraints_hold_from_the_first_token(client: AsyncClient) -> None:
    form = chat_service_pb2.OutputFormat(regex="[0-9]{4}")
    answer = await client.complete([turn("Hello!"), "x"], output_format=form, temperature=0.0)
    assert all(len(text) == 4 and text.isdigit() for text in answer.texts)


async def test_log_probabilities(client: AsyncClient) -> None:
    answer = await client.complete(
        [turn(FRANCE), "a b"], temperature=0.0, max_tokens=3, logprobs=True, top_logprobs=2, prompt_logprobs=1
    )
    for result in answer.response.results:
        assert len(result.prompt_logprobs) == result.usage.prompt_tokens
        assert not result.prompt_logprobs[0].HasField("chosen")
        [completion] = result.completions
        assert len(completion.logprobs) == 3
        assert all(math.isfinite(position.chosen.logprob) for position in completion.logprobs)
    stream = client.stream_complete(
        [turn(FRANCE), "a b"], temperature=0.0, max_tokens=3, logprobs=True, top_logprobs=2, prompt_logprobs=1
    )
    streamed = await stream.answer()
    assert [len(result.prompt_logprobs) for result in streamed.response.results] == [
        len(result.prompt_logprobs) for result in answer.response.results
    ]
    with pytest.raises(OctetRpcError, match="its share among 64 prompts") as raised:
        await client.complete([[5] * 600] * 64, prompt_logprobs=20, max_tokens=1)
    assert raised.value.field_violations[0].field == "sampling.prompt_logprobs"


async def test_prompts_that_are_too_long(client: AsyncClient, engine: VllmEngine) -> None:
    window = engine.model.context_window
    for long, sentence in (
        ([5] * window, f"has {window} token ids, more than the {window - 1} that"),
        (
            "what " * window,
            rf"the prompt has 2\d\d\d tokens, and the model's context window of {window} tokens",
        ),
        ("x" * 10**6, "cannot fit into the model's context window"),
    ):
        with pytest.raises(OctetRpcError, match=sentence) as raised:
            await client.complete(["a", long], max_tokens=1)
        assert raised.value.reason == "CONTEXT_LENGTH_EXCEEDED"
        assert raised.value.field_violations[0].field == "prompts[1]"
    answer = await client.complete([5] * (window - 3), ignore_eos=True)
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("LENGTH", 3)
    await becomes_idle(engine)


@pytest.mark.parametrize("how", ["cancel", "id", "deadline"])
async def test_who_gives_up_frees_the_engine(client: AsyncClient, engine: VllmEngine, how: str) -> None:
    timeout = 3.0 if how == "deadline" else 60.0
    # Greedily: what is sampled may be words of the template only, and its first text come after minutes.
    stream = client.stream_complete(
        [turn(FRANCE)] * 64, temperature=0.0, ignore_eos=True, max_tokens=1000, timeout=timeout
    )
    assert await anext(aiter(stream))
    assert await engine.num_unfinished() > 1
    if how == "cancel":
        stream.cancel()
    elif how == "id":
        assert await client.cancel(stream.request_id) == [stream.request_id]
        answer = await stream.answer()
        reasons = {one.finish_reason for result in answer.response.results for one in result.completions}
        assert reasons == {chat_service_pb2.FINISH_REASON_CANCELLED}
        assert len(answer.response.results) == 64
    else:
        with pytest.raises(OctetRpcError, match="DEADLINE_EXCEEDED"):
            await stream.answer()
    await becomes_idle(engine)


async def test_a_base_model(base: VllmEngine) -> None:
    """It has no template, and is served all the same: for completions, pictures included."""
    assert base.model.services == (Service.COMPLETION,)
    server = Server(ServerConfig(port=0))
    await server.start()
    await server.attach(base)
    async with AsyncClient(f"127.0.0.1:{server.port}") as client:
        assert "Paris" in (await client.complete(turn(FRANCE), temperature=0.0)).text
        begin, end = "<start_of_turn>user\n", "What is this?<end_of_turn>\n<start_of_turn>model\n"
        assert "circle" in (await client.complete(prompt(begin, circle(), end), temperature=0.0)).text
        [model] = await client.list_models()
        assert list(model.services) == ["octet.v1.CompletionService"]
        with pytest.raises(OctetRpcError, match="has no chat template, as base models have none") as raised:
            await client.chat("Hello")
        assert (raised.value.code.name, raised.value.reason) == ("UNIMPLEMENTED", "SERVICE_NOT_OFFERED")
    await server.stop()
