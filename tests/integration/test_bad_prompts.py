"""Completions and embeddings wrong in one field each, over a real channel; nothing reaches the engine."""

from collections.abc import Sequence
from typing import Any

import grpc
import pytest

from octet.engine.types import Service
from octet.v1 import completion_service_pb2, embedding_service_pb2, prompt_pb2
from tests.integration.conftest import Start, complete, details_of, prompt
from tests.integration.test_bad_parameters import CONTRADICTIONS, FORMATS, SAMPLING
from tests.pictures import flat

Completion = completion_service_pb2.CompletionRequest
Embedding = embedding_service_pb2.EmbedRequest
INVALID = "INVALID_FIELD"
TOO_LONG = "CONTEXT_LENGTH_EXCEEDED"

# The scripted engine's.
CONTEXT, VOCABULARY = 4096, 1000

Prompts = Sequence[prompt_pb2.Prompt]


def picture(**fields: Any) -> prompt_pb2.Prompt:
    return prompt_pb2.Prompt(parts=[prompt_pb2.PromptPart(image=fields)])


GOOD = prompt("a")

# Prompts, the wrong field within the list, a part of the sentence, and the reason.
PROMPTS: list[tuple[Prompts, str, str, str]] = [
    ([], "", "has 0 prompts, not 1 to ", INVALID),
    ([GOOD] * 1025, "", "has 1025 prompts, not 1 to ", INVALID),
    ([prompt()], "[0].parts", "is empty; a prompt needs at least one part", INVALID),
    ([GOOD, prompt("a", "")], "[1].parts[1].text", "is empty; leave the part out", INVALID),
    ([prompt_pb2.Prompt(parts=[{}])], "[0].parts[0]", "set one of text, tokens and image", INVALID),
    ([prompt([])], "[0].parts[0].tokens.ids", "is empty; leave the part out", INVALID),
    ([prompt([1, VOCABULARY])], "[0].parts[0].tokens.ids[1]", "1000 is no token id", INVALID),
    ([GOOD, prompt("a", [-1])], "[1].parts[1].tokens.ids[0]", "-1 is no token id", INVALID),
    ([GOOD, prompt([1] * 3000, [1] * 3000)], "[1]", "has 6000 token ids, more than the ", TOO_LONG),
    ([prompt(*["a"] * 600), prompt(*["a"] * 600)], "[1].parts", "to 1200, more than the 1024", INVALID),
]

# Fields, the wrong one, a part of the sentence.
COMPLETIONS: list[tuple[Completion, str, str]] = [
    (complete(*["a"] * 65), "prompts", "has 65 prompts, not 1 to 64"),
    (complete(*["a"] * 64, sampling={"n": 5}), "sampling.n", "of each of 64 prompts, more than 256 together"),
    (complete("a", request_id="ä"), "request_id", "is not 1 to 128 printable ASCII characters"),
    (complete("a", priority=1), "priority", "this server takes requests as they come"),
    (complete("a", cache_salt="x" * 129), "cache_salt", "has 129 characters, more than 128"),
    (
        complete("a", image_options={"pan_and_scan": True}),
        "image_options.pan_and_scan",
        "is an option of Gemma 3's",
    ),
    (Completion(prompts=[GOOD, picture()]), "prompts[1].parts[0].image", "has no source"),
    (Completion(prompts=[GOOD, picture(data=b"x")]), "prompts[1].parts[0].image.data", "is not a PNG, JPEG"),
    (
        Completion(prompts=[GOOD, picture(uri="data:image/png;base64,AAAA")]),
        "prompts[1].parts[0].image.uri",
        "is not a PNG, JPEG",
    ),
    (
        Completion(prompts=[GOOD, picture(uri="https://a.test/x")]),
        "prompts[1].parts[0].image.uri",
        "fetches no pictures (--image-host)",
    ),
    (
        Completion(
            prompts=[prompt_pb2.Prompt(parts=[prompt_pb2.PromptPart(image={"data": flat("PNG", 4)})] * 5)]
        ),
        "prompts[0].parts[4].image",
        "is one of 5 pictures, more than the 4 of one request",
    ),
    *(
        (complete("a", sampling=fields), f"sampling.{name}", sentence)
        for fields, name, sentence in SAMPLING
        if name != "max_reasoning_tokens"
    ),
    (
        complete("a", sampling={"max_reasoning_tokens": 1}),
        "sampling.max_reasoning_tokens",
        "is of no use with raw prompts",
    ),
    *(
        (complete("a", output_format=chat.output_format), field, sentence)
        for chat, field, sentence in FORMATS
        if not chat.tools
    ),
    *(
        (complete("a", sampling=fields, output_format={"regex": "a"}), f"sampling.{name}", "could exclude")
        for fields, name in CONTRADICTIONS
    ),
]

