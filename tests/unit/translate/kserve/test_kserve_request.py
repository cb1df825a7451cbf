"""Tensors and parameters out of a ModelInferRequest, and everything that can be wrong with them."""

import base64
import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octet.engine.types import ModelInfo
from octet.errors import AdapterNotFoundError, InvalidRequestError, ModelNotFoundError, OctetError
from octet.kserve import grpc_service_pb2
from octet.translate.completion import check_completion
from octet.translate.kserve.request import Inference, to_inference
from octet.translate.kserve.tensors import INPUTS
from octet.translate.media import ImageLimits
from octet.v1 import chat_service_pb2
from tests.kserve import make

Request = grpc_service_pb2.ModelInferRequest

MODEL = ModelInfo(
    names=("fake",),
    source="tests/fake",
    takes_images=True,
    context_window=4096,
    output_token_limit=1024,
    quantization=None,
    active_kernels=(),
    max_images=2,
    tokens_per_image=16,
    vocabulary_size=1000,
    adapters=("pirate",),
    takes_priorities=True,
    picture_mark="<picture>",
)
LIMITS = ImageLimits(max_bytes=2**20, max_pixels=2**20, max_memory=2**26)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (40, 40), "red").save(file, "PNG")
    return file.getvalue()


FILE = png()
PICTURE = base64.b64encode(FILE)


def convert(request: Request, *, streaming: bool = True) -> Inference:
    """All that is checked before the engine is asked."""
    inference = to_inference(request, MODEL, streaming=streaming)
    with inference.own_paths():
        check_completion(inference.completion, model=MODEL, limits=LIMITS, fetches=False, request_id="r")
    return inference


def refusal(request: Request, *, streaming: bool = True) -> tuple[str, str]:
    """At which field it is refused, and why."""
    with pytest.raises(InvalidRequestError) as raised:
        convert(request, streaming=streaming)
    return raised.value.field, raised.value.message


def problem(request: Request) -> OctetError | None:
    """What is wrong with a request."""
    try:
        convert(request)
    except OctetError as error:
        return error
    return None


@pytest.mark.parametrize("raw", [False, True])
def test_everything_at_once(raw: bool) -> None:
    sampling = {
        "temperature": "0.5",
        "max_tokens": 7.0,
        "top_k": -1,
        "n": 2,
        "stop": "end",
        "stop_token_ids": [3],
        "include_stop_str_in_output": "TRUE",
        "logit_bias": {"5": -1},
        "logprobs": 3,
        "seed": None,
        "structured_outputs": {"regex": "a+"},
        "lora_name": "pirate",
    }
    request = make(
        raw,
        ("text_input", "a<picture>b<picture>"),
        ("image", [PICTURE, base64.encodebytes(FILE)]),
        ("stream", True),
        ("sampling_parameters", json.dumps(sampling)),
        ("return_finish_reason", True),
        ("return_num_input_tokens", False),
        ("return_num_output_tokens", True),
        id="7",
    )
    request.parameters["priority"].int64_param = 4
    request.parameters["timeout"].uint64_param = 1_500_000
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    inference = convert(request)
    asked = inference.completion
    assert [part.text or part.image.data for part in asked.prompts[0].parts] == [
        "a",
        FILE,
        "b",
        FILE,
    ]
    assert asked.sampling == chat_service_pb2.SamplingParams(
        temperature=0.5,
        max_tokens=7,
        top_k=0,
        n=2,
        stop=["end"],
        stop_token_ids=[3],
        include_stop_string=True,
        logit_bias={5: -1},
        logprobs=True,
        top_logprobs=3,
    )
    assert asked.output_format.regex == "a+"
    assert (asked.adapter, asked.priority, inference.timeout_seconds) == ("pirate", 4, 1.5)
    assert inference.outputs == {"text_output", "finish_reason", "num_output_tokens"}
    assert (inference.id, inference.raw, inference.streams, inference.prefix) == ("7", raw, True, "")
    assert not request.raw_input_contents
    assert not any(tensor.HasField("contents") for tensor in request.inputs)


def test_defaults() -> None:
    inference = convert(make(False, ("text_input", "hi")), streaming=False)
    assert inference.completion.sampling == chat_service_pb2.SamplingParams()
    assert inference.outputs == {"text_output"}
    assert inference.prefix == "hi"
    assert inference.timeout_seconds is None


