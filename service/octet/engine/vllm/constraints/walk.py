"""Constraints followed byte by byte, without a model's vocabulary."""

import random
from functools import cache
from typing import TYPE_CHECKING, Any

from octet.engine.vllm.constraints.limits import parser_limits

if TYPE_CHECKING:
    from llguidance import LLTokenizer

_END = 256


class Walk:
    """A constraint on its way through a text."""

    def __init__(self, grammar: str) -> None:
        """Compiles `grammar`, in llguidance's own form; takes as long as that takes."""
        from llguidance import LLMatcher

        self._matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=parser_limits())

    @property
    def error(self) -> str:
        """What is wrong with the constraint, or with following it; empty as long as nothing is."""
        return str(self._matcher.get_error())

    def takes(self, text: str) -> bool:
        """Whether the constraint derives `text` as a whole."""
        data = text.encode()
        return bool(
            self._matcher.try_consume_tokens(list(data)) == len(data) and self._matcher.is_accepting()
        )

    def begins(self, text: str) -> bool:
        """Whether the constraint derives anything that begins with `text`."""
        self._matcher.reset()
        data = text.encode()
        return int(self._matcher.try_consume_tokens(list(data))) == len(data)

    def sample(self, seed: int, most: int) -> tuple[bytes, bool]:
        """Goes a random way of at most `most` bytes from the beginning; returns it, and whether it ended.

        A way that leads nowhere, and one that runs into a limit, ends with an `error`.
        """
        self._matcher.reset()
        rng = random.Random(seed)
        written = bytearray()
        while len(written) < most:
            allowed = self._allowed()
            if self.error:
                return bytes(written), False
            if not allowed:
                return bytes(written), bool(self._matcher.is_accepting())
            choice = rng.choice(allowed)
            if choice == _END:
                return bytes(written), True
            written.append(choice)
            if not self._matcher.consume_token(choice):
                return bytes(written), False
        return bytes(written), False

    def _allowed(self) -> list[int]:
        if self._matcher.is_stopped():
            return []
        mask = int.from_bytes(self._matcher.compute_bitmask(), "little")
        return [token for token in range(_END + 1) if mask >> token & 1]


@cache
def _bytes() -> "LLTokenizer":
    """A vocabulary of all bytes, and one token that ends a text."""
    from llguidance import LLTokenizer
    from llguidance._tokenizer import TokenizerWrapper

    class Bytes:
        eos_token_id = _END
        bos_token_id = None
        tokens = (*(bytes([byte]) for byte in range(256)), b"<end>")
        special_token_ids = (_END,)

        def __call__(self, text: Any) -> list[int]:
            return list(text if isinstance(text, bytes) else text.encode())

    return LLTokenizer(TokenizerWrapper(Bytes()))
