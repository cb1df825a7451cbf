import json
import math
from typing import Any

import pytest
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from octet.translate.values import MAX_DEPTH, dict_to_struct, parse_json_object, struct_to_dict
from octet.v1 import chat_service_pb2

# A Struct tells no int from a whole float and keeps 53 bits.
_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=6)
)
_keys = st.text(max_size=4)
_values = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_keys, inner, max_size=3),
    max_leaves=6,
)
_objects = st.dictionaries(_keys, _values, max_size=4)


@given(_objects)
def test_a_struct_keeps_every_json_object(mapping: dict[str, Any]) -> None:
    assert struct_to_dict(dict_to_struct(mapping)) == mapping


@given(_objects)
def test_equal_structs_give_equal_text(mapping: dict[str, Any]) -> None:
    backwards = dict(reversed(mapping.items()))
    assert json.dumps(struct_to_dict(dict_to_struct(mapping))) == json.dumps(
        struct_to_dict(dict_to_struct(backwards))
    )


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (3.0, "3"),
        (-7.0, "-7"),
        (-0.0, "0"),
        (0.5, "0.5"),
        (2.0**53, "9007199254740992"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1e300, "1e+300"),
    ],
)
def test_whole_numbers_become_ints_as_in_ecmascript(number: float, text: str) -> None:
    struct = Struct(fields={"x": Value(number_value=number)})
    assert json.dumps(struct_to_dict(struct)["x"]) == text


def test_booleans_stay_booleans() -> None:
    assert struct_to_dict(dict_to_struct({"a": True, "b": [False]})) == {"a": True, "b": [False]}
    assert struct_to_dict(dict_to_struct({"a": True}))["a"] is True


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_no_json_are_named_by_their_path(number: float) -> None:
    inner = Struct(fields={"b": Value(list_value=ListValue(values=[Value(number_value=number)]))})
    struct = Struct(fields={"a": Value(struct_value=inner)})
    with pytest.raises(ValueError, match=r"the number at a\.b\[0\] is not finite"):
        struct_to_dict(struct)


def test_a_value_without_a_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="the value at a has no kind"):
        struct_to_dict(Struct(fields={"a": Value()}))


def _nested(depth: int) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for _ in range(depth - 1):
        mapping = {"a": mapping}
    return mapping


def test_depth_is_limited_both_ways() -> None:
    deepest = dict_to_struct(_nested(MAX_DEPTH))
    assert struct_to_dict(deepest) == _nested(MAX_DEPTH)
    with pytest.raises(ValueError, match="nested more than 24 deep"):
        dict_to_struct(_nested(MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="nested more than 24 deep"):
        struct_to_dict(Struct(fields={"a": Value(struct_value=deepest)}))
    lists: Any = 1
    for _ in range(MAX_DEPTH):
        lists = [lists]
    with pytest.raises(ValueError, match="nested more than 24 deep"):
        dict_to_struct({"a": lists})


def test_the_deepest_arguments_can_be_parsed_where_answers_carry_them() -> None:
    response = chat_service_pb2.ChatResponse()
    call = response.candidates.add().message.parts.add().tool_call
    call.arguments.CopyFrom(dict_to_struct(_nested(MAX_DEPTH)))
    assert chat_service_pb2.ChatResponse.FromString(response.SerializeToString()) == response


@pytest.mark.parametrize("value", [math.nan, math.inf, 10**400])
def test_numbers_beyond_a_double_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="out of a double's range"):
        dict_to_struct({"a": [value]})


@pytest.mark.parametrize("mapping", [{"a": "\ud800"}, {"\ud800": 1}])
def test_lone_surrogates_are_refused(mapping: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="surrogates not allowed"):
        dict_to_struct(mapping)


@pytest.mark.parametrize("mapping", [{"a": {1, 2}}, {"a": {1: 2}}, {"a": b"bytes"}])
def test_what_is_no_json_value_is_a_type_error(mapping: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="is not a"):
        dict_to_struct(mapping)


def test_parse_json_object() -> None:
    assert parse_json_object(' {"a": [1, 2.5, null, "ö"]} ') == {"a": [1, 2.5, None, "ö"]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not valid JSON"),
        ("{", "is not valid JSON"),
        ("{'a': 1}", "is not valid JSON"),
        ('{"a": 1} x', "is not valid JSON"),
        ('{"a": NaN}', "is not valid JSON: NaN is not a JSON number"),
        ('{"a": -Infinity}', "-Infinity is not a JSON number"),
        ('{"a": ' + "9" * 5000 + "}", "is not valid JSON"),
        ("[1]", "is not a JSON object"),
        ("null", "is not a JSON object"),
        ('{"a": ' + "[" * 100_000, "is nested too deeply"),
    ],
)
def test_other_text_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_json_object(text)