EMBEDDINGS: list[tuple[Embedding, str, str]] = [
    (
        Embedding(inputs=[GOOD, picture(data=flat("PNG", 4))]),
        "inputs[1].parts[0].image",
        "vectors are made of texts only",
    ),
    (Embedding(inputs=[GOOD], dimensions=0), "dimensions", "0 is not one of 2, 3, nor 4, the length of"),
    (Embedding(inputs=[GOOD], dimensions=5), "dimensions", "5 is not one of 2, 3, nor 4, the length of"),
    (Embedding(inputs=[GOOD], request_id="ä"), "request_id", "is not 1 to 128 printable ASCII"),
    (Embedding(inputs=[GOOD], priority=1), "priority", "this server takes requests as they come"),
    (Embedding(inputs=[GOOD], cache_salt="x" * 129), "cache_salt", "has 129 characters, more than 128"),
]

CASES: list[tuple[str, Any, str, str, str]] = [
    *(
        (method, kind, f"{name}{at}", sentence, reason)
        for prompts, at, sentence, reason in PROMPTS
        for method, kind, name in (
            ("Complete", Completion(prompts=prompts), "prompts"),
            ("Embed", Embedding(inputs=prompts), "inputs"),
        )
    ),
    *(("Complete", request, field, sentence, INVALID) for request, field, sentence in COMPLETIONS),
    *(("Embed", request, field, sentence, INVALID) for request, field, sentence in EMBEDDINGS),
]


@pytest.mark.parametrize(
    ("method", "request_", "field", "sentence", "reason"),
    CASES,
    ids=[f"{method}-{field}-{i}" for i, (method, _, field, *_) in enumerate(CASES)],
)
async def test_a_wrong_field_is_named(
    start: Start, method: str, request_: Any, field: str, sentence: str, reason: str
) -> None:
    running = await start(services=(Service.COMPLETION, Service.EMBEDDING))
    stub: Any = running.completions if method == "Complete" else running.embeddings
    warm_ups = len(running.engine.embedded)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await getattr(stub, method)(request_)
    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(raised.value)
    [violation] = details.bad_request.field_violations
    assert violation.field == field
    assert sentence in violation.description
    assert (details.info.domain, details.info.reason) == ("octet.v1", reason)
    assert running.engine.asked == []
    assert len(running.engine.embedded) == warm_ups


async def test_who_is_not_there(start: Start) -> None:
    running = await start(services=(Service.COMPLETION, Service.EMBEDDING))
    for call, reason in (
        (running.completions.Complete(complete("a", model="other")), "MODEL_NOT_FOUND"),
        (running.completions.Complete(complete("a", adapter="other")), "ADAPTER_NOT_FOUND"),
        (running.embeddings.Embed(Embedding(inputs=[GOOD], model="other")), "MODEL_NOT_FOUND"),
        (running.embeddings.Embed(Embedding(inputs=[GOOD], adapter="other")), "ADAPTER_NOT_FOUND"),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() == grpc.StatusCode.NOT_FOUND
        assert details_of(raised.value).info.reason == reason


@pytest.mark.parametrize("service", ["CompletionService/Complete", "EmbeddingService/Embed"])
async def test_floods_are_counted_before_they_are_parsed(start: Start, service: str) -> None:
    """What could not be prompts is refused at the field that holds it, as in chats."""
    running = await start(services=(Service.COMPLETION, Service.EMBEDDING))
    name = "prompts" if "Complete" in service else "inputs"
    kind: Any = Completion if name == "prompts" else Embedding
    floods: list[tuple[Any, str]] = [
        (kind(**{name: [prompt("x" * 5_000_000)]}), "more than 4325376 bytes without its pictures"),
        (kind(**{name: [prompt(*["a"] * 100_000)]}), "more than 81920 fields"),
        (kind(**{name: [{}] * 100_000}), "more than 81920 fields"),
    ]
    for request, sentence in floods:
        call = running.channel.unary_unary(f"/octet.v1.{service}")(request.SerializeToString())
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        [violation] = details_of(raised.value).bad_request.field_violations
        assert (violation.field, sentence in violation.description) == (name, True)
