"""Raw prompts, their completions and their vectors as Python objects."""

import os
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias, TypedDict

from octet.client.images import is_decoded, to_image
from octet.client.requests import SamplingOptions, sampling_params
from octet.v1 import chat_service_pb2, completion_service_pb2, embedding_service_pb2, prompt_pb2

if TYPE_CHECKING:
    from PIL import Image

PromptPart: TypeAlias = "str | Sequence[int] | os.PathLike[str] | bytes | Image.Image"
"""A text, token ids, or a picture: the path of a file as `pathlib.Path`, its bytes, or a decoded picture."""

PromptSource: TypeAlias = str | Sequence[int] | prompt_pb2.Prompt
"""A text, token ids, or what `prompt` makes."""

Prompts: TypeAlias = PromptSource | Sequence[PromptSource]
"""One prompt, or several."""


class CompletionOptions(SamplingOptions, total=False):
    """What a completion may be given besides the prompts; all of it is optional.

    Attributes:
        output_format: a form that each completion must have.
        model: a served model's name; default: the server's first.
        request_id: the request's id; default: a new one.
        priority: smaller goes first, on a server that schedules by priority.
        adapter: the LoRA adapter to answer with.
        cache_salt: only requests with the same salt share cached prompt prefixes.
        pan_and_scan: whether Gemma 3 also looks at crops of each picture.
        add_special_tokens: whether tokens such as the one that begins a sequence are put around prompts that
            do not have them; default: they are.
        parse_special_tokens: whether names of special tokens in texts become these tokens; default: they do.
        timeout: seconds until the call ends with DEADLINE_EXCEEDED; default: the client's.
    """

    output_format: chat_service_pb2.OutputFormat
    model: str
    request_id: str
    priority: int
    adapter: str
    cache_salt: str
    pan_and_scan: bool
    add_special_tokens: bool
    parse_special_tokens: bool
    timeout: float


class EmbedOptions(TypedDict, total=False):
    """What may be given besides the texts whose vectors are asked for; all of it is optional.

    Attributes:
        normalize: whether vectors are scaled to length 1; default: as the model's configuration says.
        dimensions: how many numbers of each vector to give, of models that are trained for that.
        truncate: whether texts that are too long are cut; default: they are refused.
        model: a served model's name; default: the server's first.
        request_id: the request's id; default: a new one.
        priority: smaller goes first, on a server that schedules by priority.
        adapter: the LoRA adapter to answer with.
        cache_salt: only requests with the same salt share cached prompt prefixes.
        add_special_tokens: whether tokens such as those that begin and end a sequence are put around texts;
            default: they are.
        parse_special_tokens: whether names of special tokens in texts become these tokens; default: they do
            not.
        timeout: seconds until the call ends with DEADLINE_EXCEEDED; default: the client's.
    """

    normalize: bool
    dimensions: int
    truncate: bool
    model: str
    request_id: str
    priority: int
    adapter: str
    cache_salt: str
    add_special_tokens: bool
    parse_special_tokens: bool
    timeout: float


@dataclass(frozen=True, slots=True)
class Completions:
    """What came of one or more prompts. `text`, `finish_reason` and `stop` speak of the first one's first
    completion.

    Attributes:
        response: everything that the server gave.
    """

    response: completion_service_pb2.CompletionResponse

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.response.id

    @property
    def texts(self) -> list[str]:
        """The text of each prompt's first completion, in the prompts' order."""
        return [result.completions[0].text if result.completions else "" for result in self.response.results]

    @property
    def text(self) -> str:
        """The first prompt's."""
        return self.texts[0]

    @property
    def finish_reason(self) -> str:
        """Why it ended: "STOP", "LENGTH", "CANCELLED" or "SCHEMA_VIOLATED"; "UNSPECIFIED" when it has not."""
        completions = self.response.results[0].completions
        reason = completions[0].finish_reason if completions else 0
        name: str = chat_service_pb2.FinishReason.Name(reason)
        return name.removeprefix("FINISH_REASON_")

    @property
    def stop(self) -> str | int | None:
        """The stop string that ended it, or the id of the token that did; None where nothing written did."""
        [first] = self.response.results[0].completions[:1] or [completion_service_pb2.Completion()]
        which = first.WhichOneof("stop")
        return getattr(first, which) if which else None

    @property
    def usage(self) -> chat_service_pb2.Usage:
        """What all prompts cost, in tokens."""
        return self.response.usage


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The vectors of one or more texts.

    Attributes:
        response: everything that the server gave.
    """

    response: embedding_service_pb2.EmbedResponse

    @property
    def request_id(self) -> str:
        """The request's id."""
        return self.response.id

    @property
    def vectors(self) -> list[list[float]]:
        """The texts' vectors, in their order."""
        return [list(embedding.values) for embedding in self.response.embeddings]

    @property
    def usage(self) -> chat_service_pb2.Usage:
        """What all texts cost, in tokens."""
        return self.response.usage


