"""How tokens are chosen: ranges of ChatRequest.sampling."""

import math
from collections.abc import Sequence

from octet.engine.types import ModelInfo, Sampling
from octet.errors import InvalidRequestError
from octet.v1 import chat_service_pb2

MAX_CANDIDATES = 16
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
# For a request vLLM's workers on GPUs hold 128 stop tokens, the model's own included, 1024 biases and 1024
# allowed tokens; what is longer ends them. Of 128 bad words each counts twice: it may follow a space or not.
MAX_STOP_TOKEN_IDS = 64
MAX_LOGIT_BIAS = 1024
MAX_ALLOWED_TOKEN_IDS = 1024
MAX_BAD_WORDS = 64
MAX_BAD_WORD_LENGTH = 256
MAX_TOP_LOGPROBS = 20


def to_sampling(params: chat_service_pb2.SamplingParams, vocabulary_size: int) -> Sampling:
    """Checks and converts ChatRequest.sampling; what is unset stays unset.

    Args:
        params: what the client sent.
        vocabulary_size: token ids of the model are smaller.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    sampling = Sampling(
        max_tokens=_integer(params, "max_tokens", 1),
        temperature=_number(params, "temperature", 0, 2),
        top_p=_number(params, "top_p", 0, 1, above=True),
        top_k=_integer(params, "top_k", 0),
        min_p=_number(params, "min_p", 0, 1),
        seed=_integer(params, "seed", 0),
        stop=_texts(params.stop, "stop", MAX_STOP_STRINGS, MAX_STOP_LENGTH),
        stop_token_ids=_token_ids(
            params.stop_token_ids, "stop_token_ids", MAX_STOP_TOKEN_IDS, vocabulary_size
        ),
        n=_integer(params, "n", 1, MAX_CANDIDATES) or 1,
        presence_penalty=_number(params, "presence_penalty", -2, 2),
        frequency_penalty=_number(params, "frequency_penalty", -2, 2),
        repetition_penalty=_number(params, "repetition_penalty", 0, 2, above=True),
        ignore_eos=params.ignore_eos,
        min_tokens=_integer(params, "min_tokens", 0),
        logit_bias=_logit_bias(params, vocabulary_size),
        bad_words=_bad_words(params),
        allowed_token_ids=_token_ids(
            params.allowed_token_ids, "allowed_token_ids", MAX_ALLOWED_TOKEN_IDS, vocabulary_size
        ),
        logprobs=params.logprobs,
        top_logprobs=_integer(params, "top_logprobs", 0, MAX_TOP_LOGPROBS) or 0,
        prompt_logprobs=_integer(params, "prompt_logprobs", 0, MAX_TOP_LOGPROBS),
        include_stop_string=params.include_stop_string,
        skip_special_tokens=params.skip_special_tokens if params.HasField("skip_special_tokens") else True,
        max_reasoning_tokens=_integer(params, "max_reasoning_tokens", 0),
    )
    _check_consistent(sampling)
    return sampling


def check_reasoning(sampling: Sampling, model: ModelInfo) -> None:
    """Refuses a limit of what a model thinks that does not do so apart from its answer.

    Raises:
        InvalidRequestError: at the field.
    """
    if sampling.max_reasoning_tokens is not None and not model.limits_reasoning:
        raise InvalidRequestError(
            "sampling.max_reasoning_tokens",
            "is set, but this server tells no reasoning from answers (--reasoning-parser); leave it out",
        )


def check_unconstrained(sampling: Sampling, by: str) -> None:
    """Refuses what could leave no token at all where decoding is constrained as well.

    Args:
        sampling: of a request that constrains decoding.
        by: the field that does so.

    Raises:
        InvalidRequestError: at the field that excludes tokens.
    """
    for name in ("allowed_token_ids", "bad_words", "min_tokens", "ignore_eos"):
        if getattr(sampling, name):
            raise InvalidRequestError(
                f"sampling.{name}", f"could exclude every token that {by} permits; set one of the two"
            )


def _check_consistent(sampling: Sampling) -> None:
    if sampling.n > 1 and sampling.temperature == 0:
        raise InvalidRequestError(
            "sampling.n",
            f"asks for {sampling.n} equal answers, as temperature 0 is greedy; raise it, or ask for 1",
        )
    if (
        sampling.min_tokens is not None
        and sampling.max_tokens is not None
        and sampling.min_tokens > sampling.max_tokens
    ):
        raise InvalidRequestError(
            "sampling.min_tokens", f"{sampling.min_tokens} is more than max_tokens, {sampling.max_tokens}"
        )
    if sampling.top_logprobs and not sampling.logprobs:
        raise InvalidRequestError("sampling.top_logprobs", "is of use with logprobs only; set that as well")


def _integer(
    params: chat_service_pb2.SamplingParams, name: str, low: int, high: int | None = None
) -> int | None:
    if not params.HasField(name):
        return None
    value: int = getattr(params, name)
    if value < low or (high is not None and value > high):
        allowed = f"at least {low}" if high is None else f"{low} to {high}"
        raise InvalidRequestError(f"sampling.{name}", f"{value} is not {allowed}")
    return value


def _number(
    params: chat_service_pb2.SamplingParams, name: str, low: float, high: float, *, above: bool = False
) -> float | None:
    if not params.HasField(name):
        return None
    value: float = getattr(params, name)
    # NaN fails every comparison.
    if not (low < value <= high if above else low <= value <= high) or not math.isfinite(value):
        allowed = f"above {low:g}, at most {high:g}" if above else f"{low:g} to {high:g}"
        raise InvalidRequestError(f"sampling.{name}", f"{value:g} is not {allowed}")
    return value


def _texts(texts: Sequence[str], name: str, most: int, longest: int) -> tuple[str, ...]:
    if len(texts) > most:
        raise InvalidRequestError(
            f"sampling.{name}", f"has {len(texts)} texts, more than the {most} that are allowed"
        )
    for i, text in enumerate(texts):
        if not 1 <= len(text) <= longest:
            raise InvalidRequestError(
                f"sampling.{name}[{i}]", f"has {len(text)} characters, not 1 to {longest}"
            )
    return tuple(texts)


def _bad_words(params: chat_service_pb2.SamplingParams) -> tuple[str, ...]:
    words = _texts(params.bad_words, "bad_words", MAX_BAD_WORDS, MAX_BAD_WORD_LENGTH)
    for i, word in enumerate(words):
        if not word.strip():
            raise InvalidRequestError(f"sampling.bad_words[{i}]", "has white space only")
    return words


def _token_ids(ids: Sequence[int], name: str, most: int, vocabulary_size: int) -> tuple[int, ...]:
    if len(ids) > most:
        raise InvalidRequestError(
            f"sampling.{name}", f"has {len(ids)} ids, more than the {most} that are allowed"
        )
    for i, token_id in enumerate(ids):
        check_token_id(token_id, f"sampling.{name}[{i}]", vocabulary_size)
    return tuple(ids)


def _logit_bias(params: chat_service_pb2.SamplingParams, vocabulary_size: int) -> dict[int, float]:
    if len(params.logit_bias) > MAX_LOGIT_BIAS:
        raise InvalidRequestError(
            "sampling.logit_bias",
            f"has {len(params.logit_bias)} entries, more than the {MAX_LOGIT_BIAS} that are allowed",
        )
    for token_id, bias in params.logit_bias.items():
        field = f"sampling.logit_bias[{token_id}]"
        check_token_id(token_id, field, vocabulary_size)
        # NaN fails every comparison.
        if not -100 <= bias <= 100:
            raise InvalidRequestError(field, f"{bias:g} is not -100 to 100")
    return dict(params.logit_bias)


def check_token_id(token_id: int, field: str, vocabulary_size: int) -> None:
    """Raises InvalidRequestError at `field` when `token_id` is not in the vocabulary."""
    if not 0 <= token_id < vocabulary_size:
        raise InvalidRequestError(
            field, f"{token_id} is no token id; the model's are 0 to {vocabulary_size - 1}"
        )
