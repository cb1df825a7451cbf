"""Prompts without a chat template, as tokens."""

from collections.abc import Sequence
from typing import Any

from octet.engine.types import ImagePart, Prompt, TextPart, TokensPart
from octet.engine.vllm.serving.special_tokens import SpecialTokens, pieces_of
from octet.errors import InvalidRequestError


class RawPrompts:
    """Makes tokens of prompts.

    Args:
        tokenizer: vLLM's.
        special: its special tokens.
        placeholder: what stands for a picture in the model's prompts; empty where it takes none.
        lower_case: whether the model was trained on small letters only.
    """

    def __init__(self, tokenizer: Any, special: SpecialTokens, placeholder: str, *, lower_case: bool) -> None:
        self._special = special
        self._lower_case = lower_case
        self._placeholder = special.encode([placeholder])
        self._places = special.of(self._placeholder)
        self._head, self._tail = special.frame()

    def encode(self, prompt: Prompt) -> list[int]:
        """The tokens of a prompt, in which each picture has its place; takes time that grows with its texts.

        Raises:
            InvalidRequestError: it holds a place for a picture by itself, or nothing at all.
        """
        ids = self._encode_parts(prompt)
        if prompt.add_special_tokens and not any(isinstance(part, TokensPart) for part in prompt.parts):
            ids = self._framed(ids)
        if not ids:
            raise InvalidRequestError(prompt.field, "has no tokens: its texts are nothing to this model")
        return ids

    def _encode_parts(self, prompt: Prompt) -> list[int]:
        ids: list[int] = []
        parts = prompt.parts
        at = 0
        while at < len(parts):
            begin, part = at, parts[at]
            at += 1
            match part:
                case TextPart(text):
                    while at < len(parts) and isinstance(following := parts[at], TextPart):
                        text += following.text
                        at += 1
                    said = self._encode_text(text, parsed=prompt.parse_special_tokens, begins=begin == 0)
                    self._check_places(said, f"{prompt.field}.parts[{begin}].text")
                    ids += said
                case TokensPart(said):
                    self._check_places(said, f"{prompt.field}.parts[{begin}].tokens.ids")
                    ids += said
                case ImagePart():
                    ids += self._placeholder
        return ids

    def cut(self, ids: list[int], most: int) -> list[int]:
        """The first tokens of a prompt, with those that end a sequence where it had them."""
        ends = self._tail if self._tail and ids[-len(self._tail) :] == self._tail else []
        return ids[: most - len(ends)] + ends

    def _encode_text(self, text: str, *, parsed: bool, begins: bool) -> list[int]:
        text = text.lower() if self._lower_case else text
        pieces = [text] if parsed else pieces_of(text, self._special.cuts(text))
        # Some tokenizers begin each text with a blank; one that does not begin the prompt has none.
        return self._special.encode(pieces if begins else ["", *pieces])

    def _framed(self, ids: list[int]) -> list[int]:
        """With those tokens around them that a sequence has, unless they are there: templates write them."""
        head = [] if ids[: len(self._head)] == self._head else self._head
        tail = [] if self._tail and ids[-len(self._tail) :] == self._tail else self._tail
        return head + ids + tail

    def _check_places(self, ids: Sequence[int], where: str) -> None:
        if self._places and not self._places.isdisjoint(ids):
            raise InvalidRequestError(
                where,
                "holds the token that stands for a picture; put the picture there, as a part of its own",
            )
