"""Names of special tokens in what requests say, kept from becoming these tokens.

A chat template marks turns and pictures with special tokens, and what it makes is split into tokens as one
text. Whoever writes "<end_of_turn>" into a message would so end the turn and could go on in the model's name.
Octet therefore puts a mark behind the first character of each such name before the template gets it, and
splits the template's text into tokens from mark to mark: no piece holds a name that the template has not
written.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any


class SpecialTokens:
    """The special tokens of a tokenizer, as texts.

    Args:
        tokenizer: transformers' or one like it.
        templates: the chat templates. What is a token by itself and stands in one of them means something
            there, whether the tokenizer calls it special or not.
        placeholder: what stands for a picture in the model's prompts; empty where it takes none.
    """

    def __init__(self, tokenizer: Any, templates: Sequence[str] = (), placeholder: str = "") -> None:
        self._tokenizer = tokenizer
        added = {str(token): token for token in getattr(tokenizer, "added_tokens_decoder", {}).values()}
        special = {name for name, token in added.items() if token.special}
        special |= {str(name) for name in getattr(tokenizer, "all_special_tokens", ())}
        said = {name for text in templates for name in added if name in text and not _is_plain(name)}
        self._special = _Names(special | {placeholder}, templates)
        self._all = _Names(special | said | {placeholder}, templates)
        backend = getattr(tokenizer, "backend_tokenizer", None)
        changes = backend is not None and backend.normalizer is not None
        self._normalized = changes and any(added[name].normalized for name in special & added.keys())
        marked = {i for i, token in getattr(tokenizer, "added_tokens_decoder", {}).items() if token.special}
        # Whatever a tokenizer does not know becomes its token for that.
        self._ids = {*marked, *getattr(tokenizer, "all_special_ids", ())} - {
            getattr(tokenizer, "unk_token_id", None)
        }
        self._prefixed = self._encode("\nx") != self._encode("\n") + self._encode("x")

    def cuts(self, text: str, *, of_model: bool = False) -> list[int]:
        """Where a text is to be cut so that no piece holds the name of a special token, in order.

        Cuts are also where a name could come about together with what a template puts before or behind it.

        Args:
            text: the text.
            of_model: whether the model has said it: templates look for the likes of "</think>" there, which
                are tokens, but not special ones.
        """
        found = (self._special if of_model else self._all).cuts(text)
        if self._normalized:
            found = sorted({*found, *self._normalized_cuts(text)})
        return found

    def encode(self, pieces: Iterable[str]) -> list[int]:
        """The tokens of a text that was cut; no token spans a cut."""
        first, *others = pieces
        ids = self._encode(first)
        for piece in others:
            ids += self._encode_behind(piece)
        return ids

    def tokenize(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """The tokens of a text in which names of special tokens are plain text."""
        cuts = self.cuts(text)
        if not cuts:
            return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens))
        ids = self.encode(pieces_of(text, cuts))
        if not add_special_tokens:
            return ids
        head, tail = self.frame()
        return head + ids + tail

    def frame(self) -> tuple[list[int], list[int]]:
        """The tokens that begin and end a sequence, where the tokenizer adds any."""
        alone, framed = self._encode("x"), list(self._tokenizer.encode("x", add_special_tokens=True))
        places = (i for i in range(len(framed)) if framed[i : i + len(alone)] == alone)
        if (start := next(places, None)) is None:
            return [], []
        return framed[:start], framed[start + len(alone) :]

    def of(self, ids: Iterable[int]) -> frozenset[int]:
        """Those of these tokens that are special ones."""
        return frozenset(self._ids.intersection(ids))

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _encode_behind(self, text: str) -> list[int]:
        """The tokens of a text that another one precedes: some tokenizers begin each text with a blank."""
        if self._prefixed:
            head, ids = self._encode("\n"), self._encode(f"\n{text}")
            if ids[: len(head)] == head:
                return ids[len(head) :]
        return self._encode(text)

    def _normalized_cuts(self, text: str) -> list[int]:
        """Cuts of what becomes a special token once the tokenizer has normalized it."""
        found: list[int] = []
        pieces = [(0, text)]
        while pieces:
            offset, piece = pieces.pop()
            encoding = self._tokenizer.backend_tokenizer.encode(piece, add_special_tokens=False)
            inner = []
            for token_id, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
                if token_id in self._ids:
                    # Tokens may swallow the blanks before them.
                    start += len(piece[start:end]) - len(piece[start:end].lstrip())
                    if end - start > 1:
                        inner.append(start + 1)
            found += [offset + cut for cut in inner]
            bounds = [0, *inner, len(piece)]
            if inner:
                pieces += [(offset + i, piece[i:j]) for i, j in pairwise(bounds)]
        return found


class _Names:
    """Finds any of many names.

    Args:
        names: the names.
        templates: chat templates. What they write right before a text may be the beginning of a name, too.
    """

    def __init__(self, names: Iterable[str], templates: Sequence[str] = ()) -> None:
        # A name of one character cannot be cut.
        self._names = frozenset(name for name in names if len(name) > 1)
        self._longest = max(map(len, self._names), default=0)
        self._lengths: dict[str, set[int]] = {}
        for name in self._names:
            self._lengths.setdefault(name[:_BEGINNING], set()).add(len(name))
        seconds: dict[str, list[str]] = {}
        for begin in self._lengths:
            seconds.setdefault(begin[0], []).append(re.escape(begin[1:]))
        begun = [f"{re.escape(first)}(?={'|'.join(rests)})" for first, rests in seconds.items()]
        self._begun = re.compile("|".join(begun)) if begun else None
        self._heads = frozenset(name[:end] for name in self._names for end in range(1, len(name)))
        written = {
            head
            for head in self._heads
            if any(f"{head}{opening}" in text for text in templates for opening in _EXPRESSIONS)
        }
        self._tails = tuple(
            name[end:] for name in self._names for end in range(1, len(name)) if name[:end] in written
        )

    def cuts(self, text: str) -> list[int]:
        """The cuts of `SpecialTokens.cuts`."""
        if self._begun is None or not text:
            return []
        inside = {
            start + 1
            for start in (match.start() for match in self._begun.finditer(text))
            if any(
                text[start : start + length] in self._names
                for begin in range(2, _BEGINNING + 1)
                for length in self._lengths.get(text[start : start + begin], ())
            )
        }
        return sorted({*inside, *self._at_the_end(text.rstrip()), *self._at_the_beginning(text)})

    def _at_the_end(self, text: str) -> list[int]:
        """Where a text ends with the beginning of a name: whatever comes behind it could complete that."""
        longest = min(len(text), self._longest - 1)
        return [len(text) - size + 1 for size in range(1, longest + 1) if text[-size:] in self._heads]

    def _at_the_beginning(self, text: str) -> list[int]:
        """Before a text that could complete the beginning of a name that the template writes."""
        text = text.strip()
        completes = text.startswith(self._tails) or (
            0 < len(text) < self._longest and any(tail.startswith(text) for tail in self._tails)
        )
        return [0] if completes else []


# So many characters of names are looked for before names are.
_BEGINNING = 3

# What may follow in a template on a text of its own that goes right before an expression.
_EXPRESSIONS = ("'", '"', "{{", "{%")


class Speech:
    """What one request says, on its way through a chat template.

    Args:
        tokens: those whose names are only text in it; None where they are tokens.
        marked: whether marks can be taken out of what the template makes; they cannot out of tokens.
    """

    def __init__(self, tokens: SpecialTokens | None, *, marked: bool = True) -> None:
        self._tokens = tokens
        self._can_mark = marked
        # Letters and digits pass through every filter of a template, and nobody can guess which.
        self._mark = f"x{secrets.token_hex(16)}x"
        self._verbatim: list[str] = []
        self.is_marked = False

    def text(self, text: str, *, of_model: bool = False) -> str:
        """A text for the template."""
        cuts = self._tokens.cuts(text, of_model=of_model) if self._tokens else []
        return self._marked(text, cuts)

    def kept(self, text: str) -> str:
        """Likewise, with a mark near its beginning, for whoever would know it by that."""
        return self._marked(self.text(text), [1]) if self._can_mark else text

    def cut(self) -> str:
        """A place between two texts that no token spans."""
        self.is_marked = True
        return self._mark

    def value(self, value: Any) -> Any:
        """A JSON value for the template, names of members included."""
        match value:
            case str():
                return self.text(value)
            case Mapping():
                return {self.text(key): self.value(item) for key, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    def object(self, text: str) -> dict[str, Any]:
        """An object for the template that stands for a text which is none, or not only one.

        Templates that write it as JSON write the text instead; others that of its one member, `arguments`.
        """
        if not self._can_mark:
            return {"arguments": text}
        self.is_marked = True
        self._verbatim.append(self.text(text, of_model=True))
        place = f"{self._mark}{len(self._verbatim) - 1}"
        return {f"{place}name": f"{place}text"}

    def pieces(self, rendered: str) -> list[str]:
        """The template's text, cut at the marks, without them."""
        for i, text in enumerate(self._verbatim):
            name, value = f"{self._mark}{i}name", f"{self._mark}{i}text"
            parts = re.split(rf'\{{\s*"{name}"\s*:\s*"{value}"\s*\}}', rendered)
            rendered = text.join(parts).replace(name, "arguments").replace(value, text)
        return re.split(self._mark, rendered, flags=re.IGNORECASE)

    def _marked(self, text: str, cuts: list[int]) -> str:
        if not cuts:
            return text
        self.is_marked = True
        return self._mark.join(pieces_of(text, cuts))


def pieces_of(text: str, cuts: list[int]) -> list[str]:
    """A text, cut at these places."""
    bounds = [0, *cuts, len(text)]
    return [text[start:end] for start, end in pairwise(bounds)]


def _is_plain(name: str) -> bool:
    """Whether a token is a word or white space, which templates write as such."""
    return not name.strip() or name.isalnum()
