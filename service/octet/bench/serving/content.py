"""What requests hold: words, pictures and a tool, no two requests with the same ones."""

import io
import random
from dataclasses import dataclass
from typing import Any

_WORDS = """
the of and to in is that it was for on are with as his they at be this from have or by one had not
but what all were when we there can an your which their said if do will each about how up out them
then she many some so these would other into has more her two like him see time could no make than
first been its who now people my made over
"""
WORDS = _WORDS.split()

TOOL: dict[str, Any] = {
    "name": "get_weather",
    "description": "Get the weather in a city.",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 24}},
        "required": ["city"],
    },
}
"""The tool that requests with tools offer, and that the model has to call."""

# Of a picture's side: blocks that no other picture has, in a file that is small for its size.
_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Scale:
    """How many words make how many tokens.

    Attributes:
        overhead: tokens of a prompt without words.
        per_word: tokens that each word adds.
    """

    overhead: float
    per_word: float

    @classmethod
    def through(cls, few: tuple[int, int], many: tuple[int, int]) -> "Scale":
        """The line through two measured prompts, each its words and its tokens.

        Raises:
            ValueError: the longer one has no more tokens.
        """
        per_word = (many[1] - few[1]) / (many[0] - few[0])
        if per_word <= 0:
            raise ValueError(f"{many[0]} words are {many[1]} tokens where {few[0]} are {few[1]}")
        return cls(few[1] - per_word * few[0], per_word)

    def words(self, tokens: int) -> int:
        """How many words make a prompt of so many tokens, more or less; one at least."""
        return max(1, round((tokens - self.overhead) / self.per_word))


def text(words: int, chance: random.Random) -> str:
    """So many words, by lot."""
    return " ".join(chance.choices(WORDS, k=words))


def picture(side: int, chance: random.Random) -> bytes:
    """A PNG file of `side` x `side` pixels, RGB: coloured blocks by lot."""
    from PIL import Image

    blocks = Image.frombytes("RGB", (_BLOCKS, _BLOCKS), chance.randbytes(3 * _BLOCKS * _BLOCKS))
    file = io.BytesIO()
    blocks.resize((side, side), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()
