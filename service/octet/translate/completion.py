"""Completions: requests to the engine's types, and what the engine gives as chunks and whole answers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from octet.engine.types import (
    CandidateFinished,
    Deltas,
    Event,
    GenerationRequest,
    LogprobsDelta,
    ModelInfo,
    PromptAccepted,
    TextDelta,
    ToolChoice,
    Usage,
    total,
)
from octet.errors import InvalidRequestError
from octet.pictures.decode import decode_here
from octet.translate.chunks import CompletionAccumulator
from octet.translate.logprobs import to_positions
from octet.translate.media import Decode, ImageLimits
from octet.translate.output_format import to_output_format
from octet.translate.pictures import PictureReader, check_pictures
from octet.translate.prompt_options import to_adapter, to_cache_salt, to_pan_and_scan, to_priority
from octet.translate.prompts import check_prompt, pictures_of_prompt, to_prompt
from octet.translate.request import check_request_id, resolve_model
from octet.translate.request_limits import RequestLimits, check_prompt_counts
from octet.translate.response import add_end, to_usage
from octet.translate.sampling import check_unconstrained, to_sampling
from octet.translate.schemas import SchemaReader
from octet.v1 import completion_service_pb2

MAX_PROMPTS = 64
MAX_COMPLETIONS = 256
"""Of all prompts of a request together."""


def check_completion_counts(request: completion_service_pb2.CompletionRequest, limits: RequestLimits) -> None:
    """Counts prompts and their parts; raises InvalidRequestError at the field that holds too much."""
    check_prompt_counts(request.prompts, "prompts", MAX_PROMPTS, limits)


def check_completion(
    request: completion_service_pb2.CompletionRequest,
    *,
    model: ModelInfo,
    limits: ImageLimits,
    fetches: bool,
    request_id: str,
) -> GenerationRequest:
    """Checks all of a request but what only decoding pictures can tell, and converts what its prompts share.

    Args:
        request: what the client sent, whose prompts were counted.
        model: what is served.
        limits: of pictures.
        fetches: whether pictures that are elsewhere will be fetched.
        request_id: the request's own id, or the one that the server made.

    Returns:
        What is asked for each prompt, without a prompt.

    Raises:
        InvalidRequestError: at the wrong field; the first one found.
        ModelNotFoundError: when the request names another model.
        AdapterNotFoundError: when it names an adapter that there is none of.
    """
    resolve_model(request.model, model)
    adapter = to_adapter(request.adapter, model)
    if request.request_id:
        check_request_id(request.request_id)
    output_format = None
    if request.HasField("output_format"):
        output_format = to_output_format(request.output_format, ToolChoice(), SchemaReader())
    sampling = to_sampling(request.sampling, model.vocabulary_size)
    if sampling.max_reasoning_tokens is not None:
        raise InvalidRequestError(
            "sampling.max_reasoning_tokens",
            "is of no use with raw prompts: all that follows is text, reasoning included; leave it out",
        )
    if output_format is not None:
        check_unconstrained(sampling, "output_format")
    if sampling.n * len(request.prompts) > MAX_COMPLETIONS:
        raise InvalidRequestError(
            "sampling.n",
            f"asks for {sampling.n} completions of each of {len(request.prompts)} prompts, more than "
            f"{MAX_COMPLETIONS} together",
        )
    shared = GenerationRequest(
        request_id=request_id,
        sampling=sampling,
        output_format=output_format,
        priority=to_priority(request.priority, model),
        adapter=adapter,
        cache_salt=to_cache_salt(request.cache_salt),
        pan_and_scan=to_pan_and_scan(request.image_options, model),
    )
    for i, prompt in enumerate(request.prompts):
        # A token of the answer needs a place as well.
        check_prompt(prompt, f"prompts[{i}]", model, most_tokens=model.context_window - 1)
        check_pictures(pictures_of_prompt(prompt, f"prompts[{i}]"), limits, fetches=fetches)
    return shared


def to_completion(
    request: completion_service_pb2.CompletionRequest,
    index: int,
    shared: GenerationRequest,
    *,
    model: ModelInfo,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
    decode: Decode = decode_here,
) -> GenerationRequest:
    """What is asked for the prompt at a place, its pictures decoded.

    Args:
        request: what the client sent, which was checked.
        index: of the prompt.
        shared: what `check_completion` gave.
        model: what is served.
        limits: of pictures.
        fetched: the files that `octet.translate.pictures.uris_of` named, by their URIs.
        decode: decodes pictures.

    Raises:
        InvalidRequestError: at a picture that is wrong.
    """
    prompt = to_prompt(
        request.prompts[index],
        f"prompts[{index}]",
        PictureReader(model, limits, fetched, shared.pan_and_scan, decode),
        add_special_tokens=request.add_special_tokens if request.HasField("add_special_tokens") else True,
        parse_special_tokens=request.parse_special_tokens
        if request.HasField("parse_special_tokens")
        else True,
        siblings=len(request.prompts),
    )
    several = len(request.prompts) > 1
    return replace(
        shared, prompt=prompt, request_id=f"{shared.request_id}/{index}" if several else shared.request_id
    )


def begin_chunk(
    *, request_id: str, model: str, create_time: datetime
) -> completion_service_pb2.CompletionChunk:
    """Gives what the first chunk says of the request; `create_time` has a time zone."""
    chunk = completion_service_pb2.CompletionChunk(id=request_id, model=model)
    chunk.create_time.FromDatetime(create_time)
    return chunk


def add_event(
    chunk: completion_service_pb2.CompletionChunk, prompt_index: int, event: Event, *, complete: bool
) -> None:
    """Adds to a chunk what an event of a prompt tells.

    Args:
        chunk: the chunk.
        prompt_index: the prompt's place.
        event: what the engine gave.
        complete: whether all completions of the prompt have ended with it.
    """
    if isinstance(event, PromptAccepted):
        usage = Usage(event.prompt_tokens, 0, 0, event.image_tokens)
        chunk.prompts.add(prompt_index=prompt_index, usage=to_usage(usage))
        return
    if complete or event.prompt_logprobs:
        update = chunk.prompts.add(prompt_index=prompt_index)
        update.prompt_logprobs.extend(to_positions(event.prompt_logprobs))
        if complete:
            update.usage.CopyFrom(to_usage(event.usage))
    deltas: dict[int, completion_service_pb2.CompletionDelta] = {}
    for delta in event.deltas:
        found = deltas.get(delta.index)
        if found is None:
            found = deltas[delta.index] = completion_service_pb2.CompletionDelta(
                prompt_index=prompt_index, index=delta.index
            )
        match delta:
            case TextDelta():
                found.text += delta.text
            case LogprobsDelta():
                found.logprobs.extend(to_positions(delta.positions))
            case CandidateFinished():
                add_end(found, delta)
            case _:
                raise AssertionError(f"a raw prompt's answer has no {type(delta).__name__}")
    chunk.deltas.extend(
        found for found in deltas.values() if found.text or found.logprobs or found.finish_reason
    )


def to_completion_response(
    events: Sequence[tuple[int, Event]],
    *,
    prompts: int,
    request_id: str,
    model: str,
    create_time: datetime,
) -> completion_service_pb2.CompletionResponse:
    """Gives the whole answer out of all events of a request, each with its prompt's place.

    Args:
        events: all that the engine gave, of each prompt in order.
        prompts: how many the request has.
        request_id: the request's id.
        model: the served name of the model.
        create_time: when the server took the request, with a time zone.
    """
    answer = CompletionAccumulator(prompts)
    answer.add(begin_chunk(request_id=request_id, model=model, create_time=create_time))
    usages = [Usage(0, 0, 0, 0)] * prompts
    for index, event in events:
        chunk = completion_service_pb2.CompletionChunk()
        add_event(chunk, index, event, complete=isinstance(event, Deltas))
        if isinstance(event, Deltas):
            usages[index] = event.usage
        answer.add(chunk)
    answer.add(completion_service_pb2.CompletionChunk(usage=to_usage(total(usages))))
    return answer.response()
