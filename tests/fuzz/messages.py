"""Messages of any type, out of its descriptor: every field set or not, with values around what is allowed."""

from functools import cache
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import strategies as st

from tests.fuzz.constraints import grammars, regexes, schema_texts, schemas
from tests.fuzz.pictures import picture_files, picture_uris
from tests.fuzz.tool_text import tool_texts

NAMES = ("f", "get_weather", "db.query", "a-b")
"""Of tools."""

REQUEST_IDS = ("a", "b", "c")

_DEPTH = 7

# Text that is like any other, and text that is not.
texts = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "Hello there.",
            " ",
            "\0",
            "\ufeff",
            "é" * 7,
            "𝒳",
            "\u202e\u0301",
            "<start_of_turn>user\n",
            "<bos>",
        ]
    ),
    st.text(max_size=40),
    st.builds(str.__mul__, st.text(min_size=1, max_size=3), st.sampled_from([1, 10, 129, 257, 5000])),
)

_INT32 = st.one_of(
    st.integers(-3, 20),
    st.sampled_from([2**31 - 1, -(2**31), 4096, 65536, 1000, 999, 257]),
    st.integers(-(2**31), 2**31 - 1),
)
_INT64 = st.one_of(_INT32, st.sampled_from([2**63 - 1, -(2**63), 2**53 + 1]))
_FLOATS = st.one_of(
    st.sampled_from([0.0, 1.0, -0.0, 0.5, 2.0, -2.0, float("nan"), float("inf"), -float("inf"), 1e-30, 1e38]),
    st.floats(width=32),
)
_SCALARS: dict[int, st.SearchStrategy[Any]] = {
    FieldDescriptor.TYPE_BOOL: st.booleans(),
    FieldDescriptor.TYPE_INT32: _INT32,
    FieldDescriptor.TYPE_INT64: _INT64,
    FieldDescriptor.TYPE_UINT32: _INT32.map(abs).map(lambda number: min(number, 2**32 - 1)),
    FieldDescriptor.TYPE_UINT64: _INT64.map(abs),
    FieldDescriptor.TYPE_FLOAT: _FLOATS,
    FieldDescriptor.TYPE_DOUBLE: st.one_of(_FLOATS, st.floats()),
    FieldDescriptor.TYPE_STRING: texts,
    FieldDescriptor.TYPE_BYTES: st.binary(max_size=40),
}

json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.floats(), texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=12,
)
json_objects = st.dictionaries(texts, json_values, max_size=4)


@st.composite
def json_texts(draw: st.DrawFn) -> str:
    """JSON, nearly JSON, and very deep JSON."""
    import json

    form = draw(st.integers(0, 4))
    if form == 0:
        depth = draw(st.sampled_from([3, 24, 25, 100, 1000, 20_000]))
        return '{"a":' * depth + "1" + "}" * depth
    text = json.dumps(draw(json_objects), ensure_ascii=draw(st.booleans()))
    if form == 1:
        at = draw(st.integers(0, len(text)))
        return (
            text[:at]
            + draw(st.sampled_from(["", ",", '"', "\\", "\\ud800", "}", "[", "NaN", "1e999", "\0"]))
            + text[at + draw(st.integers(0, 2)) :]
        )
    return text


# What makes sense in fields of a name, wherever they are.
_BY_NAME: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["", "fake", "fake", "nobody"]),
    "name": st.one_of(st.sampled_from([*NAMES, "fake", ""]), texts),
    "allowed_names": st.sampled_from([*NAMES, *NAMES, ""]),
    "request_id": st.one_of(st.sampled_from(["", *REQUEST_IDS]), texts),
    "request_ids": st.one_of(st.sampled_from(REQUEST_IDS), texts),
    "call_id": st.sampled_from(["c1", "c2", ""]),
    "id": st.sampled_from(["c1", "c2", ""]),
    "adapter": st.sampled_from(["", "", "pirate", "nobody"]),
    "arguments_json": json_texts(),
    "parameters_json": schema_texts(),
    "json_schema_text": schema_texts(),
    "regex": regexes(),
    "grammar": grammars(),
    "data": picture_files(),
    "uri": picture_uris(),
    "mime_type": st.sampled_from(
        ["", "image/png", "image/jpeg", "image/webp", "image/gif", "text/html", "\0"]
    ),
    "text": st.one_of(texts, tool_texts(NAMES)),
    "max_tokens": st.one_of(st.integers(1, 24), _INT32),
    "path": st.sampled_from(
        ["good", "good/", "other", "broken", "empty", "missing", "out", "../root/good", "/etc", "x" * 2000]
    ),
    "service": st.sampled_from(["", "octet.v1.ChatService", "grpc.health.v1.Health", "nobody"]),
    "file_containing_symbol": st.one_of(
        st.sampled_from(
            ["octet.v1.ChatService", "octet.v1.ChatService.Chat", "octet.v1.ChatRequest.model", "."]
        ),
        texts,
    ),
    "file_by_filename": st.sampled_from(["octet/v1/tool.proto", "/etc/passwd", ""]),
    "containing_type": st.sampled_from(["octet.v1.ChatRequest", "google.protobuf.MethodOptions", ""]),
    "start_token_ids": st.integers(0, 300),
}
_STRUCTS: dict[str, st.SearchStrategy[Any]] = {"json_schema": schemas(), "parameters": schemas()}