def test_pictures_without_a_mark_come_first() -> None:
    inference = convert(make(True, ("text_input", "look"), ("image", [PICTURE, PICTURE])))
    kinds = [part.WhichOneof("kind") for part in inference.completion.prompts[0].parts]
    assert kinds == ["image", "image", "text"]


def test_the_tensors_parameters_come_before_the_requests() -> None:
    request = make(False, ("text_input", "hi"), ("sampling_parameters", '{"top_p": 0.5}'))
    request.parameters["top_p"].string_param = "0.25"
    request.parameters["max_tokens"].int64_param = 3
    sampling = convert(request).completion.sampling
    assert (sampling.top_p, sampling.max_tokens) == (0.5, 3)


def test_an_output_that_is_named_is_asked_for() -> None:
    request = make(False, ("text_input", "hi"), ("return_logprobs", True))
    request.outputs.add(name="num_input_tokens")
    assert convert(request).outputs == {"num_input_tokens"}


TEXT = ("text_input", "hi")


def spoiled(change: Any, *tensors: tuple[str, Any], raw: bool = False) -> Request:
    request = make(raw, *(tensors or (TEXT,)))
    change(request)
    return request


def _set(path: str, value: Any) -> Any:
    def change(request: Request) -> None:
        *steps, last = path.split(".")
        target: Any = request
        for step in steps:
            target = target[int(step)] if step.isdigit() else getattr(target, step)
        if isinstance(value, list):
            del getattr(target, last)[:]
            getattr(target, last).extend(value)
        else:
            setattr(target, last, value)

    return change


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        (Request(inputs=make(False, TEXT).inputs), "model_name", "name the model, such as fake"),
        (make(False, TEXT, id="x" * 129), "id", "more than the 128"),
        (make(False), "inputs", "no text_input"),
        (make(True), "inputs", "no text_input"),
        (make(False, TEXT, TEXT), "inputs[1].name", "twice"),
        (make(False, TEXT, ("text", "x")), "inputs[1].name", "'text' is no input; use text_input"),
        (make(False, TEXT, ("embedding_request", "{}")), "inputs[1].name", "is no input"),
        (spoiled(_set("inputs.0.datatype", "FP32")), "inputs[0].datatype", "use BYTES"),
        (spoiled(_set("inputs.0.datatype", "")), "inputs[0].datatype", "'' is not text_input's"),
        (spoiled(_set("inputs.0.datatype", "STRING")), "inputs[0].datatype", "use BYTES"),
        (spoiled(_set("inputs.0.shape", [])), "inputs[0].shape", "[] is not text_input's, [1]"),
        (spoiled(_set("inputs.0.shape", [2])), "inputs[0].shape", "[2] is not"),
        (spoiled(_set("inputs.0.shape", [1, 1])), "inputs[0].shape", "[1, 1] is not"),
        (spoiled(_set("inputs.0.shape", [0])), "inputs[0].shape", "[0] is not"),
        (spoiled(_set("inputs.0.shape", [-1])), "inputs[0].shape", "[-1] is not"),
        (spoiled(_set("inputs.0.shape", [2**63 - 1])), "inputs[0].shape", "is not text_input's"),
        (spoiled(_set("inputs.0.shape", [1] * 9)), "inputs[0].shape", "of 9 dimensions"),
        (make(False, TEXT, ("image", [])), "inputs[1].shape", "without any leave it out"),
        (
            make(False, TEXT, ("image", [PICTURE] * 3)),
            "inputs[1].shape",
            "image: has 3 elements, more than the 2",
        ),
        (
            spoiled(_set("inputs.1.shape", [2**62]), TEXT, ("image", [PICTURE])),
            "inputs[1].shape",
            "more than the 2",
        ),
        (
            spoiled(_set("inputs.1.shape", [2]), TEXT, ("image", [PICTURE])),
            "inputs[1].contents.bytes_contents",
            "has 1 elements; its shape is [2]",
        ),
        (
            spoiled(_set("inputs.0.contents.bytes_contents", [])),
            "inputs[0].contents.bytes_contents",
            "has 0 elements",
        ),
        (
            spoiled(lambda request: request.inputs[0].ClearField("contents")),
            "inputs[0].contents.bytes_contents",
            "has 0 elements",
        ),
        (
            spoiled(_set("inputs.0.contents.int_contents", [7])),
            "inputs[0].contents.int_contents",
            "set bytes_contents",
        ),
        (
            spoiled(_set("inputs.1.contents.bytes_contents", [b"x"]), TEXT, ("stream", True)),
            "inputs[1].contents.bytes_contents",
            "set bool_contents",
        ),
        (
            spoiled(lambda request: request.inputs[0].parameters["shared_memory_region"].SetInParent()),
            "inputs[0].parameters",
            "'shared_memory_region' is not known",
        ),
        (spoiled(_set("raw_input_contents", []), raw=True), "inputs[0].contents.bytes_contents", "has 0"),
        (spoiled(_set("raw_input_contents", [b"", b""]), raw=True), "raw_input_contents", "2 entries for 1"),
        (
            spoiled(_set("inputs.0.contents.bytes_contents", [b"x"]), raw=True),
            "inputs[0].contents",
            "beside raw_input_contents",
        ),
        (spoiled(_set("raw_input_contents", [b""]), raw=True), "raw_input_contents[0]", "has 0 elements"),
        (spoiled(_set("raw_input_contents", [b"\1\0"]), raw=True), "raw_input_contents[0]", "2 bytes, not 4"),
        (
            spoiled(_set("raw_input_contents", [b"\5\0\0\0hi"]), raw=True),
            "raw_input_contents[0]",
            "text_input: should have 5 bytes, and 2 are left",
        ),
        (
            spoiled(_set("raw_input_contents", [b"\xff\xff\xff\xffhi"]), raw=True),
            "raw_input_contents[0]",
            "should have 4294967295 bytes",
        ),
        (
            spoiled(_set("raw_input_contents", [b"\1\0\0\0a\1\0\0\0b"]), raw=True),
            "raw_input_contents[0]",
            "more elements than its shape",
        ),
        (
            spoiled(lambda r: r.raw_input_contents.__setitem__(1, b"\2"), TEXT, ("stream", True), raw=True),
            "raw_input_contents[1]",
            "stream: 2 is neither 0 nor 1",
        ),
        (
            spoiled(lambda r: r.raw_input_contents.__setitem__(1, b"\1\1"), TEXT, ("stream", True), raw=True),
            "raw_input_contents[1]",
            "has 2 bytes for 1 of BOOL",
        ),
        (
            make(False, ("text_input", b"\xff")),
            "inputs[0].contents.bytes_contents[0]",
            "not UTF-8, at byte 0",
        ),
        (
            make(True, ("text_input", b"a\xff")),
            "raw_input_contents[0]",
            "text_input: is not UTF-8, at byte 1",
        ),
        (make(False, ("text_input", "")), "inputs[0].contents.bytes_contents[0]", "text_input: is empty"),
        (
            make(False, ("text_input", "x" * 2**23)),
            "inputs[0].contents.bytes_contents[0]",
            "follow from the model's context window",
        ),
        (
            make(False, ("text_input", "a<picture>")),
            "inputs[0].contents.bytes_contents[0]",
            "has 1 times <picture>, and image has 0 elements",
        ),
        (
            make(True, ("text_input", "a<picture>"), ("image", [PICTURE] * 2)),
            "raw_input_contents[0]",
            "image has 2 elements",
        ),
        (
            make(False, TEXT, ("image", [PICTURE, "no base64!"])),
            "inputs[1].contents.bytes_contents[1]",
            "image[1]: is not base64",
        ),
        (make(True, TEXT, ("image", [" \n"])), "raw_input_contents[1]", "image[0]: is empty"),
        (
            make(False, TEXT, ("stream", True), ("exclude_input_in_output", False)),
            "inputs[2].contents.bool_contents[0]",
            "a stream never repeats",
        ),
        (spoiled(lambda r: r.outputs.add(name="text")), "outputs[0].name", "use text_output"),
        (
            spoiled(lambda r: [r.outputs.add(name="text_output") for _ in range(2)]),
            "outputs[1].name",
            "twice",
        ),
        (
            spoiled(lambda r: r.outputs.add(name="text_output").parameters["classification"].SetInParent()),
            "outputs[0].parameters",
            "'classification' is not known",
        ),
        (spoiled(lambda r: r.parameters["sequence_id"].SetInParent()), "parameters", "'sequence_id' is not"),
        (spoiled(lambda r: r.parameters["top_p"].SetInParent()), "parameters[top_p]", "has no value"),
        (
            spoiled(lambda r: setattr(r.parameters["timeout"], "int64_param", -1)),
            "parameters[timeout]",
            "is not a whole number",
        ),
        (
            spoiled(lambda r: setattr(r.parameters["priority"], "uint64_param", 2**31)),
            "parameters[priority]",
            "0 to 2147483647",
        ),
        (
            spoiled(
                lambda r: setattr(r.parameters["triton_enable_empty_final_response"], "string_param", "true")
            ),
            "parameters[triton_enable_empty_final_response]",
            "is not true or false",
        ),
        (
            spoiled(lambda r: setattr(r.parameters["temperature"], "double_param", 3)),
            "parameters[temperature]",
            "3 is not 0 to 2",
        ),
    ],
)
def test_what_is_wrong_with_a_request(request_: Request, field: str, says: str) -> None:
    at, message = refusal(request_)
    assert at == field
    assert says in message


