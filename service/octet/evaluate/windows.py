"""Cuts texts into prompts whose tokens are scored, each token once."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Window:
    """A prompt.

    Attributes:
        tokens: what the model reads.
        scored: how many of them, at the end, are scored; those before are context.
    """

    tokens: list[int]
    scored: int


def split_documents(text: str, separator: str | None) -> list[str]:
    """The parts of a text between lines that are `separator`; the whole text without one. Empty parts go."""
    if separator is None:
        return [text] if text else []
    parts: list[list[str]] = [[]]
    for line in text.splitlines(keepends=True):
        if line.rstrip("\r\n") == separator:
            parts.append([])
        else:
            parts[-1].append(line)
    return [document for part in parts if (document := "".join(part))]


def sample(windows: Iterable[Window], total: int, count: int, seed: int) -> list[Window]:
    """Some of the windows, drawn by lot without replacement, in their order; all where there are not more.

    Args:
        windows: at least `total`.
        total: of how many to draw.
        count: how many; 0 for all.
        seed: the same one draws the same.
    """
    if count == 0 or total <= count:
        return list(windows)
    drawn = set(random.Random(seed).sample(range(total), count))
    return [window for number, window in enumerate(windows) if number in drawn]


def windows(tokens: Sequence[int], opening: Sequence[int], length: int, stride: int) -> Iterator[Window]:
    """Slides over one document; every token but the first is scored once.

    Args:
        tokens: the document's tokens; those of `opening` are taken off their beginning where they are there.
        opening: what every prompt begins with, such as <bos>; with it the first token is scored too.
        length: most tokens of a prompt, the opening included; more than those of the opening.
        stride: tokens by which it moves; the later windows' others are context that was scored already.
    """
    opening = list(opening)
    tokens = list(tokens)
    if opening and tokens[: len(opening)] == opening:
        tokens = tokens[len(opening) :]
    room = length - len(opening)
    end = min(room, len(tokens))
    scored = end if opening else end - 1
    if scored > 0:
        yield Window(opening + tokens[:end], scored)
    while end < len(tokens):
        start, end = end, min(end + stride, len(tokens))
        yield Window(opening + tokens[max(0, end - room) : end], end - start)
