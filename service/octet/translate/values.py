"""JSON values between google.protobuf.Struct, Python and text."""

import json
import math
from collections.abc import Mapping
from typing import Any, NoReturn

from google.protobuf.struct_pb2 import Struct, Value

# Protobuf parsers stop at 100 nested messages, and each nested object takes three of them (map entry, Value,
# Struct). With the messages around a Struct, 24 levels can be read by every client.
MAX_DEPTH = 24

# A Struct holds doubles only. Up to here a whole number is written without an exponent, as in ECMAScript.
_MAX_WHOLE = 1e21


def struct_to_dict(struct: Struct) -> dict[str, Any]:
    """Gives `struct` as Python values, with whole numbers as ints.

    Keys come sorted: a Struct keeps no order, and equal ones have to give equal prompts.

    Raises:
        ValueError: when it is no JSON: NaN, an infinity, a Value without a kind, or more than `MAX_DEPTH`
            levels.
    """
    return _from_struct(struct, "", 1)


def dict_to_struct(mapping: Mapping[str, Any]) -> Struct:
    """Gives JSON values as a Struct; integers beyond 2**53 lose their last digits.

    Raises:
        ValueError: when it has a number beyond a double's range, a text that is not Unicode, or more than
            `MAX_DEPTH` levels.
        TypeError: when it holds something that is no JSON value.
    """
    check_representable(mapping)
    struct = Struct()
    struct.update(mapping)
    return struct


def check_representable(mapping: Mapping[str, Any]) -> None:
    """Raises ValueError or TypeError for what `dict_to_struct` would raise it for."""
    _check_representable(mapping, 1)


def parse_json_object(text: str, *, strict: bool = False) -> dict[str, Any]:
    """Parses the text of a JSON object without NaN and Infinity.

    Args:
        text: the text.
        strict: whether what a Struct could not hold is refused as well: names that stand twice in an object,
            numbers beyond a double's range, texts that are not Unicode, and more than `MAX_DEPTH` levels.

    Raises:
        ValueError: with a phrase that continues "the text ...".
    """
    try:
        value = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_finite if strict else None,
            parse_int=_whole if strict else None,
            object_pairs_hook=_distinct if strict else None,
        )
    except RecursionError:
        raise ValueError("is nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"is not valid JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("is not a JSON object")  # noqa: TRY004  (a wrong text, no wrong type)
    if strict:
        _check_levels(value)
        _check_unicode(value)
    return value


def _from_struct(struct: Struct, path: str, depth: int) -> dict[str, Any]:
    _check_depth(depth)
    fields = struct.fields
    return {key: _from_value(fields[key], f"{path}.{key}" if path else key, depth) for key in sorted(fields)}


def _from_value(value: Value, path: str, depth: int) -> Any:
    match value.WhichOneof("kind"):
        case "null_value":
            return None
        case "bool_value":
            return value.bool_value
        case "string_value":
            return value.string_value
        case "number_value":
            return _from_number(value.number_value, path)
        case "struct_value":
            return _from_struct(value.struct_value, path, depth + 1)
        case "list_value":
            _check_depth(depth + 1)
            items = value.list_value.values
            return [_from_value(item, f"{path}[{i}]", depth + 1) for i, item in enumerate(items)]
        case _:
            raise ValueError(f"the value at {path} has no kind")


def _from_number(number: float, path: str) -> int | float:
    if not math.isfinite(number):
        raise ValueError(f"the number at {path} is not finite")
    return int(number) if number.is_integer() and abs(number) < _MAX_WHOLE else number


def _check_representable(value: object, depth: int) -> None:
    match value:
        case None | bool():
            pass
        case str():
            value.encode()
        case int() | float():
            try:
                finite = math.isfinite(value)
            except OverflowError:
                finite = False
            if not finite:
                raise ValueError("a number is out of a double's range")
        case Mapping():
            _check_depth(depth)
            for key, item in value.items():
                if not isinstance(key, str):
                    raise TypeError(f"the key {key!r} is not a string")
                key.encode()
                _check_representable(item, depth + 1)
        case list() | tuple():
            _check_depth(depth)
            for item in value:
                _check_representable(item, depth + 1)
        case _:
            raise TypeError(f"a {type(value).__name__} is not a JSON value")


def _check_depth(depth: int) -> None:
    if depth > MAX_DEPTH:
        raise ValueError(f"objects and lists are nested more than {MAX_DEPTH} deep")


def _check_levels(value: object) -> None:
    level: list[Any] = [value]
    depth = 1
    while level:
        _check_depth(depth)
        values = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
        level, depth = [inner for inner in values if isinstance(inner, dict | list)], depth + 1


def _check_unicode(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise ValueError("has a text that is not Unicode: half of a surrogate pair") from None


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) < len(pairs):
        seen: set[str] = set()
        twice = next(name for name, _ in pairs if name in seen or seen.add(name))  # type: ignore[func-returns-value]
        raise ValueError(f"the name {twice[:64]!r} stands twice in one object")
    return names


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:64]} is out of a double's range")
    return number


def _whole(text: str) -> int:
    _finite(text)
    return int(text)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
