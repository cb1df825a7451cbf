from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct, Value

from octet.engine.types import ModelInfo
from octet.errors import AdapterNotFoundError, InvalidRequestError
from octet.translate.prompt_options import (
    to_adapter,
    to_cache_salt,
    to_chat_template_args,
    to_pan_and_scan,
    to_priority,
)
from octet.translate.values import dict_to_struct
from octet.v1.chat_service_pb2 import ImageOptions


@pytest.fixture
def plain(model: ModelInfo) -> ModelInfo:
    """A model served without adapters, priorities or pan and scan."""
    return replace(model, adapters=(), takes_priorities=False, pans_and_scans=False)


def refused_args(arguments: Struct) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        to_chat_template_args(arguments)
    return caught.value


@pytest.mark.parametrize("priority", [-(2**31), -1, 0, 2**31 - 1])
def test_priorities(model: ModelInfo, priority: int) -> None:
    assert to_priority(priority, model) == priority


def test_a_priority_where_there_are_none(plain: ModelInfo) -> None:
    assert to_priority(0, plain) == 0
    with pytest.raises(InvalidRequestError, match="--scheduling-policy") as caught:
        to_priority(1, plain)
    assert caught.value.field == "priority"


def test_adapters(model: ModelInfo, plain: ModelInfo) -> None:
    assert to_adapter("lawyer", model) == "lawyer"
    assert to_adapter("", plain) == ""
    with pytest.raises(AdapterNotFoundError, match="'clerk' is not loaded here; use poet, lawyer"):
        to_adapter("clerk", model)
    with pytest.raises(AdapterNotFoundError, match="there are none"):
        to_adapter("poet", plain)


def test_the_length_of_salts() -> None:
    assert to_cache_salt("é" * 128) == "é" * 128
    with pytest.raises(InvalidRequestError, match="has 129 characters, more than 128") as caught:
        to_cache_salt("é" * 129)
    assert caught.value.field == "cache_salt"


def test_template_args_are_converted() -> None:
    arguments: dict[str, Any] = {"enable_thinking": False, "style": {"words": [1, 2.5, None]}}
    assert to_chat_template_args(dict_to_struct(arguments)) == arguments
    assert to_chat_template_args(Struct()) == {}


@pytest.mark.parametrize(
    "name", ["messages", "tools", "add_generation_prompt", "chat_template", "tokenize", "bos_token"]
)
def test_template_args_that_the_template_has_already(name: str) -> None:
    error = refused_args(dict_to_struct({"style": 1, name: "x"}))
    assert error.field == f"chat_template_args.{name}"
    assert "use the request's fields" in error.message


def test_template_args_have_a_limit() -> None:
    fits = dict_to_struct({"a": "x" * 16_000})
    assert to_chat_template_args(fits)["a"] == "x" * 16_000
    error = refused_args(dict_to_struct({"a": "x" * 16_384}))
    assert error.field == "chat_template_args"
    assert "more than the limit of 16384" in error.message


def test_template_args_that_are_no_json() -> None:
    error = refused_args(Struct(fields={"x": Value(number_value=float("inf"))}))
    assert error.field == "chat_template_args"
    assert "the number at x is not finite" in error.message


def test_pan_and_scan(model: ModelInfo, plain: ModelInfo) -> None:
    assert to_pan_and_scan(ImageOptions(pan_and_scan=True), model) is True
    assert to_pan_and_scan(ImageOptions(pan_and_scan=False), model) is False
    assert to_pan_and_scan(ImageOptions(), plain) is None
    for wanted in (True, False):
        with pytest.raises(InvalidRequestError, match="gemma has none of it") as caught:
            to_pan_and_scan(ImageOptions(pan_and_scan=wanted), plain)
        assert caught.value.field == "image_options.pan_and_scan"
