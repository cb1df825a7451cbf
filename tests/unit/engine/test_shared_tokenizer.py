"""One tokenizer for all threads: as right as copies, and never loaded or copied again."""

import copy
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from transformers import AutoTokenizer

from octet import demo
from octet.engine.vllm import compat

TEXTS = [f"number {n} of many " * (1 + n * 7 % 90) for n in range(64)]


@pytest.fixture(scope="module")
def shared() -> Any:
    """The demo's tokenizer as vLLM's renderer makes it, for its threads."""
    from vllm.renderers import hf

    compat.tokenizers.share_tokenizer()
    return hf.maybe_make_thread_pool(copy.copy(AutoTokenizer.from_pretrained(str(demo.PATH))), 2)


def test_many_threads_get_what_one_gets(shared: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = AutoTokenizer.from_pretrained(str(demo.PATH))
    expected = [alone.encode(text) for text in TEXTS]

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the tokenizer is copied")

    monkeypatch.setattr(copy, "deepcopy", refuse)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(shared.encode, TEXTS)) == expected
        assert list(threads.map(shared.decode, expected)) == [alone.decode(ids) for ids in expected]


@pytest.mark.parametrize(
    ("options", "verb"), [({"truncation": True, "max_length": 3}, "cut"), ({"padding": "max_length"}, "fill")]
)
def test_nobody_changes_it_for_the_others(shared: Any, options: dict[str, Any], verb: str) -> None:
    whole = shared.encode(TEXTS[9])
    with pytest.raises(ValueError, match=verb):
        shared(TEXTS[9], **options)
    assert shared.encode(TEXTS[9]) == whole


@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("most", [None, 1, 7, 10_000])
def test_vllm_cuts_tokens_where_it_is_asked_to(shared: Any, most: int | None, side: str | None) -> None:
    """A gateway may ask for it; nobody has to change the tokenizer for that."""
    from vllm.inputs import TokensPrompt
    from vllm.renderers import TokenizeParams

    params = TokenizeParams(
        max_total_tokens=20_000, truncate_prompt_tokens=most, truncation_side=side, add_special_tokens=False
    )
    whole = shared.encode(TEXTS[9], add_special_tokens=False)
    encoded = shared(TEXTS[9], **params.get_encode_kwargs())["input_ids"]
    assert encoded == whole
    cut = params.apply_post_tokenization(shared, TokensPrompt(prompt_token_ids=encoded))["prompt_token_ids"]
    kept = len(whole) if most is None else min(most, len(whole))
    assert cut == (whole[-kept:] if (side or shared.truncation_side) == "left" else whole[:kept])


def test_it_stays_as_it_is_when_done_again(shared: Any) -> None:
    from vllm.renderers import hf

    find = hf._try_get_processor_chat_template
    compat.tokenizers.share_tokenizer()
    compat.tokenizers.share_processors()
    compat.tokenizers.share_processors()
    assert hf._try_get_processor_chat_template is find
