"""Texts as vectors, by vLLM's pooling models."""

from typing import TYPE_CHECKING, Any

from octet.engine.types import Embedding, EmbeddingRequest, Usage, Vectors
from octet.engine.vllm.priority import fair_priority
from octet.engine.vllm.serving.render import Prompt
from octet.errors import InvalidRequestError, UnavailableError

if TYPE_CHECKING:
    from vllm.config import ModelConfig
    from vllm.lora.request import LoRARequest
    from vllm.v1.engine.async_llm import AsyncLLM


def vectors_of(model: "ModelConfig") -> Vectors:
    """What vectors a model gives."""
    dimensions = int(model.embedding_size)
    if not model.is_matryoshka:
        return Vectors(dimensions)
    named = model.matryoshka_dimensions
    return Vectors(dimensions, sorted(named) if named else range(1, dimensions + 1))


async def embed(
    llm: "AsyncLLM",
    request: EmbeddingRequest,
    prompt: Prompt,
    adapter: "LoRARequest | None",
    *,
    truncated: bool,
) -> Embedding:
    """The vector of a rendered prompt; cancelling stops the work.

    Raises:
        InvalidRequestError: vLLM refuses it.
        UnavailableError: vLLM could not finish it.
        EngineDeadError: vLLM's own, when it has died.
    """
    from vllm.exceptions import GracefulHTTPError, VLLMClientError
    from vllm.pooling_params import PoolingParams

    params = PoolingParams(task="embed", dimensions=request.dimensions, use_activation=request.normalize)
    outputs = llm.encode(
        prompt.engine_input,
        params,
        request.request_id,
        lora_request=adapter,
        trace_headers=request.trace_headers or None,
        priority=fair_priority(request.priority, request.rank),
    )
    try:
        last: Any = None
        async for output in outputs:
            last = output
    except GracefulHTTPError as error:
        raise UnavailableError(error.message) from error
    except (VLLMClientError, ValueError) as error:
        raise InvalidRequestError(request.prompt.field, str(error)) from error
    if last.error is not None:
        raise UnavailableError("the engine could not finish the request; try again")
    usage = Usage(prompt.tokens, 0, last.num_cached_tokens or 0, 0)
    return Embedding(last.outputs.data.float().tolist(), usage, truncated)
