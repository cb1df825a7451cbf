"""Sampling parameters by the names of vLLM's, which Triton's clients send as JSON or as parameters."""

import json
import math
from collections.abc import Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from octet.errors import InvalidRequestError
from octet.translate.kserve.tensors import Element
from octet.translate.output_format import MAX_CHOICES
from octet.translate.sampling import MAX_ALLOWED_TOKEN_IDS, MAX_LOGIT_BIAS
from octet.v1 import chat_service_pb2

_INT32 = range(-(2**31), 2**31)
_INT64 = range(-(2**63), 2**63)

_INTEGERS = {"max_tokens": _INT32, "min_tokens": _INT32, "n": _INT32, "seed": _INT64, "top_k": _INT32}
_NUMBERS = ("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty")
_BOOLEANS = ("ignore_eos", "skip_special_tokens", "include_stop_str_in_output")
_TEXTS = ("stop", "bad_words")
_TOKEN_IDS = ("stop_token_ids", "allowed_token_ids")
_FORMS = ("structured_outputs", "guided_decoding")

NAMES = frozenset(
    {*_INTEGERS, *_NUMBERS, *_BOOLEANS, *_TEXTS, *_TOKEN_IDS, *_FORMS, "logit_bias", "logprobs", "lora_name"}
)
"""What is taken; all else is refused."""

# vLLM's name for what has another in Octet's protocol.
_OTHER_NAMES = {"include_stop_str_in_output": "include_stop_string"}

# No parameter has more entries. They are counted first: looking at each of very many takes long, and small
# requests are looked at in the event loop.
_MOST_ENTRIES = max(MAX_ALLOWED_TOKEN_IDS, MAX_LOGIT_BIAS, MAX_CHOICES)

# More is no float of the protocol's.
_LARGEST = 3.0e38


@dataclass(frozen=True, slots=True)
class Where:
    """Where a value was found: the path of a field, and what stands before descriptions."""

    field: str
    label: str = ""

    def error(self, problem: str) -> InvalidRequestError:
        """What is wrong with the value."""
        return InvalidRequestError(self.field, f"{self.label}: {problem}" if self.label else problem)

    def inside(self, step: str) -> "Where":
        """The same for what the value holds at `step`, such as "[2]"."""
        return Where(self.field, f"{self.label}{step}" if self.label else step.lstrip("."))


Values: TypeAlias = "Mapping[str, tuple[Any, Where]]"
"""Parameters by name, with where each was found."""


@dataclass(slots=True)
class Read:
    """What the parameters say.

    Attributes:
        sampling: how tokens are chosen.
        output_format: the form that completions must have; None for free text.
        adapter: a LoRA adapter's name; empty for none.
        found: where what was set in them came from, by its path in a CompletionRequest.
    """

    sampling: chat_service_pb2.SamplingParams = field(default_factory=chat_service_pb2.SamplingParams)
    output_format: chat_service_pb2.OutputFormat | None = None
    adapter: str = ""
    found: dict[str, Where] = field(default_factory=dict)


def read_json(element: Element) -> dict[str, tuple[Any, Where]]:
    """The parameters that a tensor's element holds as a JSON object; what is null is left out.

    Raises:
        InvalidRequestError: it holds no JSON object.
    """
    where = Where(element.field, element.label)
    values = _object(text_of(element), where)
    return {
        name: (value, where.inside(f".{name}" if name in NAMES else f"[{name[:64]!r}]"))
        for name, value in values.items()
        if value is not None
    }


def text_of(element: Element) -> str:
    """The text of an element of BYTES.

    Raises:
        InvalidRequestError: it is not UTF-8.
    """
    try:
        return bytes(element.value).decode()
    except UnicodeDecodeError as error:
        raise element.error(f"is not UTF-8, at byte {error.start}") from None


def read_sampling(values: Values) -> Read:
    """Converts parameters; ranges are looked at with the rest of a CompletionRequest.

    Raises:
        InvalidRequestError: at the one that is unknown, or has a wrong type.
    """
    read = Read()
    for name, (value, where) in values.items():
        own = _OTHER_NAMES.get(name, name)
        if name in _INTEGERS:
            number = _integer(value, where, _INTEGERS[name])
            # vLLM says "all" with -1.
            setattr(read.sampling, own, 0 if name == "top_k" and number == -1 else number)
        elif name in _NUMBERS:
            setattr(read.sampling, own, _number(value, where))
        elif name in _BOOLEANS:
            setattr(read.sampling, own, _boolean(value, where))
        elif name in _TEXTS:
            getattr(read.sampling, own).extend(_texts(value, where))
        elif name in _TOKEN_IDS:
            getattr(read.sampling, own).extend(_token_ids(value, where))
        elif name == "logit_bias":
            read.sampling.logit_bias.update(_biases(value, where))
        elif name == "logprobs":
            read.sampling.logprobs = True
            read.sampling.top_logprobs = _integer(value, where, _INT32)
            read.found["sampling.top_logprobs"] = where
        elif name == "lora_name":
            read.adapter = _text(value, where)
            read.found["adapter"] = where
        elif name in _FORMS:
            if read.output_format is not None:
                raise where.error("is set beside the other of structured_outputs and guided_decoding")
            read.output_format = _form(value, where)
            read.found["output_format"] = where
        else:
            raise where.error(f"is no sampling parameter that is taken here; use {', '.join(sorted(NAMES))}")
        read.found[f"sampling.{own}"] = where
    return read


