"""How much a serialized request holds, told before it is parsed.

Parsing is fast but for messages of very many small fields: 12 MB of them take up to seconds, and all the
while nothing else can run. Fields are counted here in Python, between whose steps other threads run, and no
further than to the limit.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import TypeAlias

from google.protobuf.descriptor import Descriptor

from octet.errors import InvalidRequestError, MalformedRequestError
from octet.translate.request_limits import RequestLimits

SMALL_BYTES = 64 * 1024
"""Messages up to here are parsed within milliseconds, whatever they hold."""

PICTURES: Collection[str] = frozenset(
    {
        *("octet.v1.Image.data", "octet.v1.Image.uri", "vllm.grpc.engine.MediaRef.url"),
        *("inference.InferTensorContents.bytes_contents", "inference.ModelInferRequest.raw_input_contents"),
    }
)
"""Fields that hold pictures, which have limits of their own; KServe's texts in them are counted later."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_DEPTH = 100


def check_wire(data: bytes, message: Descriptor, limits: RequestLimits) -> None:
    """Counts the fields of a serialized message, and its bytes but for pictures'.

    Args:
        data: the serialized message.
        message: what it is one of.
        limits: how much it may hold.

    Raises:
        MalformedRequestError: it is no message.
        InvalidRequestError: at the field with which it holds too much.
    """
    count = _Count(data, limits)
    try:
        count.message(0, len(data), _layout(message), 0)
    except IndexError:
        raise MalformedRequestError("", "the message ends within a field") from None
    except _TooMuch as error:
        raise InvalidRequestError(_path(message, count.numbers), str(error)) from None


def _path(message: Descriptor | None, numbers: Iterable[int]) -> str:
    """The path of a field by the numbers of those that hold it, as far as it has no index."""
    names: list[str] = []
    for number in numbers:
        field = None if message is None else message.fields_by_number.get(number)
        if field is None:
            break
        names.append(field.name)
        if field.is_repeated:
            break
        message = field.message_type
    return ".".join(names)


class _TooMuch(Exception):
    pass


class _Picture:
    pass


# By the number of a field: the layout of the messages that it holds, or that it holds a picture.
_Layout: TypeAlias = "Mapping[int, _Layout | type[_Picture]]"

_layouts: dict[str, dict[int, "_Layout | type[_Picture]"]] = {}


def _layout(message: Descriptor) -> "_Layout":
    known = _layouts.get(message.full_name)
    if known is None:
        # Messages may hold their own kind: the entry is there before its fields are.
        known = _layouts[message.full_name] = {}
        for field in message.fields:
            if field.full_name in PICTURES:
                known[field.number] = _Picture
            elif field.message_type is not None:
                known[field.number] = _layout(field.message_type)
    return known


class _Count:
    """Goes through a serialized message.

    Attributes:
        numbers: of the field that was looked at last, and before it of those that hold it.
    """

    def __init__(self, data: bytes, limits: RequestLimits) -> None:
        self.numbers: list[int] = []
        self._data = data
        self._limits = limits
        self._fields = 0
        self._text_bytes = 0

    def message(self, at: int, end: int, layout: "_Layout", depth: int) -> None:
        """Counts what stands from `at` to `end`."""
        if depth > _MAX_DEPTH:
            raise MalformedRequestError("", f"its messages are nested more than {_MAX_DEPTH} deep")
        data, numbers = self._data, self.numbers
        numbers.append(0)
        while at < end:
            begin = at
            tag = data[at]
            at += 1
            if tag & 0x80:
                tag, at = self._varint(at - 1)
            numbers[depth] = tag >> 3
            self._fields += 1
            if self._fields > self._limits.fields:
                raise _TooMuch(
                    f"takes the request to more than {self._limits.fields} fields, the limit that follows "
                    "from the model's context window; put texts together, send less data"
                )
            kind = tag & 7
            if kind == _BYTES:
                length = data[at]
                at += 1
                if length & 0x80:
                    length, at = self._varint(at - 1)
                inner = layout.get(tag >> 3)
                if at + length > end:
                    raise MalformedRequestError("", "a field is longer than the message that holds it")
                if inner is _Picture:
                    begin += length
                elif inner is not None:
                    self.message(at, at + length, inner, depth + 1)  # type: ignore[arg-type]
                    begin += length
                at += length
            elif kind == _VARINT:
                while data[at] & 0x80:
                    at += 1
                at += 1
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise MalformedRequestError("", f"a field has the wire type {kind}, which no request has")
            self._text_bytes += at - begin
            if self._text_bytes > self._limits.text_bytes:
                raise _TooMuch(
                    f"takes the request to more than {self._limits.text_bytes} bytes without its pictures, "
                    "the limit that follows from the model's context window"
                )
        numbers.pop()

    def _varint(self, at: int) -> tuple[int, int]:
        """The number that stands at `at`, and where it ends."""
        value = 0
        for shift in range(0, 70, 7):
            byte = self._data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value, at
        raise MalformedRequestError("", "a number is longer than 10 bytes")
