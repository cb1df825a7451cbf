"""How tokens are chosen: ranges of ChatRequest.sampling."""

import math

from octet.engine.types import Sampling
from octet.errors import InvalidRequestError
from octet.v1 import chat_service_pb2

MAX_CANDIDATES = 16
MAX_STOP_STRINGS = 16
MAX_STOP_LENGTH = 256
MAX_STOP_TOKEN_IDS = 256


def to_sampling(params: chat_service_pb2.SamplingParams) -> Sampling:
    """Checks and converts ChatRequest.sampling; what is unset stays unset.

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
        stop=_stop(params),
        stop_token_ids=_stop_token_ids(params),
        n=_integer(params, "n", 1, MAX_CANDIDATES) or 1,
        presence_penalty=_number(params, "presence_penalty", -2, 2),
        frequency_penalty=_number(params, "frequency_penalty", -2, 2),
        repetition_penalty=_number(params, "repetition_penalty", 0, 2, above=True),
        ignore_eos=params.ignore_eos,
        min_tokens=_integer(params, "min_tokens", 0),
    )
    _check_consistent(sampling)
    return sampling


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


def _stop(params: chat_service_pb2.SamplingParams) -> tuple[str, ...]:
    if len(params.stop) > MAX_STOP_STRINGS:
        raise InvalidRequestError(
            "sampling.stop",
            f"has {len(params.stop)} texts, more than the {MAX_STOP_STRINGS} that are allowed",
        )
    for i, text in enumerate(params.stop):
        if not 1 <= len(text) <= MAX_STOP_LENGTH:
            raise InvalidRequestError(
                f"sampling.stop[{i}]", f"has {len(text)} characters, not 1 to {MAX_STOP_LENGTH}"
            )
    return tuple(params.stop)


def _stop_token_ids(params: chat_service_pb2.SamplingParams) -> tuple[int, ...]:
    if len(params.stop_token_ids) > MAX_STOP_TOKEN_IDS:
        raise InvalidRequestError(
            "sampling.stop_token_ids",
            f"has {len(params.stop_token_ids)} ids, more than the {MAX_STOP_TOKEN_IDS} that are allowed",
        )
    for i, token_id in enumerate(params.stop_token_ids):
        if token_id < 0:
            raise InvalidRequestError(f"sampling.stop_token_ids[{i}]", f"{token_id} is not a token id")
    return tuple(params.stop_token_ids)