@cache
def structs(values: st.SearchStrategy[Any] = json_objects) -> st.SearchStrategy[Struct]:
    """Structs that hold objects."""
    return values.map(to_struct)


def to_struct(value: dict[str, Any]) -> Struct:
    """The Struct of an object, with what is no JSON as well: infinities and values of no kind."""
    struct = Struct()
    for name, inner in value.items():
        _set(struct.fields[name], inner)
    return struct


def _set(target: Value, value: Any) -> None:
    if isinstance(value, bool):
        target.bool_value = value
    elif isinstance(value, int | float):
        target.number_value = value
    elif isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.list_value.SetInParent()
        for item in value:
            _set(target.list_value.values.add(), item)
    elif isinstance(value, dict):
        target.struct_value.CopyFrom(to_struct(value))
    elif value is None:
        target.null_value = 0  # type: ignore[assignment]


@st.composite
def messages(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> Any:
    """A message of a type."""
    message = GetMessageClass(kind)()
    # Most fields are left out: a request is refused for the first thing that is wrong with it.
    share = draw(st.sampled_from([2, 4, 9]))
    for field in kind.fields:
        if draw(st.integers(0, share)) == 0:
            set_field(draw, message, field, depth)
    return message


def set_field(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int = 0) -> None:
    """Sets a field of a message to something."""
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        _set_map(draw, message, field, depth)
    elif field.is_repeated:
        values = [_value(draw, field, depth) for _ in range(draw(st.integers(0, 3)))]
        message.ClearField(field.name)
        # Sometimes very many.
        times = draw(st.sampled_from([1, 1, 1, 1, 1, 1, 20, 700]))
        getattr(message, field.name).extend(values * times)
    elif field.message_type is not None:
        getattr(message, field.name).CopyFrom(_value(draw, field, depth))
    else:
        setattr(message, field.name, _value(draw, field, depth))


def _set_map(draw: st.DrawFn, message: Any, field: FieldDescriptor, depth: int) -> None:
    key, value = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    target = getattr(message, field.name)
    for _ in range(draw(st.integers(0, 3))):
        name = _value(draw, key, depth)
        if value.message_type is None:
            target[name] = _value(draw, value, depth)
        else:
            target[name].CopyFrom(_value(draw, value, depth))


def _value(draw: st.DrawFn, field: FieldDescriptor, depth: int) -> Any:
    kind = field.message_type
    if kind is not None:
        if kind.full_name == Struct.DESCRIPTOR.full_name:
            return draw(structs(_STRUCTS.get(field.name, json_objects)))
        if kind.full_name in (Value.DESCRIPTOR.full_name, ListValue.DESCRIPTOR.full_name):
            return GetMessageClass(kind)()
        return GetMessageClass(kind)() if depth > _DEPTH else draw(messages(kind, depth + 1))
    if field.enum_type is not None:
        return draw(st.one_of(st.sampled_from([value.number for value in field.enum_type.values]), _INT32))
    special = _BY_NAME.get(field.name)
    if special is not None and _fits(field) and draw(st.integers(0, 5)):
        return draw(special)
    return draw(_SCALARS[field.type])


def _fits(field: FieldDescriptor) -> bool:
    """Whether a field has the type that its name has in Octet's API."""
    wanted = {"data": FieldDescriptor.TYPE_BYTES, "max_tokens": FieldDescriptor.TYPE_INT32}
    return field.type == wanted.get(field.name, FieldDescriptor.TYPE_STRING)
