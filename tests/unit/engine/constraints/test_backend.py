"""What vLLM's engine core does with constraints, with the demo checkpoint's vocabulary."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer
from vllm.exceptions import VLLMValidationError
from vllm.sampling_params import SamplingParams, StructuredOutputsParams
from vllm.v1.structured_output.backend_guidance import GuidanceGrammar
from vllm.v1.structured_output.backend_types import StructuredOutputOptions

from octet import demo
from octet.engine.vllm import compat
from octet.engine.vllm.constraints import grammars
from octet.engine.vllm.constraints.backend import Backend, Following
from octet.engine.vllm.constraints.grammars import ALTERNATIVE, MARK
from octet.engine.vllm.constraints.lexemes import to_lark
from octet.engine.vllm.constraints.reasons import TOO_SLOW

SIZE = 1024
GRAMMAR = StructuredOutputOptions.GRAMMAR
AMBIGUOUS = grammars.of_lark(to_lark('root ::= e "#"\ne ::= e e e | e e | [a-z ]'))


@pytest.fixture(scope="module")
def backend() -> Backend:
    model = SimpleNamespace(try_get_generation_config=lambda: {"eos_token_id": [1, 106]})
    structured = SimpleNamespace(disable_any_whitespace=False, disable_additional_properties=False)
    config: Any = SimpleNamespace(structured_outputs_config=structured, model_config=model)
    tokenizer: Any = AutoTokenizer.from_pretrained(str(demo.PATH))
    return Backend(config, tokenizer=tokenizer, vocab_size=SIZE)


def follow(backend: Backend, grammar: str) -> Following:
    following = backend.compile_grammar(GRAMMAR, MARK + grammar)
    assert isinstance(following, Following)
    return following


def allowed(backend: Backend, following: Following) -> set[int]:
    mask = backend.allocate_token_bitmask(1)
    following.fill_bitmask(mask, 0)
    return {token for token in range(SIZE) if mask[0, token // 32] >> (token % 32) & 1}


def tokens(backend: Backend, text: str) -> list[int]:
    ids: list[int] = backend.tokenizer.encode(text, add_special_tokens=False)
    return ids


def test_an_answer_is_followed_to_its_end(backend: Backend) -> None:
    following = follow(backend, grammars.of_choice(["yes", "no"]))
    begins = allowed(backend, following)
    assert tokens(backend, "yes")[0] in begins
    assert tokens(backend, "x")[0] not in begins
    assert following.accept_tokens("r", tokens(backend, "yes"))
    # The tokenizer's end, and the model's own.
    assert allowed(backend, following) == {1, 106}
    assert not following.is_terminated()
    assert following.accept_tokens("r", [106])
    assert following.is_terminated()
    following.rollback(1)
    assert not following.is_terminated()
    following.reset()
    assert allowed(backend, following) == begins


def test_an_answer_that_goes_on_is_followed_from_there(backend: Backend) -> None:
    grammar = grammars.of_choice(["yes", "yellow", "no"])
    following = follow(backend, grammars.begun_with(grammar, "ye"))
    begins = allowed(backend, following)
    assert {tokens(backend, text)[0] for text in ("s", "l")} <= begins
    assert not {tokens(backend, text)[0] for text in ("y", "n", "e")} & begins
    assert following.accept_tokens("r", tokens(backend, "s"))
    assert allowed(backend, following) == {1, 106}
    following.reset()
    assert allowed(backend, following) == begins
    assert allowed(backend, follow(backend, grammars.begun_with(grammar, "no"))) == {1, 106}
    assert follow(backend, grammars.begun_with(grammar, "x")).failure


def test_any_of_several_ways_goes_on_from_there(backend: Backend) -> None:
    ways = [grammars.of_choice(texts) for texts in (["yes", "yellow"], ["year", "yes!"])]
    following = follow(backend, ALTERNATIVE.join(grammars.begun_with(way, "ye") for way in ways))
    begins = allowed(backend, following)
    assert {tokens(backend, text)[0] for text in ("s", "l", "a")} <= begins
    assert tokens(backend, "y")[0] not in begins
    assert following.accept_tokens("r", tokens(backend, "s"))
    assert allowed(backend, following) == {1, 106, *tokens(backend, "!")}
    following.rollback(1)
    assert allowed(backend, following) == begins
    assert following.accept_tokens("r", tokens(backend, "a"))
    assert not {1, 106} & allowed(backend, following)
    following.reset()
    assert allowed(backend, following) == begins


def test_drafts_are_looked_at_without_taking_them(backend: Backend) -> None:
    following = follow(backend, grammars.of_regex("[a-z]+"))
    good, bad = tokens(backend, "abc"), tokens(backend, "7")
    assert following.validate_tokens([*good, *bad, *good]) == good
    assert following.validate_tokens([-1, *good]) == []
    assert following.accept_tokens("r", good)
    following.rollback(len(good))
    assert following.validate_tokens(good) == good


EITHER = (grammars.of_choice(["yes", "yellow"]), grammars.of_regex("ye[a-z]*!"))


def test_an_answer_satisfies_any_of_several_constraints(backend: Backend) -> None:
    one, other = (follow(backend, grammar) for grammar in EITHER)
    both = follow(backend, ALTERNATIVE.join(EITHER))
    assert allowed(backend, both) == allowed(backend, one) | allowed(backend, other)
    for text, ends in (("yes", True), ("yes!", True), ("yeah", False), ("ye", False)):
        both = follow(backend, ALTERNATIVE.join(EITHER))
        assert both.accept_tokens("r", tokens(backend, text)), text
        assert ({1, 106} <= allowed(backend, both)) is ends
        assert both.accept_tokens("r", [1]) is ends
    both = follow(backend, ALTERNATIVE.join(EITHER))
    assert not both.accept_tokens("r", tokens(backend, "no"))
    assert both.failure


def test_what_was_taken_back_may_be_on_another_way(backend: Backend) -> None:
    both = follow(backend, ALTERNATIVE.join(EITHER))
    begins = allowed(backend, both)
    for text in ("yellow", "yearn!", "yes"):
        ids = tokens(backend, text)
        assert both.validate_tokens([*ids, *tokens(backend, "7")]) == ids
        assert both.accept_tokens("r", ids)
        assert both.accept_tokens("r", [1])
        both.rollback(len(ids) + 1)
        assert allowed(backend, both) == begins
    ids = [token for text in ("y", "e", "s") for token in tokens(backend, text)]
    assert both.accept_tokens("r", [*ids, *tokens(backend, "!")])
    both.rollback(1)
    assert {1, 106} <= allowed(backend, both)
    both.rollback(3)
    assert allowed(backend, both) == begins


def test_what_leaves_the_constraint_fails(backend: Backend) -> None:
    following = follow(backend, grammars.of_regex("[a-z]+"))
    assert not following.accept_tokens("r", tokens(backend, "7"))
    assert following.failure
    assert not following.accept_tokens("r", tokens(backend, "a"))


def test_an_end_in_the_middle_fails(backend: Backend) -> None:
    following = follow(backend, grammars.of_regex("[a-z]{9}"))
    assert not following.accept_tokens("r", [1])
    assert "no text satisfies" in following.failure


def test_a_constraint_that_cannot_be_compiled_fails_and_raises_nothing(backend: Backend) -> None:
    assert "unclosed" in follow(backend, grammars.of_regex("(")).failure


def test_an_ambiguous_grammar_is_ended(backend: Backend) -> None:
    following = follow(backend, AMBIGUOUS)
    letter = tokens(backend, "a")
    for _ in range(200):
        allowed(backend, following)
        if not following.accept_tokens("r", letter):
            break
    assert following.failure == TOO_SLOW
    assert allowed(backend, following) <= {1, 106}


def test_time_that_was_not_spent_is_not_saved_up(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    following = follow(backend, grammars.of_regex("a*"))
    spent = iter(range(10_000))
    assert following.accept_tokens("r", tokens(backend, "a") * 500)
    monkeypatch.setattr("octet.engine.vllm.constraints.backend.time.thread_time", lambda: next(spent) * 0.3)
    assert not following.accept_tokens("r", tokens(backend, "a"))
    assert following.failure == TOO_SLOW


def test_what_octet_did_not_check_goes_to_vllm(backend: Backend) -> None:
    assert isinstance(backend.compile_grammar(StructuredOutputOptions.REGEX, "[a-z]+"), GuidanceGrammar)


def test_the_manager_says_why_a_request_ends(backend: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    import vllm.v1.engine.core
    from vllm.v1 import structured_output

    manager = structured_output.StructuredOutputManager
    monkeypatch.setattr(manager, "accept_tokens", manager.accept_tokens)
    monkeypatch.setattr(structured_output, "GuidanceBackend", structured_output.GuidanceBackend)
    assert vllm.v1.engine.core
    for _ in range(2):
        compat.constraints.follow()
    following = follow(backend, grammars.of_regex("[a-z]+"))
    wanted = SimpleNamespace(grammar=following, reasoning_ended=None)
    request: Any = SimpleNamespace(
        use_structured_output=True, structured_output_request=wanted, request_id="r", stop_reason=None
    )
    own: Any = SimpleNamespace(
        _get_constraint_bounds=lambda *_, **__: structured_output.ConstraintBounds(0, 0)
    )
    assert manager.accept_tokens(own, request, tokens(backend, "ab"))
    assert request.stop_reason is None
    assert not manager.accept_tokens(own, request, tokens(backend, "7"))
    assert str(request.stop_reason).startswith(compat.constraints.FAILURE)
    assert structured_output.GuidanceBackend is Backend


def validate(wanted: StructuredOutputsParams, monkeypatch: pytest.MonkeyPatch) -> SamplingParams:
    monkeypatch.setattr(
        SamplingParams, "_validate_structured_outputs", SamplingParams._validate_structured_outputs
    )
    compat.constraints.check_with(lambda grammar: ("unclosed group", "") if "(" in grammar else ("", grammar))
    params = SamplingParams(structured_outputs=wanted)
    params._validate_structured_outputs(None, None, None)
    return params


@pytest.mark.parametrize(
    "wanted",
    [
        StructuredOutputsParams(json='{"type": "object"}'),
        StructuredOutputsParams(json={"type": "object"}),
        StructuredOutputsParams(json_object=True),
        StructuredOutputsParams(regex="[a-z]+"),
        StructuredOutputsParams(choice=["a", "b"]),
        StructuredOutputsParams(grammar='root ::= "a"'),
        StructuredOutputsParams(grammar=MARK + 'root ::= "a"'),
    ],
)
def test_constraints_of_gateways(wanted: StructuredOutputsParams, monkeypatch: pytest.MonkeyPatch) -> None:
    checked = validate(wanted, monkeypatch).structured_outputs
    assert checked is not None
    assert checked.grammar.startswith(MARK + "{")
    assert checked._backend == "guidance"


@pytest.mark.parametrize(
    ("wanted", "problem"),
    [
        (StructuredOutputsParams(json='{"not": {}}'), "not cannot be enforced"),
        (StructuredOutputsParams(json='{"type": "strng"}'), "is not a JSON Schema"),
        (StructuredOutputsParams(json="[1]"), "is not a JSON object"),
        (StructuredOutputsParams(json='{"type": "array", "uniqueItems": true}'), "uniqueItems cannot"),
        (StructuredOutputsParams(regex="("), "unclosed group"),
        (StructuredOutputsParams(regex="\\"), "ends with a backslash"),
        (StructuredOutputsParams(regex="a" * 9000), "has 9000 characters"),
        (StructuredOutputsParams(structural_tag="{}"), "nothing that is served"),
    ],
)
def test_constraints_of_gateways_that_are_refused(
    wanted: StructuredOutputsParams, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VLLMValidationError, match=problem):
        validate(wanted, monkeypatch)


def test_masks_are_as_wide_as_the_vocabulary(backend: Backend) -> None:
    mask = backend.allocate_token_bitmask(2)
    assert mask.dtype == torch.int32
    assert mask.shape == (2, SIZE // 32)
