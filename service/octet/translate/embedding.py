"""Embeddings: requests to the engine's types, and vectors to the protocol."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from octet.engine.types import Embedding, EmbeddingRequest, ModelInfo, Prompt, Vectors, total
from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits
from octet.translate.pictures import PictureReader
from octet.translate.prompt_options import to_adapter, to_cache_salt, to_priority
from octet.translate.prompts import check_prompt, pictures_of_prompt, to_prompt
from octet.translate.request import check_request_id, resolve_model
from octet.translate.request_limits import RequestLimits, check_prompt_counts
from octet.translate.response import to_usage
from octet.v1 import embedding_service_pb2

MAX_INPUTS = 1024

_NO_PICTURES = ImageLimits(max_bytes=0, max_pixels=0)


def check_input_counts(request: embedding_service_pb2.EmbedRequest, limits: RequestLimits) -> None:
    """Counts inputs and their parts; raises InvalidRequestError at the field that holds too much."""
    check_prompt_counts(request.inputs, "inputs", MAX_INPUTS, limits)


def check_embedding(
    request: embedding_service_pb2.EmbedRequest, *, model: ModelInfo, request_id: str
) -> EmbeddingRequest:
    """Checks all of a request, and converts what its inputs share.

    Args:
        request: what the client sent, whose inputs were counted.
        model: what is served.
        request_id: the request's own id, or the one that the server made.

    Returns:
        What is asked for each input, with the prompt of none.

    Raises:
        ContextLengthError: an input has more token ids than the model takes, and is not to be cut.
        InvalidRequestError: at the wrong field; the first one found.
        ModelNotFoundError: when the request names another model.
        AdapterNotFoundError: when it names an adapter that there is none of.
    """
    resolve_model(request.model, model)
    adapter = to_adapter(request.adapter, model)
    if request.request_id:
        check_request_id(request.request_id)
    shared = EmbeddingRequest(
        request_id=request_id,
        prompt=Prompt("inputs", ()),
        normalize=request.normalize if request.HasField("normalize") else None,
        dimensions=_to_dimensions(request, model),
        truncate=request.truncate,
        priority=to_priority(request.priority, model),
        adapter=adapter,
        cache_salt=to_cache_salt(request.cache_salt),
    )
    most = None if request.truncate else model.context_window
    for i, prompt in enumerate(request.inputs):
        for path, _ in pictures_of_prompt(prompt, f"inputs[{i}]"):
            raise InvalidRequestError(path, "is a picture, and vectors are made of texts only")
        check_prompt(prompt, f"inputs[{i}]", model, most_tokens=most)
    return shared


def to_embedding_request(
    request: embedding_service_pb2.EmbedRequest, index: int, shared: EmbeddingRequest, model: ModelInfo
) -> EmbeddingRequest:
    """What is asked for the input at a place of a request that `check_embedding` has checked and given."""
    prompt = to_prompt(
        request.inputs[index],
        f"inputs[{index}]",
        PictureReader(model, _NO_PICTURES),
        add_special_tokens=request.add_special_tokens if request.HasField("add_special_tokens") else True,
        parse_special_tokens=request.parse_special_tokens,
        siblings=len(request.inputs),
    )
    several = len(request.inputs) > 1
    return replace(
        shared, prompt=prompt, request_id=f"{shared.request_id}/{index}" if several else shared.request_id
    )


def to_embed_response(
    embeddings: Sequence[Embedding], *, request_id: str, model: str, create_time: datetime
) -> embedding_service_pb2.EmbedResponse:
    """Gives the vectors of all inputs, in their order; `create_time` has a time zone."""
    response = embedding_service_pb2.EmbedResponse(
        id=request_id, model=model, usage=to_usage(total(embedding.usage for embedding in embeddings))
    )
    response.create_time.FromDatetime(create_time)
    for embedding in embeddings:
        response.embeddings.add(
            values=embedding.values,
            prompt_tokens=embedding.usage.prompt_tokens,
            truncated=embedding.truncated,
        )
    return response


def _to_dimensions(request: embedding_service_pb2.EmbedRequest, model: ModelInfo) -> int | None:
    if not request.HasField("dimensions"):
        return None
    vectors = model.vectors or Vectors(0)
    if request.dimensions == vectors.dimensions:
        return None
    if request.dimensions not in vectors.offered:
        raise InvalidRequestError("dimensions", f"{request.dimensions} is not {_offered(vectors)}")
    return request.dimensions


def _offered(vectors: Vectors) -> str:
    if len(vectors.offered) == vectors.dimensions > 0:
        return f"1 to {vectors.dimensions}"
    offered = ", ".join(map(str, vectors.offered))
    whole = f"{vectors.dimensions}, the length of the model's vectors"
    return f"one of {offered}, nor {whole}" if offered else f"{whole}; it gives no shorter ones"
