"""What requests take, before anything of them is checked."""

from dataclasses import replace

import pytest

from octet.engine.types import ModelInfo
from octet.rpc.admission.cost import Cost, estimate, estimate_input, estimate_prompt
from octet.v1 import (
    chat_service_pb2,
    completion_service_pb2,
    content_pb2,
    embedding_service_pb2,
    prompt_pb2,
    tool_pb2,
)

MODEL = ModelInfo(
    *(("m",), "m", True, 8192, 2048, None, (), 4, 260, 1000),
    pans_and_scans=True,
    takes_priorities=True,
    tokens_per_cropped_image=1320,
)


def request(text: str = "", images: int = 0) -> chat_service_pb2.ChatRequest:
    parts = [content_pb2.Part(text=text)] * bool(text)
    parts += [content_pb2.Part(image=content_pb2.Image(data=b"x" * 100_000))] * images
    return chat_service_pb2.ChatRequest(messages=[content_pb2.Message(parts=parts)])


def test_text_counts_by_its_bytes_and_pictures_by_the_models_tokens() -> None:
    assert estimate(request(), MODEL) == Cost(sequences=1, tokens=0, images=0)
    assert estimate(request("word" * 1000), MODEL).tokens == pytest.approx(1000, rel=0.01)
    assert estimate(request("漢字" * 500), MODEL).tokens == pytest.approx(750, rel=0.01)
    assert estimate(request(images=3), MODEL) == Cost(sequences=1, tokens=780, images=3)


def test_pictures_of_tool_results_count_as_all_others_do() -> None:
    shown = request(images=2)
    result = tool_pb2.ToolResult(call_id="c1", text="word" * 1000)
    shown.messages[0].parts.add(tool_result=result)
    cost = estimate(shown, MODEL)
    assert cost.images == 2
    assert cost.text_tokens == pytest.approx(1000, rel=0.01)
    assert cost.tokens == cost.text_tokens + 520


@pytest.mark.parametrize(
    ("asked", "model", "tokens"),
    [
        (True, MODEL, 1320),
        (False, MODEL, 260),
        (None, MODEL, 260),
        (True, replace(MODEL, crops_by_default=True), 1320),
        (False, replace(MODEL, crops_by_default=True), 260),
        (None, replace(MODEL, crops_by_default=True), 1320),
        (True, replace(MODEL, pans_and_scans=False), 260),
    ],
)
def test_crops_count_where_there_will_be_some(asked: bool | None, model: ModelInfo, tokens: int) -> None:
    panned = request(images=2)
    if asked is not None:
        panned.image_options.pan_and_scan = asked
    assert estimate(panned, model) == Cost(sequences=1, tokens=2 * tokens, images=2)


def test_raw_prompts_count_as_what_is_said_in_chats() -> None:
    prompt = prompt_pb2.Prompt()
    prompt.parts.add(text="漢字" * 500)
    prompt.parts.add(tokens=prompt_pb2.TokenIds(ids=[70_000] * 300))
    prompt.parts.add(image=content_pb2.Image(data=b"x" * 100_000))
    asked = completion_service_pb2.CompletionRequest(priority=3, sampling={"n": 4})
    cost = estimate_prompt(prompt, asked, MODEL, 77)
    assert (cost.sequences, cost.images, cost.image_bytes, cost.priority) == (4, 1, 77, 3)
    assert cost.text_tokens == pytest.approx(1050, rel=0.01)
    assert cost.tokens == cost.text_tokens + 260


def test_inputs_that_are_cut_count_no_more_than_what_is_left() -> None:
    prompt = prompt_pb2.Prompt()
    prompt.parts.add(text="word" * 20_000)
    whole = estimate_input(prompt, embedding_service_pb2.EmbedRequest(priority=3), MODEL)
    cut = estimate_input(prompt, embedding_service_pb2.EmbedRequest(truncate=True), MODEL)
    assert whole.tokens == whole.text_tokens == pytest.approx(20_000, rel=0.01)
    assert (whole.sequences, whole.priority) == (1, 3)
    assert cut.tokens == cut.text_tokens == MODEL.context_window


def test_tools_count() -> None:
    with_tools = request()
    with_tools.tools.add(name="f", description="d" * 4000)
    assert estimate(with_tools, MODEL).tokens == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(("asked", "counted"), [(None, 1), (-3, 1), (0, 1), (5, 5), (2_000_000_000, 16)])
def test_candidates_count_within_what_can_be_asked_for(asked: int | None, counted: int) -> None:
    with_candidates = request("hi")
    if asked is not None:
        with_candidates.sampling.n = asked
    assert estimate(with_candidates, MODEL).sequences == counted


def test_priority_counts_only_where_requests_have_one() -> None:
    urgent = request("hi")
    urgent.priority = -7
    assert estimate(urgent, MODEL).priority == -7
    assert estimate(urgent, replace(MODEL, takes_priorities=False)).priority == 0