def test_a_single_response_is_no_stream() -> None:
    at, message = refusal(make(False, TEXT, ("stream", True)), streaming=False)
    assert at == "inputs[1].contents.bool_contents[0]"
    assert "ModelStreamInfer" in message


@pytest.mark.parametrize(
    ("sampling", "says"),
    [
        ("", ": is not JSON"),
        ("{", ": is not JSON"),
        ("[" * 100_000, ": is not JSON: too large or too deep"),
        ("[]", ": is no JSON object"),
        ('"text"', ": is no JSON object"),
        ('{"temprature": 1}', "['temprature']: is no sampling parameter"),
        ('{"best_of": 2}', "['best_of']: is no sampling parameter"),
        ('{"temperature": "warm"}', ".temperature: is a text that is no number"),
        ('{"temperature": true}', ".temperature: is true or false, not a number"),
        ('{"temperature": [1]}', ".temperature: is a list, not a number"),
        ('{"temperature": NaN}', ".temperature: is not finite"),
        ('{"temperature": 1e400}', ".temperature: is not finite"),
        ('{"temperature": 1' + "0" * 400 + "}", ".temperature: is not finite"),
        ('{"temperature": 1' + "0" * 9000 + "}", ": is not JSON: too large or too deep"),
        ('{"temperature": -1}', ".temperature: -1 is not 0 to 2"),
        ('{"max_tokens": 1.5}', ".max_tokens: is a number, not a whole number"),
        ('{"max_tokens": "1.5"}', ".max_tokens: is a text that is no whole number"),
        ('{"max_tokens": "' + "1" * 33 + '"}', ".max_tokens: is a text, not a whole number"),
        ('{"max_tokens": 2147483648}', ".max_tokens: is not -2147483648 to 2147483647"),
        ('{"max_tokens": 0}', ".max_tokens: 0 is not at least 1"),
        ('{"top_k": -2}', ".top_k: -2 is not at least 0"),
        ('{"n": 17}', ".n: 17 is not 1 to 16"),
        ('{"ignore_eos": 1}', ".ignore_eos: is a whole number, not true or false"),
        ('{"stop": {"a": 1}}', ".stop: is an object, not a list"),
        ('{"stop": [1]}', ".stop[0]: is a whole number, not a text"),
        ('{"stop": ["a", ""]}', ".stop[1]: has 0 characters"),
        ('{"stop": ["\\ud800"]}', ".stop[0]: holds half a character"),
        ('{"bad_words": [" "]}', ".bad_words[0]: has white space only"),
        ('{"stop_token_ids": 5}', ".stop_token_ids: is a whole number, not a list"),
        ('{"stop_token_ids": [1000]}', ".stop_token_ids[0]: 1000 is no token id"),
        ('{"logit_bias": []}', ".logit_bias: is a list, not an object"),
        ('{"logit_bias": {"x": 1}}', ".logit_bias[x]: is a text that is no whole number"),
        ('{"logit_bias": {"5": "x"}}', ".logit_bias[5]: is a text that is no number"),
        ('{"logit_bias": {"5": 101}}', ".logit_bias[5]: 101 is not -100 to 100"),
        ('{"logprobs": -1}', ".logprobs: -1 is not 0 to 20"),
        ('{"logprobs": true}', ".logprobs: is true or false, not a whole number"),
        ('{"lora_name": 7}', ".lora_name: is a whole number, not a text"),
        ('{"structured_outputs": 7}', ".structured_outputs: is a whole number, not an object"),
        ('{"structured_outputs": "{"}', ".structured_outputs: is not JSON"),
        ('{"structured_outputs": {}}', ".structured_outputs: names no form"),
        ('{"structured_outputs": {"regex": "a", "choice": ["b"]}}', ".structured_outputs: names no form, or"),
        ('{"structured_outputs": {"xml": "a"}}', ".structured_outputs.xml: is no form"),
        ('{"structured_outputs": {"choice": []}}', ".structured_outputs.choice"),
        ('{"structured_outputs": {"json": 7}}', ".structured_outputs.json: is a whole number"),
        ('{"structured_outputs": {"json": {"type": 7}}}', ".structured_outputs.json_schema_text"),
        ('{"guided_decoding": {"regex": ""}}', ".guided_decoding.regex"),
        ('{"guided_decoding": {"regex": "a"}, "structured_outputs": {"regex": "a"}}', "is set beside"),
    ],
)
@pytest.mark.parametrize("raw", [False, True])
def test_what_is_wrong_with_sampling_parameters(sampling: str, says: str, raw: bool) -> None:
    at, message = refusal(make(raw, TEXT, ("sampling_parameters", sampling)))
    assert at == ("raw_input_contents[1]" if raw else "inputs[1].contents.bytes_contents[0]")
    assert message.startswith("sampling_parameters")
    assert says in message


