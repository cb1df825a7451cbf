"""Requests as vLLM's sampling parameters, and what vLLM finds wrong with them as errors that name a field."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octet.engine.types import GenerationRequest, Sampling
from octet.engine.vllm import compat
from octet.engine.vllm.constraints.request import Constraint
from octet.errors import InvalidRequestError

if TYPE_CHECKING:
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

# Fields of Sampling whose name and meaning vLLM shares and whose None means "the model's default".
_SHARED = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "seed",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "prompt_logprobs",
)

# Ours by vLLM's names, where they differ.
_FIELDS = {
    "include_stop_str_in_output": "include_stop_string",
    "logprobs": "top_logprobs",
    "thinking_token_budget": "max_reasoning_tokens",
}

# vLLM's workers on GPUs hold as many tokens of bad words for one request, and what is longer ends them.
_MAX_BAD_WORD_TOKENS = 1024


def to_sampling_params(
    request: GenerationRequest,
    *,
    constraint: Constraint | None,
    room: int,
    output_token_limit: int,
    defaults: dict[str, Any],
) -> "SamplingParams":
    """Builds vLLM's parameters; each step's output is what it adds.

    Args:
        request: the request.
        constraint: what the answer is held to, already compiled once.
        room: tokens of the context that the prompt leaves.
        output_token_limit: most tokens of an answer when the request names none.
        defaults: the sampling defaults of the model's generation config, by vLLM's names.

    Raises:
        InvalidRequestError: vLLM does not take a value.
    """
    from vllm.exceptions import VLLMClientError
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    sampling = request.sampling
    values = {name: value for name in _SHARED if (value := getattr(sampling, name)) is not None}
    defaults = {name: value for name, value in defaults.items() if name != "max_tokens"}
    max_tokens = min(room, sampling.max_tokens or output_token_limit)
    if sampling.min_tokens is not None and sampling.min_tokens > max_tokens:
        raise InvalidRequestError(
            "sampling.min_tokens",
            f"{sampling.min_tokens} tokens are more than the answer's limit of {max_tokens}",
        )
    try:
        return SamplingParams(
            **(defaults | values),
            n=sampling.n,
            max_tokens=max_tokens,
            stop=list(sampling.stop),
            stop_token_ids=list(sampling.stop_token_ids),
            ignore_eos=sampling.ignore_eos,
            logit_bias=dict(sampling.logit_bias) or None,
            allowed_token_ids=list(sampling.allowed_token_ids) or None,
            logprobs=sampling.top_logprobs if sampling.logprobs else None,
            flat_logprobs=True,
            include_stop_str_in_output=sampling.include_stop_string,
            skip_special_tokens=sampling.skip_special_tokens,
            thinking_token_budget=sampling.max_reasoning_tokens,
            structured_outputs=compat.constraints.checked(*constraint.grammars) if constraint else None,
            output_kind=RequestOutputKind.DELTA,
        )
    except (VLLMClientError, ValueError, TypeError) as error:
        raise sampling_error(error) from error


def verify(llm: "AsyncLLM", request: GenerationRequest, params: "SamplingParams") -> None:
    """Lets vLLM check the parameters against the model; may take a while where words are to be tokenized.

    Raises:
        InvalidRequestError: vLLM refuses them.
    """
    from vllm.exceptions import VLLMClientError

    config = llm.vllm_config
    try:
        params.verify(
            config.model_config,
            config.speculative_config,
            config.structured_outputs_config,
            llm.renderer.tokenizer,
        )
    except (VLLMClientError, ValueError) as error:
        raise sampling_error(error) from error
    if request.sampling.bad_words:
        params._bad_words_token_ids = _bad_word_tokens(request.sampling.bad_words, llm.renderer.tokenizer)
    if params.allowed_token_ids:
        _verify_some_are_allowed(llm, params)


def sampling_error(error: Exception) -> InvalidRequestError:
    """vLLM's refusal of a sampling parameter, naming the field."""
    field = _field(error)
    return InvalidRequestError("sampling" if field is None else f"sampling.{field}", _message(error))


def _bad_word_tokens(words: Sequence[str], tokenizer: Any) -> list[list[int]]:
    """The token sequences that write bad words, at the beginning of a word and inside one.

    vLLM's own `bad_words` leave the one after a space out wherever that takes fewer tokens, and so let most
    words through.

    Raises:
        InvalidRequestError: a word has no tokens, or all together have too many.
    """
    sequences: dict[tuple[int, ...], None] = {}
    for i, word in enumerate(words):
        for text in (word, f" {word}"):
            tokens = tuple(tokenizer.encode(text, add_special_tokens=False))
            if not tokens:
                raise InvalidRequestError(f"sampling.bad_words[{i}]", "is nothing that the model could write")
            sequences[tokens] = None
    if (length := sum(map(len, sequences))) > _MAX_BAD_WORD_TOKENS:
        raise InvalidRequestError(
            "sampling.bad_words",
            f"have {length} tokens, with and without a space before them, more than the "
            f"{_MAX_BAD_WORD_TOKENS} that are allowed",
        )
    return [list(tokens) for tokens in sequences]


def _verify_some_are_allowed(llm: "AsyncLLM", params: "SamplingParams") -> None:
    """Raises InvalidRequestError when all allowed tokens may be excluded at once."""
    excluded = {tokens[-1] for tokens in params.bad_words_token_ids or ()}
    if params.min_tokens:
        # As vLLM completes its own copy when the request is added.
        completed = params.clone()
        completed.update_from_generation_config(
            llm.input_processor.generation_config_fields, llm.renderer.get_eos_token_id()
        )
        excluded |= completed.all_stop_token_ids
    if excluded.issuperset(params.allowed_token_ids or ()):
        raise InvalidRequestError(
            "sampling.allowed_token_ids",
            "leaves nothing to be sampled, as each of them ends a bad word, or the answer before min_tokens",
        )


def _field(error: Exception) -> str | None:
    """The field of Sampling that vLLM's refusal is about; None when it names none."""
    parameter = getattr(error, "parameter", None)
    field = _FIELDS.get(str(parameter), parameter)
    return field if field in Sampling.__dataclass_fields__ else None


def _message(error: Exception) -> str:
    """One line; vLLM passes on what its grammar compilers print."""
    return " ".join(str(error.args[0] if error.args else type(error).__name__).split())
