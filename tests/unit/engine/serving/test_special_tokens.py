"""No text becomes a special token, whatever the tokenizer, and all of it stays what it is."""

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from octet.engine.vllm.serving.special_tokens import SpecialTokens, Speech, pieces_of

LETTERS = [chr(i) for i in range(33, 127)] + ["\n", "▁", "é", "＜", "＞"]
SPECIAL = ["<eos>", "<bos>", "<end_of_turn>", "<start_of_image>", "<b", "><"]


def fast(backend: Tokenizer, special: list[str | AddedToken], **named: str) -> Any:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    return tokenizer


def like_gemma() -> Any:
    """BPE whose vocabulary holds the special tokens, too; blanks are written as "▁"."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, "<e", "n>"])}
    backend = Tokenizer(models.BPE(vocabulary, [("<", "e"), ("n", ">")]))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return fast(backend, list(SPECIAL))


def like_llama_2() -> Any:
    """Every text begins with a blank of the tokenizer's own."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS, "▁<"])}
    backend = Tokenizer(models.BPE(vocabulary, [("▁", "<")]))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return fast(backend, list(SPECIAL))


def unigram() -> Any:
    """Special tokens are the likeliest pieces of all."""
    pieces = [("<unk>", 0.0), *((token, 0.0) for token in SPECIAL), *((letter, -9.0) for letter in LETTERS)]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return fast(backend, list(SPECIAL))


def swallowing() -> Any:
    """Special tokens take the blanks around them along."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return fast(backend, [AddedToken(name, lstrip=True, rstrip=True, special=True) for name in SPECIAL])


def lowering() -> Any:
    """Special tokens are looked for in what the tokenizer has made of a text."""
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *LETTERS])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse()])
    return fast(backend, [AddedToken(name, normalized=True, special=True) for name in SPECIAL])


def byte_level() -> Any:
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *pre_tokenizers.ByteLevel.alphabet()])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return fast(backend, list(SPECIAL))


MADE = {
    made.__name__: made() for made in (like_gemma, like_llama_2, unigram, swallowing, lowering, byte_level)
}
fragments = st.sampled_from(
    [
        *SPECIAL,
        "<END_OF_TURN>",
        "＜eos＞",
        " <eos> ",
        "<",
        ">",
        "<end_of",
        "_turn>",
        " ",
        "\n",
        "x",
        "é",
        "eos>",
        "<eo",
    ]
)


@pytest.mark.parametrize("name", MADE)
@given(parts=st.lists(fragments, max_size=6))
def test_texts_hold_no_special_tokens(name: str, parts: list[str]) -> None:
    tokenizer, text = MADE[name], "".join(parts)
    special = SpecialTokens(tokenizer)
    ids = special.tokenize(text, add_special_tokens=False)
    assert not {*ids} & {*tokenizer.all_special_ids}
    decoded = tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    assert decoded == (
        tokenizer.backend_tokenizer.normalizer.normalize_str(text) if name == "lowering" else text
    ).replace("▁", " ")


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("text", ["", "plain", "a < b > c", " x ", "e_of_turn>"])
def test_other_texts_are_tokens_as_ever(name: str, text: str) -> None:
    tokenizer = MADE[name]
    assert SpecialTokens(tokenizer).tokenize(text, add_special_tokens=False) == tokenizer.encode(
        text, add_special_tokens=False
    )


def test_tokens_that_begin_a_sequence_frame_such_texts_as_well() -> None:
    from tokenizers.processors import TemplateProcessing

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 0)]
    )
    ids = SpecialTokens(tokenizer).tokenize("a<eos>b", add_special_tokens=True)
    assert (ids[0], ids[-1]) == (1, 0)
    assert not {*ids[1:-1]} & {*tokenizer.all_special_ids}
    assert tokenizer.decode(ids) == "<bos>a<eos>b<eos>"


def test_what_a_template_names_counts_outside_of_the_models_own_words() -> None:
    tokenizer = byte_level()
    tokenizer.add_tokens(["<think>", "<table>", "user", "\n\n"])
    special = SpecialTokens(tokenizer, ["{{ '<think> ' }} user \n\n"])
    assert special.cuts("<think> <table>user\n\n") == [1]
    assert special.cuts("<think> <table>user\n\n", of_model=True) == []
    assert special.cuts("<eos>.", of_model=True) == [1]


def test_without_special_tokens_nothing_is_cut() -> None:
    special = SpecialTokens(SimpleNamespace(encode=lambda text, **_: [ord(letter) for letter in text]))
    assert special.cuts("<eos>") == []
    speech = Speech(special)
    assert speech.value({"a": ["<eos>", 1, None]}) == {"a": ["<eos>", 1, None]}
    assert not speech.is_marked


@pytest.mark.parametrize("written", ["{}", '{"a":1,}', "<eos>", '"', "\\", "\n"])
def test_an_object_stands_for_its_text(written: str) -> None:
    import json

    speech = Speech(SpecialTokens(byte_level()))
    value = speech.object(written)
    said = f"[{json.dumps(value)}, {json.dumps(value, indent=2)}]"
    assert "".join(speech.pieces(said)) == f"[{written}, {written}]"
    [(name, text)] = value.items()
    assert "".join(speech.pieces(f"<{name}={text}>")) == f"<arguments={written}>"


def test_marks_pass_through_what_templates_do_to_texts() -> None:
    speech = Speech(SpecialTokens(byte_level()))
    said = speech.text("  <eos> Hi <eos>  ")
    assert "".join(speech.pieces(said.strip())) == "<eos> Hi <eos>"
    assert "".join(speech.pieces(said.upper())) == "  <EOS> HI <EOS>  "
    # The last could begin "><".
    assert speech.pieces(said) == pieces_of("  <eos> Hi <eos>  ", [3, 12, 16])


def test_no_name_comes_about_together_with_other_texts() -> None:
    special = SpecialTokens(byte_level(), ["{{ '<' ~ key ~ '>' }}"])
    for text, cuts in (("eos", [0]), ("eos>.", [0]), ("e", [0]), ("end", [0]), ("x", []), ("a <eo ", [3])):
        assert special.cuts(text) == cuts
    assert SpecialTokens(byte_level(), ["{{ '<b>' ~ key }}"]).cuts("eos") == []
