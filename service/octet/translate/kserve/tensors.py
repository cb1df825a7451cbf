"""The tensors that there are; their elements out of requests and into responses."""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from octet.errors import InvalidRequestError
from octet.kserve import grpc_service_pb2

ONE, ANY = 1, -1
"""Shapes of one dimension: one element, and any number of them."""

_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor of the model.

    Attributes:
        name: its name.
        datatype: BYTES, BOOL, UINT32 or FP32.
        dim: its one dimension, ONE or ANY.
    """

    name: str
    datatype: str
    dim: int = ONE


INPUTS = {
    spec.name: spec
    for spec in (
        Spec("text_input", "BYTES"),
        Spec("image", "BYTES", ANY),
        Spec("stream", "BOOL"),
        Spec("sampling_parameters", "BYTES"),
        Spec("exclude_input_in_output", "BOOL"),
        Spec("return_finish_reason", "BOOL"),
        Spec("return_cumulative_logprob", "BOOL"),
        Spec("return_logprobs", "BOOL"),
        Spec("return_num_input_tokens", "BOOL"),
        Spec("return_num_output_tokens", "BOOL"),
    )
}
"""What a request may hold; only `text_input` it must."""

OUTPUTS = {
    spec.name: spec
    for spec in (
        Spec("text_output", "BYTES", ANY),
        Spec("finish_reason", "BYTES", ANY),
        Spec("cumulative_logprob", "FP32", ANY),
        Spec("logprobs", "BYTES", ANY),
        Spec("num_input_tokens", "UINT32"),
        Spec("num_output_tokens", "UINT32", ANY),
    )
}
"""What a response may hold, in this order."""

# By datatype: the field of InferTensorContents.
_FIELDS = {
    "BOOL": "bool_contents",
    "UINT32": "uint_contents",
    "FP32": "fp32_contents",
    "BYTES": "bytes_contents",
}


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a tensor.

    Attributes:
        field: path of the field that holds it.
        label: what stands for it in descriptions: the tensor's name, with a place where there are several.
        value: bytes, or a bool.
    """

    field: str
    label: str
    value: Any

    def error(self, problem: str, within: str = "") -> InvalidRequestError:
        """What is wrong with it, or with what it holds at `within`, such as ".temperature"."""
        return InvalidRequestError(self.field, f"{self.label}{within}: {problem}")


def read_inputs(request: grpc_service_pb2.ModelInferRequest, most: int) -> dict[str, list[Element]]:
    """The elements of a request's inputs, at least one of each, by the tensors' names.

    Args:
        request: what the client sent.
        most: elements that a tensor of any number may have.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        raise InvalidRequestError(
            "raw_input_contents",
            f"has {len(raw)} entries for {len(request.inputs)} inputs; give one for each, or none at all",
        )
    found: dict[str, list[Element]] = {}
    for i, tensor in enumerate(request.inputs):
        spec = INPUTS.get(tensor.name)
        if spec is None:
            raise InvalidRequestError(
                f"inputs[{i}].name", f"{_quoted(tensor.name)} is no input; use {', '.join(INPUTS)}"
            )
        if spec.name in found:
            raise InvalidRequestError(f"inputs[{i}].name", f"{spec.name} is there twice; give it once")
        count = _check_tensor(tensor, f"inputs[{i}]", spec, raw=bool(raw))
        if spec.dim == ANY and count > most:
            problem = f"has {count} elements, more than the {most} that the model takes in a request"
            raise InvalidRequestError(f"inputs[{i}].shape", f"{spec.name}: {problem}")
        if raw:
            found[spec.name] = _read_raw(raw[i], f"raw_input_contents[{i}]", spec, count)
        else:
            found[spec.name] = _read_contents(tensor.contents, f"inputs[{i}].contents", spec, count)
    return found


def check_outputs(outputs: Sequence[Any]) -> frozenset[str] | None:
    """The names of a request's `outputs`; None where it has none.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    names: set[str] = set()
    for i, output in enumerate(outputs):
        if output.name not in OUTPUTS:
            raise InvalidRequestError(
                f"outputs[{i}].name", f"{_quoted(output.name)} is no output; use {', '.join(OUTPUTS)}"
            )
        if output.name in names:
            raise InvalidRequestError(f"outputs[{i}].name", f"{output.name} is there twice; give it once")
        _check_no_parameters(output.parameters, f"outputs[{i}].parameters")
        names.add(output.name)
    return frozenset(names) or None


