import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from octet import demo
from tools.demo_checkpoint import tokenizer as subject
from tools.demo_checkpoint.batches import Encoder
from tools.demo_checkpoint.dialogues import training_dialogue
from tools.demo_checkpoint.messages import Sample, assistant, user

TOKENIZER = PreTrainedTokenizerFast.from_pretrained(demo.PATH)


def encode(text: str) -> list[int]:
    return TOKENIZER.encode(text, add_special_tokens=False)


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(encode(text)) == text


def test_the_vocabulary_has_what_vllm_looks_up() -> None:
    vocabulary = TOKENIZER.get_vocab()
    assert len(vocabulary) == subject.VOCABULARY_SIZE
    assert all(token in vocabulary for token in (*subject.SPECIALS, *subject.NEWLINES))
    assert not set(subject.NEWLINES) & set(TOKENIZER.all_special_tokens)
    assert (TOKENIZER.boi_token, TOKENIZER.eoi_token) == (subject.START_OF_IMAGE, subject.END_OF_IMAGE)
    assert TOKENIZER.image_token == subject.IMAGE


@pytest.mark.parametrize("name", ["Oslo", "Xyvrok", "A-173", "Chloé", "quorm"])
def test_an_unknown_name_is_spelled_alike_wherever_it_stands(name: str) -> None:
    spelled = [TOKENIZER.convert_tokens_to_ids(piece) for piece in TOKENIZER.tokenize(name)]
    for text in (f"the weather in {name}?", f'{{"city": "{name}"}}', f"{name} is"):
        ids = encode(text)
        assert any(ids[i : i + len(spelled)] == spelled for i in range(len(ids))), text


def test_building_it_again_gives_the_shipped_vocabulary() -> None:
    assert subject.build().get_vocab() == TOKENIZER.get_vocab()


def test_only_the_models_turns_are_learnt() -> None:
    encoder = Encoder(TOKENIZER)
    ids, targets = encoder.encode(
        Sample([user("Hi"), assistant("Hello!"), user("Bye"), assistant("Goodbye!")])
    )
    assert len(ids) == len(targets)
    assert TOKENIZER.decode([t for t in targets if t != -100]) == "Hello!<end_of_turn>Goodbye!<end_of_turn>"
    assert all(t in (-100, following) for t, following in zip(targets, ids[1:], strict=False))


def test_every_dialogue_fits_the_context() -> None:
    rng = random.Random(9)
    assert max(len(encode(subject.render(training_dialogue(rng)))) for _ in range(500)) < 1024
