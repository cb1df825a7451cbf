"""Tokens as bytes, of small tokenizers of each kind."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from octet.engine.vllm.serving.vocabulary import Vocabulary

TEXTS = ["Hello wörld", " 你好\n\t", "é€😀", "a  b", "ĠĊ▁"]


def byte_level() -> PreTrainedTokenizerFast:
    """Like GPT-2's: bytes written as letters, some pairs of them merged."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("H", "e"), ("l", "l"), ("Ġ", "w"), ("Ã", "©")]
    vocabulary = {token: i for i, token in enumerate([*alphabet, *("".join(pair) for pair in merges)])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return _wrap(tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """Like Gemma's: a mark for the space, single bytes for what is not in the vocabulary."""
    pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *"Helowrd\nab", "He", "ll"]
    merges = [("H", "e"), ("l", "l")]
    vocabulary = {token: i for i, token in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _wrap(tokenizer)


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_special_tokens(["<eos>"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>")


KINDS = {"byte_level": byte_level, "byte_fallback": byte_fallback}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("text", TEXTS)
async def test_bytes_of_tokens_add_up(kind: str, text: str) -> None:
    if kind == "byte_fallback":
        # Its mark for the space stands for a space whatever it was.
        text = text.replace("▁", " ")
    vocabulary = Vocabulary(KINDS[kind](), 400)
    tokens = await vocabulary.tokenize(text, add_special_tokens=False)
    assert b"".join(vocabulary.data(token_id) for token_id in tokens.ids).decode() == text
    assert list(tokens.texts) == [vocabulary.text(token_id) for token_id in tokens.ids]
    assert await vocabulary.detokenize(tokens.ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("kind", KINDS)
async def test_parts_of_characters(kind: str) -> None:
    vocabulary = Vocabulary(KINDS[kind](), 400)
    tokens = await vocabulary.tokenize("€", add_special_tokens=False)
    assert [vocabulary.data(token_id) for token_id in tokens.ids] == [b"\xe2", b"\x82", b"\xac"]
    assert tokens.texts == ("\ufffd",) * 3


@pytest.mark.parametrize("kind", KINDS)
def test_texts_are_those_of_the_tokenizer(kind: str) -> None:
    tokenizer = KINDS[kind]()
    vocabulary = Vocabulary(tokenizer, len(tokenizer) + 5)
    for token_id in range(len(tokenizer)):
        assert vocabulary.text(token_id) == tokenizer.decode([token_id])
    assert vocabulary.data(len(tokenizer) + 4) == b""


async def test_special_tokens_can_be_left_out() -> None:
    tokenizer = byte_level()
    vocabulary = Vocabulary(tokenizer, len(tokenizer))
    ids = [*tokenizer.encode("a"), tokenizer.eos_token_id]
    assert await vocabulary.detokenize(ids, skip_special_tokens=True) == "a"
    assert await vocabulary.detokenize(ids, skip_special_tokens=False) == "a<eos>"
