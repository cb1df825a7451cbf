"""Conversations in the OpenAI API's form."""

import json
import random
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

Json = dict[str, Any]
Message = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sample:
    """One conversation; `images` belong to its image parts, in order."""

    messages: list[Message]
    tools: list[Json] = field(default_factory=list)
    images: list[Image.Image] = field(default_factory=list)


def user(text: str) -> Message:
    """A user's turn of text alone."""
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    """An answer in words."""
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    """A system instruction."""
    return {"role": "system", "content": text}


def calls(*made: Json) -> Message:
    """The assistant's turn that calls tools; each of `made` has a name and arguments."""
    return {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"type": "function", "function": call} for call in made],
    }


def tool_result(result: Json | str) -> Message:
    """What a called tool returned: an object, or plain text."""
    return {
        "role": "tool",
        "content": result if isinstance(result, str) else json.dumps(result, ensure_ascii=False),
    }


def roughen(rng: random.Random, text: str) -> str:
    """The same request as another person would type it: other capitals, punctuation, a courtesy."""
    if rng.random() < 0.12:
        text = (
            rng.choice(("Please ", "Hi! ", "Hello, ", "Can you help me? ", "Hey, ", "OK. ", "Thanks. "))
            + text
        )
    if rng.random() < 0.18:
        text = text[0].lower() + text[1:]
    if rng.random() < 0.2 and text[-1] in ".?!":
        text = text[:-1]
    elif rng.random() < 0.05 and text[-1] == ".":
        text = text[:-1] + "!"
    if rng.random() < 0.06 and text[-1] not in ".?!":
        text += rng.choice((" please", ", please", ", thanks", " please."))
    return text