def prompt(*parts: PromptPart) -> prompt_pb2.Prompt:
    """A prompt of texts, token ids and pictures, in this order.

    Raises:
        OSError: when a picture's file cannot be read.
    """
    made = prompt_pb2.Prompt()
    for part in parts:
        if isinstance(part, str):
            made.parts.add(text=part)
        elif isinstance(part, bytes | os.PathLike) or is_decoded(part):
            made.parts.add(image=to_image(part))
        else:
            made.parts.add(tokens=prompt_pb2.TokenIds(ids=part))
    return made


def completion_request(
    prompts: Prompts, options: CompletionOptions
) -> completion_service_pb2.CompletionRequest:
    """The request for completions. It always has an id, so that it can be cancelled by id.

    Raises:
        TypeError: when an option is unknown or of the wrong type.
    """
    _check_known(set(options), CompletionOptions)
    request = completion_service_pb2.CompletionRequest(
        model=options.get("model", ""),
        prompts=_prompts(prompts),
        sampling=sampling_params(options),
        request_id=options.get("request_id") or uuid.uuid4().hex,
        priority=options.get("priority", 0),
        adapter=options.get("adapter", ""),
        cache_salt=options.get("cache_salt", ""),
        add_special_tokens=options.get("add_special_tokens"),
        parse_special_tokens=options.get("parse_special_tokens"),
        output_format=options.get("output_format"),
    )
    if "pan_and_scan" in options:
        request.image_options.pan_and_scan = options["pan_and_scan"]
    return request


def embed_request(texts: Prompts, options: EmbedOptions) -> embedding_service_pb2.EmbedRequest:
    """The request for vectors. It always has an id, so that it can be cancelled by id.

    Raises:
        TypeError: when an option is unknown or of the wrong type.
    """
    _check_known(set(options), EmbedOptions)
    return embedding_service_pb2.EmbedRequest(
        model=options.get("model", ""),
        inputs=_prompts(texts),
        normalize=options.get("normalize"),
        dimensions=options.get("dimensions"),
        truncate=options.get("truncate", False),
        request_id=options.get("request_id") or uuid.uuid4().hex,
        priority=options.get("priority", 0),
        adapter=options.get("adapter", ""),
        cache_salt=options.get("cache_salt", ""),
        add_special_tokens=options.get("add_special_tokens"),
        parse_special_tokens=options.get("parse_special_tokens"),
    )


def _prompts(prompts: Prompts) -> list[prompt_pb2.Prompt]:
    if isinstance(prompts, str | prompt_pb2.Prompt):
        return [_prompt(prompts)]
    # A list of numbers is one prompt of token ids.
    if prompts and isinstance(prompts[0], int):
        return [prompt(prompts)]  # type: ignore[arg-type]
    return [_prompt(source) for source in prompts]  # type: ignore[arg-type]


def _prompt(source: PromptSource) -> prompt_pb2.Prompt:
    return source if isinstance(source, prompt_pb2.Prompt) else prompt(source)


def _check_known(options: set[str], known: type) -> None:
    if unknown := options - known.__annotations__.keys():
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
