"""Cases that training never drew, for judging a checkpoint: other shades, canvas sizes, renderer, names
and values.

Every function takes a seed and a number of cases and returns the same cases for the same seed.
"""

import random
from typing import Any, NamedTuple

from PIL import Image

from tools.demo_checkpoint.chat import chat
from tools.demo_checkpoint.concepts import CONCEPTS
from tools.demo_checkpoint.dialogues import request, tool_dialogue
from tools.demo_checkpoint.messages import Json, Message, Sample
from tools.demo_checkpoint.names import NameSource
from tools.demo_checkpoint.pictures import caption, describe_question, picture, question_about, two_pictures


class PictureCase(NamedTuple):
    """A picture, a question and the answers that are right (one, as wording is canonical)."""

    image: Image.Image
    question: str
    accepted: frozenset[str]


class CallCase(NamedTuple):
    """Messages up to the user's question, the tools in the OpenAI API's form, and the calls that are
    right: each has `name` and `arguments`.
    """

    messages: list[Message]
    tools: list[Json]
    calls: list[Json]


class AnswerCase(NamedTuple):
    """Messages up to where the assistant answers in words, the tools, the pictures of the image parts,
    and the right answers.
    """

    messages: list[Message]
    tools: list[Json]
    images: list[Image.Image]
    accepted: frozenset[str]


def held_out_pictures(seed: int, count: int) -> list[PictureCase]:
    """Pictures with a request to describe them (whole caption)."""
    rng = random.Random(f"pictures {seed}")
    cases = []
    for _ in range(count):
        scene, image = picture(rng, held_out=True)
        cases.append(PictureCase(image, describe_question(rng), frozenset({caption(scene.groups)})))
    return cases


def held_out_questions(seed: int, count: int) -> list[PictureCase]:
    """Pictures with questions about colour, shape, number and presence."""
    rng = random.Random(f"questions {seed}")
    cases = []
    for _ in range(count):
        scene, image = picture(rng, held_out=True)
        question, answer = question_about(rng, scene.groups)
        cases.append(PictureCase(image, question, frozenset({answer})))
    return cases


def held_out_pairs(seed: int, count: int) -> list[AnswerCase]:
    """Two pictures in one message."""
    rng = random.Random(f"pairs {seed}")
    return [_asked(two_pictures(rng, held_out=True)[0]) for _ in range(count)]


def held_out_calls(seed: int, count: int) -> list[CallCase]:
    """Questions that need one or two calls, for tools with known and with made-up names."""
    rng = random.Random(f"calls {seed}")
    cases = []
    for _ in range(count):
        asked, tools = request(NameSource(rng, held_out=True))
        cases.append(CallCase([{"role": "user", "content": asked.question}], tools, asked.calls))
    return cases


def held_out_results(seed: int, count: int) -> list[AnswerCase]:
    """A question, the calls and their results; the answer is to use them."""
    rng = random.Random(f"results {seed}")
    cases: list[AnswerCase] = []
    while len(cases) < count:
        sample = tool_dialogue(NameSource(rng, held_out=True))
        if sample.messages[-2]["role"] == "tool":
            cases.append(_asked(sample))
    return cases


def held_out_refusals(seed: int, count: int) -> list[AnswerCase]:
    """Tools are declared, but none of them fits."""
    rng = random.Random(f"refusals {seed}")
    cases: list[AnswerCase] = []
    while len(cases) < count:
        sample = tool_dialogue(NameSource(rng, held_out=True))
        if not any("tool_calls" in message for message in sample.messages):
            cases.append(_asked(sample))
    return cases


def held_out_dialogues(seed: int, count: int) -> list[AnswerCase]:
    """Conversations without tools; judged by their last answer."""
    rng = random.Random(f"dialogues {seed}")
    return [_asked(chat(NameSource(rng, held_out=True))) for _ in range(count)]


def _asked(sample: Sample) -> AnswerCase:
    *messages, answer = sample.messages
    return AnswerCase(messages, sample.tools, sample.images, frozenset({answer["content"]}))


def tool_names() -> frozenset[str]:
    """Names of the tools that training shows under their own names."""
    return frozenset(name for concept in CONCEPTS for name in concept.names)


def call_text(calls: list[Json]) -> list[dict[str, Any]]:
    """The calls in the form in which the model writes them."""
    return [{"name": call["name"], "parameters": call["arguments"]} for call in calls]
