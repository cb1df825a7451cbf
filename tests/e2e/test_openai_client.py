"""OpenAI's own client, through the real SMG gateway, to `octet serve --smg`: what docs/openai.md says."""

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest

from tests.e2e.conftest import MODEL_NAME
from tests.e2e.gateway import gateway
from tests.e2e.recipes import Recipe, recipes_of

RECIPES = recipes_of("openai.md")

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
PARIS = "The capital of France is Paris."
OSLO = [{"role": "user", "content": "What is the weather in Oslo?"}]
FUNCTION = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
}
TOOLS = [{"type": "function", "function": FUNCTION}]


class City(pydantic.BaseModel):
    """A form."""

    city: str


@pytest.fixture(scope="module")
def url(target: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a gateway over `octet serve --smg`, started as the page says."""
    log = tmp_path_factory.mktemp("gateway") / "log"
    with gateway([target], log, "--tool-call-parser", "json") as url:
        yield f"{url}/v1"


@pytest.fixture(scope="module")
def client(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def ask(client: openai.OpenAI) -> Callable[..., Any]:
    """Asks, and gives the choices."""

    def ask(messages: Any = FRANCE, **options: Any) -> Any:
        options.setdefault("model", MODEL_NAME)
        if "max_completion_tokens" not in options:
            options.setdefault("max_tokens", 40)
        return client.chat.completions.create(messages=messages, **options).choices

    return ask


@pytest.mark.parametrize("recipe", RECIPES, ids=[recipe.title for recipe in RECIPES])
def test_recipe(recipe: Recipe, url: str) -> None:
    recipe.follow(OPENAI_BASE_URL=url)


def test_options_pass(ask: Callable[..., Any]) -> None:
    [stopped] = ask(stop=[" is"])
    assert (stopped.message.content, stopped.finish_reason) == ("The capital of France", "stop")
    [cut] = ask(max_completion_tokens=2)
    assert (cut.message.content, cut.finish_reason) == ("The capital", "length")
    assert len(ask(n=2, seed=1, temperature=1)) == 2
    [likely] = ask(logprobs=True, top_logprobs=2)
    assert [token.token for token in likely.logprobs.content][:2] == ["The", " capital"]
    assert len(likely.logprobs.content[0].top_logprobs) == 2
    [three] = ask(extra_body={"regex": "[0-9]{3}"})
    assert three.message.content.isdigit()


@pytest.mark.parametrize("role", ["system", "developer"])
def test_instructions_pass(ask: Callable[..., Any], role: str) -> None:
    name = {"role": role, "content": "The user's name is Alice."}
    [answer] = ask([name, {"role": "user", "content": "What is my name?"}])
    assert answer.message.content == "Your name is Alice."


def test_forms_pass(client: openai.OpenAI) -> None:
    parsed = client.chat.completions.parse(
        model=MODEL_NAME, messages=FRANCE, response_format=City, max_tokens=60
    )
    assert isinstance(parsed.choices[0].message.parsed, City)


def test_calls_are_streamed(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(model=MODEL_NAME, messages=OSLO, tools=TOOLS, stream=True)
    pieces = [call for chunk in stream for choice in chunk.choices for call in choice.delta.tool_calls or []]
    assert [piece.function.name for piece in pieces if piece.function.name] == ["get_weather"]
    assert "".join(piece.function.arguments or "" for piece in pieces) == '{"city":"Oslo"}'


def test_responses_and_raw_prompts_pass(client: openai.OpenAI) -> None:
    question = FRANCE[0]["content"]
    assert client.responses.create(model=MODEL_NAME, input=question).output_text == PARIS
    events = client.responses.create(model=MODEL_NAME, input=question, stream=True)
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARIS
    tool = {"type": "function", **FUNCTION}
    [call] = client.responses.create(model=MODEL_NAME, input=OSLO[0]["content"], tools=[tool]).output
    assert (call.type, call.arguments) == ("function_call", '{"city":"Oslo"}')
    [raw] = client.completions.create(model=MODEL_NAME, prompt="Hello", max_tokens=5).choices
    assert raw.text
    assert [model.id for model in client.models.list()] == [MODEL_NAME]


def test_a_named_function_comes_as_text(ask: Callable[..., Any]) -> None:
    hello = [{"role": "user", "content": "Hello!"}]
    named = {"type": "function", "function": {"name": "get_weather"}}
    [answer] = ask(hello, tools=TOOLS, tool_choice=named)
    assert answer.message.tool_calls is None
    assert answer.message.content.startswith('{"city":')
    [answer] = ask(hello, tools=TOOLS, tool_choice="required", max_tokens=100)
    assert [call.function.name for call in answer.message.tool_calls] == ["get_weather"]


def test_what_does_not_pass_is_refused(client: openai.OpenAI, ask: Callable[..., Any]) -> None:
    with pytest.raises(openai.InternalServerError) as embedding:
        client.embeddings.create(model=MODEL_NAME, input="Hello!")
    assert embedding.value.status_code == 501
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="Hello!")
    with pytest.raises(openai.NotFoundError):
        ask(model="another")
    picture = {"type": "image_url", "image_url": {"url": "https://127.0.0.1/picture.png"}}
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}}
    for content in (picture, sound):
        with pytest.raises(openai.BadRequestError):
            ask([{"role": "user", "content": [content]}])
    [answer] = ask(max_tokens=100_000)
    assert answer.message.content == PARIS
