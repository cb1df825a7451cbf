"""Requests as vLLM's sampling parameters, and what vLLM finds wrong with them as errors that name a field."""

from typing import TYPE_CHECKING, Any

from octet.engine.types import GenerationRequest, Sampling
from octet.engine.vllm.constraint import constraint_field, structured_outputs
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
)


def to_sampling_params(
    request: GenerationRequest, *, room: int, output_token_limit: int, defaults: dict[str, Any]
) -> "SamplingParams":
    """Builds vLLM's parameters; each step's output is what it adds.

    Args:
        request: the request.
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
            structured_outputs=structured_outputs(request),
            output_kind=RequestOutputKind.DELTA,
        )
    except (VLLMClientError, ValueError, TypeError) as error:
        raise sampling_error(error) from error


def verify(llm: "AsyncLLM", request: GenerationRequest, params: "SamplingParams") -> None:
    """Lets vLLM check the parameters against the model, and compile the constraint; may take a while.

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
        if getattr(error, "parameter", None) in Sampling.__dataclass_fields__:
            raise sampling_error(error) from error
        raise InvalidRequestError(constraint_field(request), _message(error)) from error


def sampling_error(error: Exception) -> InvalidRequestError:
    """vLLM's refusal of a sampling parameter, naming the field."""
    parameter = getattr(error, "parameter", None)
    field = f"sampling.{parameter}" if parameter in Sampling.__dataclass_fields__ else "sampling"
    return InvalidRequestError(field, _message(error))


def _message(error: Exception) -> str:
    """One line; vLLM passes on what its grammar compilers print."""
    return " ".join(str(error.args[0] if error.args else type(error).__name__).split())
