"""What KServe's and Triton's clients may ask for: tensors, nearly right."""

import base64
import json
from typing import Any

from hypothesis import strategies as st

from octet.kserve import grpc_service_pb2
from octet.translate.kserve.sampling import NAMES
from octet.translate.kserve.tensors import INPUTS, OUTPUTS
from tests.fuzz.constraints import grammars, regexes, schema_texts
from tests.fuzz.messages import json_objects, texts
from tests.fuzz.pictures import picture_files

_VALUES: st.SearchStrategy[Any] = st.one_of(
    st.sampled_from([0, 1, -1, 0.5, 2, 17, 2**31, 2**63, True, None, "", "1", "0.1", "true", "x", "\ud800"]),
    st.lists(st.sampled_from(["a", "", 5, -1, 2**31, None]), max_size=3),
    st.dictionaries(
        st.sampled_from(["5", "-1", "x", str(2**40)]), st.sampled_from([1, -101, "1"]), max_size=2
    ),
    st.fixed_dictionaries({}, optional={"regex": regexes(), "grammar": grammars(), "json": schema_texts()}),
)
_SAMPLING = st.one_of(
    st.dictionaries(st.sampled_from([*sorted(NAMES), "best_of", "é"]), _VALUES, max_size=3).map(json.dumps),
    json_objects.map(json.dumps),
    texts,
)
_PARAMETERS = st.sampled_from(
    [*sorted(NAMES), "priority", "timeout", "triton_enable_empty_final_response", "sequence_id", "]", "é"]
)
_SHAPES = st.sampled_from([[], [0], [2], [-1], [1, 1], [2**63 - 1], [1] * 40])
_DATATYPES = st.sampled_from(["BYTES", "BOOL", "INT32", "FP16", "", "bytes"])


@st.composite
def inferences(draw: st.DrawFn) -> grpc_service_pb2.ModelInferRequest:
    """A request to ModelInfer or ModelStreamInfer with little or nothing wrong with it."""
    request = grpc_service_pb2.ModelInferRequest(
        model_name=draw(st.sampled_from(["fake"] * 9 + [""])), id=draw(st.sampled_from(["", "7", "é" * 200]))
    )
    names = ["text_input", *draw(st.lists(st.sampled_from([*INPUTS, "x"]), max_size=4, unique=True))]
    values = {name: draw(_elements(name)) for name in dict.fromkeys(names)}
    raw = draw(st.booleans())
    for name, elements in values.items():
        _add(request, name, elements, raw=raw)
    for name in draw(st.lists(_PARAMETERS, max_size=2, unique=True)):
        field = draw(st.sampled_from(["bool_param", "int64_param", "string_param", "double_param"]))
        value = {"bool_param": True, "int64_param": -1, "string_param": "0.5", "double_param": 1.0}[field]
        setattr(request.parameters[name], field, value)
    for name in draw(st.lists(st.sampled_from([*OUTPUTS, "x"]), max_size=2)):
        request.outputs.add(name=name)
    if draw(st.integers(0, 3)) == 0:
        _spoil(draw, request)
    return request


def _elements(name: str) -> st.SearchStrategy[list[Any]]:
    if name == "image":
        return st.lists(picture_files().map(base64.b64encode), min_size=1, max_size=2)
    if name == "sampling_parameters":
        return _SAMPLING.map(lambda text: [text.encode(errors="surrogatepass")])
    if name in INPUTS and INPUTS[name].datatype == "BOOL":
        return st.booleans().map(lambda flag: [flag])
    return texts.map(lambda text: [text.encode()])


def _add(request: grpc_service_pb2.ModelInferRequest, name: str, elements: list[Any], *, raw: bool) -> None:
    flags = isinstance(elements[0], bool)
    tensor = request.inputs.add(name=name, datatype="BOOL" if flags else "BYTES", shape=[len(elements)])
    if raw:
        lengths = b"".join(len(one).to_bytes(4, "little") + one for one in elements) if not flags else b""
        request.raw_input_contents.append(bytes(elements) if flags else lengths)
    elif flags:
        tensor.contents.bool_contents.extend(elements)
    else:
        tensor.contents.bytes_contents.extend(elements)


def _spoil(draw: st.DrawFn, request: grpc_service_pb2.ModelInferRequest) -> None:
    """Makes one thing of a request wrong, or lets it be right by luck."""
    tensor = request.inputs[draw(st.integers(0, len(request.inputs) - 1))]
    match draw(st.integers(0, 5)):
        case 0:
            del tensor.shape[:]
            tensor.shape.extend(draw(_SHAPES))
        case 1:
            tensor.datatype = draw(_DATATYPES)
        case 2:
            request.raw_input_contents.append(draw(st.binary(max_size=12)))
        case 3:
            tensor.contents.int_contents.append(1)
        case 4:
            tensor.parameters["shared_memory_region"].string_param = "region"
        case 5 if request.raw_input_contents:
            request.raw_input_contents[0] = draw(st.binary(max_size=12))
