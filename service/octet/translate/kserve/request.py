"""A ModelInferRequest as the CompletionRequest that it stands for."""

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError, ModelNotFoundError
from octet.kserve import grpc_service_pb2
from octet.translate.kserve.sampling import NAMES, Where, read_json, read_sampling, text_of
from octet.translate.kserve.tensors import Element, check_outputs, read_inputs
from octet.translate.request import resolve_model
from octet.translate.request_limits import limits_of
from octet.v1 import completion_service_pb2

VERSION = "1"
"""The one version of every model."""

MAX_ID_LENGTH = 128

# What base64 may be broken up by.
_WHITE_SPACE = b" \t\r\n"
# Of the tensors that ask for an output, this prefix; the rest is the output's name.
_RETURN = "return_"
_FIRST_STEP = re.compile(r"sampling\.[a-z_]+|output_format|adapter|priority")
_PICTURE = re.compile(r"prompts\[0\]\.parts\[(\d+)\]\.image")


@dataclass(frozen=True, slots=True)
class Inference:
    """What a ModelInferRequest asks for.

    Attributes:
        completion: the same as a request for one prompt's completions.
        model_name: the model's name.
        id: the request's id, which its responses carry.
        outputs: names of the outputs that are wanted.
        raw: whether responses carry their elements in `raw_output_contents`.
        streams: whether the text is wanted as it is produced.
        prefix: what stands before each completion in `text_output`.
        counts_positions: whether tokens are counted for each completion by itself, by log probabilities.
        gives_logprobs: whether the request asks for log probabilities of each token.
        timeout_seconds: its own deadline; None for none.
        found: where values came from, by their paths in `completion`.
    """

    completion: completion_service_pb2.CompletionRequest
    model_name: str
    id: str
    outputs: frozenset[str]
    raw: bool
    streams: bool
    prefix: str
    counts_positions: bool
    gives_logprobs: bool
    timeout_seconds: float | None
    found: Mapping[str, Where]

    @contextmanager
    def own_paths(self) -> Iterator[None]:
        """Has what is wrong with `completion` said of the fields that it came from."""
        try:
            yield
        except InvalidRequestError as error:
            raise self._at_its_field(error) from error

    def _at_its_field(self, error: InvalidRequestError) -> InvalidRequestError:
        if picture := _PICTURE.match(error.field):
            where = self.found[picture[0]]
            return type(error)(where.field, f"{where.label}: {error.message}")
        if step := _FIRST_STEP.match(error.field):
            where = self.found.get(step[0], self.found["prompts[0]"])
            rest = error.field[step.end() :]
            label = f"{where.label}{rest}: " if where.label or rest else ""
            return type(error)(where.field, f"{label}{error.message}")
        where = self.found["prompts[0]"]
        return type(error)(where.field, f"{where.label}: {error.message}")


def to_inference(
    request: grpc_service_pb2.ModelInferRequest, model: ModelInfo, *, streaming: bool
) -> Inference:
    """Checks a request's tensors and parameters, and converts them.

    What they hold is checked with the CompletionRequest, within `Inference.own_paths`. The request is left
    without its contents, which may be large.

    Args:
        request: what the client sent.
        model: what is served.
        streaming: whether a response may come in pieces.

    Raises:
        InvalidRequestError: at the wrong field; the first one found.
        ModelNotFoundError: it names another model, or another version.
    """
    name = find_model(request.model_name, request.model_version, model, "model_name")
    if len(request.id) > MAX_ID_LENGTH:
        raise InvalidRequestError(
            "id", f"has {len(request.id)} characters, more than the {MAX_ID_LENGTH} that are allowed"
        )
    inputs = read_inputs(request, model.max_images)
    raw = bool(request.raw_input_contents)
    _let_go_of_contents(request)
    asked = check_outputs(request.outputs)
    if "text_input" not in inputs:
        raise InvalidRequestError("inputs", "has no text_input, the prompt")
    _check_size(inputs, model)
    options = _read_parameters(request.parameters)
    given = (
        {**options.sampling, **read_json(inputs["sampling_parameters"][0])}
        if ("sampling_parameters" in inputs)
        else options.sampling
    )
    read = read_sampling(given)
    completion = completion_service_pb2.CompletionRequest(
        model=name, sampling=read.sampling, adapter=read.adapter, priority=options.priority
    )
    if read.output_format is not None:
        completion.output_format.CopyFrom(read.output_format)
    text = text_of(inputs["text_input"][0])
    found = {**read.found, **options.found, **_add_prompt(completion, text, inputs, model)}
    streams = _flag(inputs, "stream")
    if streams and not streaming:
        raise inputs["stream"][0].error("is true, but ModelInfer gives one response; call ModelStreamInfer")
    outputs = asked or frozenset({"text_output"} | _returned(inputs))
    gives_logprobs = completion.sampling.logprobs
    counts = "num_output_tokens" in outputs and completion.sampling.n > 1
    if counts or "cumulative_logprob" in outputs:
        completion.sampling.logprobs = True
    return Inference(
        completion=completion,
        model_name=name,
        id=request.id,
        outputs=outputs,
        raw=raw,
        streams=streams,
        prefix=text if _prepends(inputs, streams) else "",
        counts_positions=counts,
        gives_logprobs=gives_logprobs,
        timeout_seconds=options.timeout_seconds,
        found=found,
    )


