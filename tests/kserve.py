"""Requests of KServe's protocol."""

from typing import Any

from octet.kserve.grpc_service_pb2 import ModelInferRequest as Request
from octet.translate.kserve.tensors import INPUTS


def make(raw: bool, *tensors: tuple[str, Any], **fields: Any) -> Request:
    """A request with these inputs, whose datatypes and shapes are right."""
    request = Request(model_name="fake", **fields)
    for name, value in tensors:
        values = value if isinstance(value, list) else [value]
        values = [one.encode() if isinstance(one, str) else one for one in values]
        datatype = INPUTS[name].datatype if name in INPUTS else "BYTES"
        tensor = request.inputs.add(name=name, datatype=datatype, shape=[len(values)])
        if raw:
            request.raw_input_contents.append(
                bytes(values)
                if datatype == "BOOL"
                else b"".join(len(one).to_bytes(4, "little") + one for one in values)
            )
        elif datatype == "BOOL":
            tensor.contents.bool_contents.extend(values)
        else:
            tensor.contents.bytes_contents.extend(values)
    return request