def write_output(
    response: grpc_service_pb2.ModelInferResponse, spec: Spec, values: Sequence[Any], *, raw: bool
) -> None:
    """Adds an output.

    Args:
        response: where it goes.
        spec: the tensor.
        values: its elements; bytes for BYTES.
        raw: whether they go into `raw_output_contents`.
    """
    tensor = response.outputs.add(name=spec.name, datatype=spec.datatype, shape=[len(values)])
    if raw:
        response.raw_output_contents.append(b"".join(map(_PACK[spec.datatype], values)))
    else:
        getattr(tensor.contents, _FIELDS[spec.datatype]).extend(values)


def _pack_bytes(value: bytes) -> bytes:
    return _LENGTH.pack(len(value)) + value


_PACK: dict[str, Callable[[Any], bytes]] = {
    "BYTES": _pack_bytes,
    "UINT32": _LENGTH.pack,
    "FP32": struct.Struct("<f").pack,
}


def _check_tensor(tensor: Any, path: str, spec: Spec, *, raw: bool) -> int:
    """Checks what is said of a tensor; gives how many elements it is to have."""
    if tensor.datatype != spec.datatype:
        raise InvalidRequestError(
            f"{path}.datatype", f"{_quoted(tensor.datatype)} is not {spec.name}'s; use {spec.datatype}"
        )
    shape = tensor.shape
    if len(shape) != 1 or shape[0] < 1 or (spec.dim == ONE and shape[0] != 1):
        given = f"{list(shape[:8])}" if len(shape) <= 8 else f"of {len(shape)} dimensions"
        wanted = "[1]" if spec.dim == ONE else "[n] with n elements, at least one; without any leave it out"
        raise InvalidRequestError(f"{path}.shape", f"{given} is not {spec.name}'s, {wanted}")
    _check_no_parameters(tensor.parameters, f"{path}.parameters")
    if raw and tensor.HasField("contents"):
        raise InvalidRequestError(
            f"{path}.contents", "is set beside raw_input_contents; use one of the two for all inputs"
        )
    return int(shape[0])


def _check_no_parameters(parameters: Any, path: str) -> None:
    for name in parameters:
        raise InvalidRequestError(
            path, f"{_quoted(name)} is not known; tensors have no parameters, nor shared memory, here"
        )


def _read_raw(data: bytes, path: str, spec: Spec, count: int) -> list[Element]:
    if spec.datatype == "BOOL":
        if len(data) != count:
            raise InvalidRequestError(path, f"{spec.name}: has {len(data)} bytes for {count} of BOOL")
        values: list[Any] = []
        for byte in data:
            if byte > 1:
                raise InvalidRequestError(path, f"{spec.name}: {byte} is neither 0 nor 1")
            values.append(bool(byte))
    else:
        values = _split(data, path, spec, count)
    return [Element(path, _label(spec, j), value) for j, value in enumerate(values)]


def _split(data: bytes, path: str, spec: Spec, count: int) -> list[bytes]:
    """The elements of BYTES, each of which stands behind its length."""
    values: list[bytes] = []
    at = 0
    while at < len(data):
        begin = at + _LENGTH.size
        if begin > len(data):
            raise InvalidRequestError(
                path, f"{_label(spec, len(values))}: its length has {len(data) - at} bytes, not 4"
            )
        (length,) = _LENGTH.unpack_from(data, at)
        at = begin + length
        if at > len(data):
            raise InvalidRequestError(
                path,
                f"{_label(spec, len(values))}: should have {length} bytes, and {len(data) - begin} are left",
            )
        values.append(data[begin:at])
        if len(values) > count:
            raise InvalidRequestError(path, f"{spec.name}: has more elements than its shape, [{count}]")
    if len(values) != count:
        raise InvalidRequestError(path, f"{spec.name}: has {len(values)} elements; its shape is [{count}]")
    return values


def _read_contents(contents: Any, path: str, spec: Spec, count: int) -> list[Element]:
    wanted = _FIELDS[spec.datatype]
    for field, _ in contents.ListFields():
        if field.name != wanted:
            raise InvalidRequestError(
                f"{path}.{field.name}", f"is not where {spec.datatype} belongs; set {wanted}"
            )
    values = getattr(contents, wanted)
    if len(values) != count:
        raise InvalidRequestError(
            f"{path}.{wanted}", f"{spec.name}: has {len(values)} elements; its shape is [{count}]"
        )
    return [Element(f"{path}.{wanted}[{j}]", _label(spec, j), value) for j, value in enumerate(values)]


def _label(spec: Spec, place: int) -> str:
    return spec.name if spec.dim == ONE else f"{spec.name}[{place}]"


def _quoted(name: str) -> str:
    return repr(name[:64])