def _object(text: str, where: Where) -> dict[str, Any]:
    """The JSON object that a text is."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        # Numbers of thousands of digits are a ValueError, too.
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "too large or too deep"
        raise where.error(f"is not JSON: {reason}") from None
    if not isinstance(value, dict):
        raise where.error('is no JSON object; send one such as {"temperature": 0}')
    return value


def _integer(value: Any, where: Where, allowed: range) -> int:
    # Triton's own examples send numbers as texts.
    if isinstance(value, str):
        try:
            value = int(value) if len(value) <= 32 else value
        except ValueError:
            raise where.error("is a text that is no whole number") from None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise where.error(f"is {_kind(value)}, not a whole number")
    if value not in allowed:
        raise where.error(f"is not {allowed.start} to {allowed.stop - 1}")
    return value


def _number(value: Any, where: Where) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            raise where.error("is a text that is no number") from None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise where.error(f"is {_kind(value)}, not a number")
    if not -_LARGEST <= value <= _LARGEST or not math.isfinite(value):
        raise where.error("is not finite")
    return float(value)


def _boolean(value: Any, where: Where) -> bool:
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise where.error(f"is {_kind(value)}, not true or false")
    return value


def _text(value: Any, where: Where) -> str:
    if not isinstance(value, str):
        raise where.error(f"is {_kind(value)}, not a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise where.error("holds half a character (a lone surrogate)") from None
    return value


def _texts(value: Any, where: Where) -> list[str]:
    if isinstance(value, str):
        return [_text(value, where)]
    return [_text(item, where.inside(f"[{i}]")) for i, item in enumerate(_list(value, where))]


def _token_ids(value: Any, where: Where) -> list[int]:
    return [_integer(item, where.inside(f"[{i}]"), _INT32) for i, item in enumerate(_list(value, where))]


def _biases(value: Any, where: Where) -> dict[int, float]:
    if not isinstance(value, dict):
        raise where.error(f"is {_kind(value)}, not an object of token ids and numbers")
    _check_entries(value, where)
    biases: dict[int, float] = {}
    for name, bias in value.items():
        entry = where.inside(f"[{name[:64]}]")
        biases[_integer(name, entry, _INT32)] = _number(bias, entry)
    return biases


def _list(value: Any, where: Where) -> list[Any]:
    if not isinstance(value, list):
        raise where.error(f"is {_kind(value)}, not a list")
    _check_entries(value, where)
    return value


def _check_entries(value: Sized, where: Where) -> None:
    if len(value) > _MOST_ENTRIES:
        raise where.error(f"has {len(value)} entries, more than the {_MOST_ENTRIES} that are allowed")


def _form(value: Any, where: Where) -> chat_service_pb2.OutputFormat:
    """The form that vLLM's StructuredOutputsParams name, as an object or as JSON text of one."""
    form = _object(value, where) if isinstance(value, str) else value
    if not isinstance(form, dict):
        raise where.error(f"is {_kind(value)}, not an object")
    given = {name: item for name, item in form.items() if item is not None and item is not False}
    if len(given) != 1:
        raise where.error("names no form, or several; set one of json, json_object, regex, choice, grammar")
    [(name, item)] = given.items()
    inner = where.inside(f".{name[:64]}")
    match name:
        case "json":
            text = _text(item, inner) if isinstance(item, str) else _schema_text(item, inner)
            return chat_service_pb2.OutputFormat(json_schema_text=text)
        case "json_object":
            _boolean(item, inner)
            return chat_service_pb2.OutputFormat(json_object=chat_service_pb2.JsonObjectFormat())
        case "regex":
            return chat_service_pb2.OutputFormat(regex=_text(item, inner))
        case "grammar":
            return chat_service_pb2.OutputFormat(grammar=_text(item, inner))
        case "choice":
            values = [_text(one, inner.inside(f"[{i}]")) for i, one in enumerate(_list(item, inner))]
            return chat_service_pb2.OutputFormat(choice=chat_service_pb2.ChoiceFormat(values=values))
    raise inner.error("is no form that is taken here; set one of json, json_object, regex, choice, grammar")


def _schema_text(schema: Any, where: Where) -> str:
    if not isinstance(schema, dict):
        raise where.error(f"is {_kind(schema)}, not an object")
    try:
        return _text(json.dumps(schema, ensure_ascii=False), where)
    except RecursionError:
        raise where.error("is too deep") from None


def _kind(value: Any) -> str:
    kinds: dict[type, str] = {
        bool: "true or false",
        int: "a whole number",
        float: "a number",
        str: "a text",
        list: "a list",
        dict: "an object",
    }
    return kinds.get(type(value), "null")