@pytest.mark.parametrize(
    ("parameter", "given"),
    [
        *((name, [{}] * 1025) for name in ("stop", "bad_words", "stop_token_ids", "allowed_token_ids")),
        ("logit_bias", {str(i): {} for i in range(1025)}),
        ("structured_outputs.choice", [{}] * 1025),
    ],
)
def test_entries_are_counted_before_any_is_looked_at(parameter: str, given: Any) -> None:
    """Here all of them are wrong. One by one they would take long; each costs three bytes."""
    name, _, form = parameter.partition(".")
    sampling = json.dumps({name: {form: given} if form else given})
    _, says = refusal(make(True, ("text_input", "x"), ("sampling_parameters", sampling)))
    assert says == f"sampling_parameters.{parameter}: has 1025 entries, more than the 1024 that are allowed"


@pytest.mark.parametrize(("name", "version"), [("other", ""), ("fake", "2"), ("fake", "latest")])
def test_models_that_are_not_served(name: str, version: str) -> None:
    request = make(False, TEXT)
    request.model_name, request.model_version = name, version
    with pytest.raises(ModelNotFoundError):
        convert(request)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(
        st.sampled_from(["n", "seed", "top_k", "temperature", "stop", "logit_bias", "ignore_eos", "logprobs"])
        | st.sampled_from(["stop_token_ids", "lora_name", "structured_outputs", "guided_decoding", "x"]),
        _JSON,
        max_size=4,
    )
)
def test_any_json_is_taken_or_refused(sampling: dict[str, Any]) -> None:
    error = problem(make(True, TEXT, ("sampling_parameters", json.dumps(sampling))))
    if isinstance(error, InvalidRequestError):
        assert error.field == "raw_input_contents[1]"
        assert error.message.startswith("sampling_parameters")
    else:
        assert error is None or isinstance(error, AdapterNotFoundError)


@given(st.binary(max_size=40), st.lists(st.integers(-2, 5), max_size=3), st.sampled_from(sorted(INPUTS)))
def test_any_bytes_are_taken_or_refused(data: bytes, shape: list[int], name: str) -> None:
    request = make(True, TEXT)
    if name == TEXT[0]:
        del request.inputs[:], request.raw_input_contents[:]
    request.inputs.add(name=name, datatype=INPUTS[name].datatype, shape=shape)
    request.raw_input_contents.append(data)
    error = problem(request)
    assert error is None or (isinstance(error, InvalidRequestError) and error.field and error.message)