def find_model(name: str, version: str, model: ModelInfo, field: str = "name") -> str:
    """The served name that a request names.

    Raises:
        InvalidRequestError: it names none.
        ModelNotFoundError: that is not served, or not in this version.
    """
    if not name:
        raise InvalidRequestError(field, f"is empty; name the model, such as {model.names[0]}")
    found = resolve_model(name, model)
    if version not in ("", VERSION):
        raise ModelNotFoundError(f"{found} has no version {version[:64]!r}; use {VERSION}, or leave it out")
    return found


@dataclass(slots=True)
class _Options:
    """What a request's `parameters` say."""

    sampling: dict[str, tuple[Any, Where]]
    found: dict[str, Where]
    priority: int = 0
    timeout_seconds: float | None = None


def _read_parameters(parameters: Any) -> _Options:
    options = _Options({}, {})
    for name in sorted(parameters):
        kind = parameters[name].WhichOneof("parameter_choice")
        where = Where(f"parameters[{name}]")
        if name not in NAMES and name not in ("priority", "timeout", "triton_enable_empty_final_response"):
            # Names may be long, and hold what is no part of a path.
            raise InvalidRequestError(
                "parameters", f"{name[:64]!r} is not known; sampling parameters, priority and timeout are"
            )
        if kind is None:
            raise where.error("has no value")
        value = getattr(parameters[name], kind)
        if name == "priority":
            options.priority = _whole(value, where, 2**31 - 1)
            options.found["priority"] = where
        elif name == "timeout":
            microseconds = _whole(value, where, 2**63 - 1)
            options.timeout_seconds = 1e-6 * microseconds if microseconds else None
        elif name in NAMES:
            options.sampling[name] = (value, where)
        elif not isinstance(value, bool):
            raise where.error("is not true or false")
    return options


def _whole(value: Any, where: Where, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= most:
        raise where.error(f"is not a whole number, 0 to {most}")
    return value


def _check_size(inputs: Mapping[str, list[Element]], model: ModelInfo) -> None:
    """Holds texts to what a whole request may hold without its pictures."""
    most = limits_of(model).text_bytes
    for name in ("text_input", "sampling_parameters"):
        for element in inputs.get(name, ()):
            if len(element.value) > most:
                raise element.error(
                    f"has {len(element.value)} bytes, more than the {most} that follow from the model's "
                    "context window"
                )


def _add_prompt(
    completion: completion_service_pb2.CompletionRequest,
    text: str,
    inputs: Mapping[str, list[Element]],
    model: ModelInfo,
) -> dict[str, Where]:
    """Adds the prompt, with its pictures where the text has their mark; says where its parts came from."""
    prompt = inputs["text_input"][0]
    found = {"prompts[0]": Where(prompt.field, prompt.label)}
    pictures = inputs.get("image", [])
    pieces = text.split(model.picture_mark) if model.picture_mark else [text]
    if len(pieces) == 1:
        # Without a mark they come first.
        pieces = [""] * len(pictures) + pieces
    if len(pieces) != len(pictures) + 1:
        raise prompt.error(
            f"has {len(pieces) - 1} times {model.picture_mark}, and image has {len(pictures)} elements; each "
            "time the mark stands for one picture"
        )
    parts = completion.prompts.add().parts
    for place, piece in enumerate(pieces):
        if piece:
            parts.add(text=piece)
        if place < len(pictures):
            element = pictures[place]
            found[f"prompts[0].parts[{len(parts)}].image"] = Where(element.field, element.label)
            parts.add().image.data = _file(element)
    if not parts:
        raise prompt.error("is empty; a prompt needs a text")
    return found


def _file(element: Element) -> bytes:
    """The picture's file that an element holds in base64."""
    data = bytes(element.value).translate(None, _WHITE_SPACE)
    try:
        file = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise element.error("is not base64 of a picture's file") from None
    if not file:
        raise element.error("is empty; leave it out")
    return file


def _flag(inputs: Mapping[str, list[Element]], name: str, default: bool = False) -> bool:
    return bool(inputs[name][0].value) if name in inputs else default


def _returned(inputs: Mapping[str, list[Element]]) -> set[str]:
    """The outputs that are asked for by inputs."""
    return {name.removeprefix(_RETURN) for name in inputs if name.startswith(_RETURN) and _flag(inputs, name)}


def _prepends(inputs: Mapping[str, list[Element]], streams: bool) -> bool:
    """Whether the prompt's text goes before what follows on it; by default where the answer is whole.

    Raises:
        InvalidRequestError: a stream is to begin with its prompt.
    """
    prepends = not _flag(inputs, "exclude_input_in_output", default=streams)
    if prepends and streams:
        raise inputs["exclude_input_in_output"][0].error("is false, but a stream never repeats its prompt")
    return prepends


def _let_go_of_contents(request: grpc_service_pb2.ModelInferRequest) -> None:
    request.ClearField("raw_input_contents")
    for tensor in request.inputs:
        tensor.ClearField("contents")
