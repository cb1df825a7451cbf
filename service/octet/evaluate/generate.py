"""Asks two models the same, without chance, and finds where their answers part."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from octet.engine.vllm.serving.scoring import Answer, scorer
from octet.evaluate.comparing import EvaluationError, Progress, check_tokens

PROMPTS = (
    "What is the capital of France, and which river flows through it?",
    "Explain in three sentences why the sky is blue.",
    "A train leaves at 14:35 and travels for 2 hours and 50 minutes. When does it arrive?",
    "Write a Python function that says whether a word is a palindrome.",
    "Translate into German: The library is closed on Mondays.",
    "List five things to take on a hike in the mountains.",
    "Write the first four sentences of a story about a lighthouse keeper.",
    "Give me a JSON object with the name, age and city of an invented person.",
)
"""Asked where no others are given: facts, reasoning, code, another language, a list, prose, a form."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two models' answers to one prompt.

    Attributes:
        prompt: the prompt.
        first: the first model's answer.
        second: the second one's.
        common: how many tokens they begin with in common; where they are not equal, the index of the first
            that differs, or is there in one of them only.
        equal: whether they are the same tokens.
    """

    prompt: str
    first: str
    second: str
    common: int
    equal: bool


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two models' answers to all prompts.

    Attributes:
        pairs: one for each prompt, in their order.
        equal: share of prompts whose answers are equal.
        mean_common: mean over prompts of the tokens that the answers begin with in common.
    """

    pairs: list[Pair]
    equal: float
    mean_common: float


async def compare(
    first: str,
    second: str,
    prompts: Sequence[str],
    max_tokens: int,
    engine_flags: Sequence[str],
    progress: Progress,
) -> Comparison:
    """Has both models answer the prompts greedily, one after the other.

    Prompts are asked one at a time: what a model computes in a batch may differ in the last bits, and
    answers with them.

    Args:
        first: a directory or a hub id.
        second: another.
        prompts: what each is asked.
        max_tokens: most tokens of an answer.
        engine_flags: vLLM's, for both.
        progress: told of answers.

    Raises:
        EvaluationError: there is no prompt, or they do not make the same tokens of one.
        InvalidRequestError: a prompt does not fit into a model's context.
        StartupError: a model cannot be run.
    """
    if not prompts:
        raise EvaluationError("there are no prompts")
    check_tokens(first, [second], prompts, engine_flags)
    answers = [await _ask(name, prompts, max_tokens, engine_flags, progress) for name in (first, second)]
    both = zip(prompts, *answers, strict=True)
    return summarize([pair(prompt, one, other, first, second) for prompt, one, other in both])


async def _ask(
    model: str, prompts: Sequence[str], max_tokens: int, engine_flags: Sequence[str], progress: Progress
) -> list[Answer]:
    answers = []
    progress(model, 0, 0)
    async with scorer(model, engine_flags) as running:
        for number, prompt in enumerate(prompts, 1):
            answers.append(await running.answer(prompt, max_tokens))
            progress(model, number, len(prompts))
    return answers


def summarize(pairs: list[Pair]) -> Comparison:
    """All of them, of which there is one at least, as one comparison."""
    return Comparison(
        pairs,
        equal=sum(each.equal for each in pairs) / len(pairs),
        mean_common=sum(each.common for each in pairs) / len(pairs),
    )


def pair(prompt: str, one: Answer, other: Answer, first: str, second: str) -> Pair:
    """Compares what the models `first` and `second` answer to a prompt.

    Raises:
        EvaluationError: they were asked different tokens.
    """
    if one.prompt != other.prompt:
        raise EvaluationError(f"{second} has another chat template than {first}")
    both = zip(one.tokens, other.tokens, strict=False)
    common = sum(1 for _ in takewhile(lambda tokens: tokens[0] == tokens[1], both))
    return Pair(prompt, one.text, other.text, common, one.tokens == other.tokens)
