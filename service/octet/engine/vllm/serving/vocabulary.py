"""The model's tokens as bytes, and texts as tokens."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from octet.engine.types import Tokens
from octet.engine.vllm.serving.special_tokens import SpecialTokens


class Vocabulary:
    """What the tokens of a model stand for.

    vLLM's own token texts will not do: a token that holds a part of a character is empty there, and the one
    that completes the character has all of it.

    Attributes:
        size: how many tokens the model tells apart.
        longest: bytes of the longest token.

    Args:
        tokenizer: vLLM's, which may be used by several threads at once.
        size: how many tokens the model tells apart; those that the tokenizer does not know stand for nothing.
    """

    def __init__(self, tokenizer: Any, size: int) -> None:
        self.size = size
        self._tokenizer = tokenizer
        self._data = _token_bytes(tokenizer, size)
        self.longest = max(map(len, self._data), default=1)
        # One long text after the other, so that no two of them take the processor from the engine.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="tokenize")

    def data(self, token_id: int) -> bytes:
        """A token's bytes; of special tokens those of their names."""
        return self._data[token_id]

    def text(self, token_id: int) -> str:
        """A token's text, with U+FFFD for what is no whole character."""
        return self._data[token_id].decode(errors="replace")

    async def tokenize(
        self, text: str, *, add_special_tokens: bool, special: SpecialTokens | None = None
    ) -> Tokens:
        """Splits a text into tokens, off the event loop; the names of `special` are plain text in it."""
        tokens: Tokens = await self._run(self._tokenize, text, add_special_tokens, special)
        return tokens

    async def detokenize(self, token_ids: Sequence[int], *, skip_special_tokens: bool) -> str:
        """Puts tokens together to text, off the event loop."""
        text: str = await self._run(self._detokenize, token_ids, skip_special_tokens)
        return text

    async def _run(self, function: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *args)

    def _tokenize(self, text: str, add_special_tokens: bool, special: SpecialTokens | None) -> Tokens:
        encode = self._tokenizer.encode if special is None else special.tokenize
        ids = encode(text, add_special_tokens=add_special_tokens)
        return Tokens(tuple(ids), tuple(self.text(token_id) for token_id in ids))

    def _detokenize(self, token_ids: Sequence[int], skip_special_tokens: bool) -> str:
        text: str = self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)
        return text


def _token_bytes(tokenizer: Any, size: int) -> list[bytes]:
    """The bytes of each token.

    xgrammar knows how byte-level tokenizers, those with byte fallback and tiktoken's write bytes into their
    vocabularies, as its automata work on bytes. For other tokenizers the text has to do.
    """
    from xgrammar import TokenizerInfo

    try:
        data: list[bytes] = TokenizerInfo.from_huggingface(tokenizer, vocab_size=size).decoded_vocab
    except ValueError:
        return [tokenizer.decode([token_id]).encode() for token_id in range(size)]
    return data
