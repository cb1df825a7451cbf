"""Prompts without a template, as tokens, whatever the tokenizer and wherever pictures and ids stand."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tokenizers.processors import TemplateProcessing

from octet.engine.types import ImagePart, Prompt, TextPart, TokensPart
from octet.engine.vllm.serving.raw_prompts import RawPrompts
from octet.engine.vllm.serving.special_tokens import SpecialTokens
from octet.errors import InvalidRequestError
from tests.unit.engine.serving.test_special_tokens import MADE, byte_level, fragments

PLACE = "<start_of_image>"
PICTURE = ImagePart(Image.new("RGB", (2, 2)))


def framing() -> Any:
    """A tokenizer that puts tokens around sequences, as BERT's does."""
    tokenizer = byte_level()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", 1), ("<eos>", 0)]
    )
    return tokenizer


TOKENIZERS = {**MADE, "framing": framing()}


def raw(tokenizer: Any, *, lower_case: bool = False) -> RawPrompts:
    special = SpecialTokens(tokenizer, placeholder=PLACE)
    return RawPrompts(tokenizer, special, PLACE, lower_case=lower_case)


def prompt(*parts: TextPart | TokensPart | ImagePart, **options: bool) -> Prompt:
    return Prompt("prompts[0]", parts, **options)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", ["plain", " x ", "<bos>a<end_of_turn>\nb", "e_of_turn>", "<b<"])
def test_a_text_is_what_the_tokenizer_makes_of_it(name: str, text: str) -> None:
    tokenizer = TOKENIZERS[name]
    for added in (False, True):
        asked = prompt(TextPart(text), add_special_tokens=added)
        expected = tokenizer.encode(text, add_special_tokens=added)
        if text.startswith("<bos>") and name == "framing" and added:
            # Templates of one's own begin so, and one is enough.
            expected = expected[1:]
        assert raw(tokenizer).encode(asked) == expected


@pytest.mark.parametrize("name", TOKENIZERS)
@given(parts=st.lists(fragments.filter(lambda text: text != PLACE), min_size=1, max_size=6))
def test_texts_that_follow_each_other_are_one(name: str, parts: list[str]) -> None:
    whole = "".join(parts)
    if PLACE in whole or not whole.strip():
        return
    made = raw(TOKENIZERS[name])
    for parsed in (True, False):
        options = {"parse_special_tokens": parsed, "add_special_tokens": False}
        apart = made.encode(prompt(*map(TextPart, parts), **options))
        assert apart == made.encode(prompt(TextPart(whole), **options))
        if not parsed:
            assert not {*apart} & {*TOKENIZERS[name].all_special_ids}


@pytest.mark.parametrize("name", ["like_gemma", "like_llama_2", "byte_level"])
def test_pictures_and_tokens_stand_where_they_are_put(name: str) -> None:
    tokenizer = TOKENIZERS[name]
    made = raw(tokenizer)
    [place] = tokenizer.convert_tokens_to_ids([PLACE])
    # Tokens that the texts do not become, in whatever order the tokenizer has learnt them.
    said = {*made.encode(prompt(TextPart("abc"))), *made.encode(prompt(TextPart("ab c")))}
    given = tuple([i for i in range(5, len(tokenizer)) if i not in said][:2])
    mixed = prompt(
        TextPart("ab"), PICTURE, TextPart("c"), TokensPart(given), PICTURE, add_special_tokens=False
    )
    ids = made.encode(mixed)
    assert ids[ids.index(place) + 1 :][-3:] == [*given, place]
    assert ids.count(place) == 2
    assert tokenizer.decode([i for i in ids if i not in given]) == f"ab{PLACE}c{PLACE}"
    # What stands behind a picture begins no text: tokenizers that begin each with a blank must not here.
    behind = made.encode(prompt(PICTURE, TextPart("c"), add_special_tokens=False))
    assert tokenizer.decode(behind[1:], skip_special_tokens=False).strip(" ") == "c"
    assert len(behind) == 2


def test_token_ids_stay_as_they_are() -> None:
    made = raw(framing())
    assert made.encode(prompt(TokensPart((5, 6)))) == [5, 6]
    assert made.encode(prompt(TextPart("a"), TokensPart((5,))))[-1] == 5
    assert 1 not in made.encode(prompt(TextPart("a"), TokensPart((5,))))


def test_tokens_around_a_sequence_come_once() -> None:
    made = raw(framing())
    plain = made.encode(prompt(TextPart("a")))
    assert (plain[0], plain[-1]) == (1, 0)
    assert made.encode(prompt(TextPart("<bos>a<eos>"))) == plain
    assert made.encode(prompt(TextPart("<bos>a"))) == plain
    assert made.encode(prompt(TextPart("<bos>a<eos>"), parse_special_tokens=False)) != plain


def test_what_is_cut_keeps_its_end() -> None:
    made = raw(framing())
    ids = made.encode(prompt(TextPart("abcdef")))
    assert made.cut(ids, 4) == [*ids[:3], 0]
    without = made.encode(prompt(TextPart("abcdef"), add_special_tokens=False))
    assert made.cut(without, 4) == without[:4]


def test_models_of_small_letters_get_small_letters() -> None:
    tokenizer = byte_level()
    assert raw(tokenizer, lower_case=True).encode(prompt(TextPart("AbÉ"))) == tokenizer.encode("abé")


@pytest.mark.parametrize(
    ("parts", "options", "field"),
    [
        ((TextPart(f"a{PLACE}"),), {}, "prompts[0].parts[0].text"),
        ((PICTURE, TextPart("<start_of"), TextPart("_image>")), {}, "prompts[0].parts[1].text"),
        ((TextPart("a"), TokensPart((5, 3))), {}, "prompts[0].parts[1].tokens.ids"),
    ],
)
def test_a_place_for_a_picture_that_nobody_sent(
    parts: tuple[Any, ...], options: dict[str, bool], field: str
) -> None:
    tokenizer = byte_level()
    assert tokenizer.convert_tokens_to_ids([PLACE]) == [3]
    with pytest.raises(InvalidRequestError, match="holds the token that stands for a picture") as raised:
        raw(tokenizer).encode(prompt(*parts, **options))
    assert raised.value.field == field


def test_the_name_of_a_place_is_only_text_where_names_are() -> None:
    asked = prompt(TextPart(PLACE), parse_special_tokens=False)
    assert 3 not in raw(byte_level()).encode(asked)


def test_nothing_is_no_prompt() -> None:
    from tokenizers import normalizers

    tokenizer = byte_level()
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    with pytest.raises(InvalidRequestError, match="has no tokens") as raised:
        raw(tokenizer).encode(prompt(TextPart("  ")))
    assert raised.value.field == "prompts[0]"
