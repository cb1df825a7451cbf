"""Writes docs/openapi.json out of the annotations in protos/octet/v1: JSON over HTTP as OpenAPI 3.1.

python -m tools.openapi            writes it
python -m tools.openapi --check    exits with 1 when it is not what the protos say
"""

import json
import re
import sys
from collections.abc import Iterator, Set
from typing import Any

import yaml  # type: ignore[import-untyped]
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    MethodDescriptorProto,
)

from octet import __version__
from tools.api_reference import ROOT, Comments, comments_of, descriptors

TARGET = ROOT / "docs" / "openapi.json"
ENVOY = ROOT / "deploy" / "envoy" / "http_json.yaml"

Field = FieldDescriptorProto
Json = dict[str, Any]

_PACKAGE = ".octet.v1."
_TRANSCODER = "envoy.filters.http.grpc_json_transcoder"
_VERBS = ("get", "put", "post", "delete", "patch")
# A variable of google.api.http's templates, with the segments that it stands for.
_VARIABLE = re.compile(r"\{(\w+)(=[^}]*)?\}")

# What JSON has for a float that is no number.
_NUMBER: Json = {"anyOf": [{"type": "number"}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}
# Written as texts, for JavaScript's numbers are no 64-bit integers; both are read.
_INT64: Json = {"type": ["string", "integer"], "format": "int64"}

_SCALARS: dict[int, Json] = {
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    Field.TYPE_INT32: {"type": "integer", "format": "int32"},
    Field.TYPE_UINT32: {"type": "integer", "format": "int64", "minimum": 0},
    Field.TYPE_INT64: _INT64,
    Field.TYPE_UINT64: _INT64,
    Field.TYPE_FLOAT: _NUMBER,
    Field.TYPE_DOUBLE: _NUMBER,
}
# Google's own messages, which JSON has other forms for.
_WELL_KNOWN: dict[str, Json] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.Struct": {"type": "object"},
}

_DESCRIPTION = """\
Octet's API as JSON over HTTP, as `deploy/envoy/http_json.yaml` offers it. Fields have the names that they
have in the protos. Those with their default value are left out of answers.

A streamed answer is one JSON object a line, or with `accept: text/event-stream` an event each. It is whole if
its last object has `usage`, and each candidate has had its `finish_reason` by then (docs/http.md).
"""

_HEADERS = {
    "Timeout": {
        "name": "grpc-timeout",
        "in": "header",
        "description": "How long the answer may take, as gRPC writes it: `30S`, `500m`.",
        "schema": {"type": "string", "pattern": "^[0-9]{1,8}[HMSmun]$"},
    },
    "RequestId": {
        "name": "x-request-id",
        "in": "header",
        "description": "An id for the call, unless the request has one.",
        "schema": {"type": "string", "maxLength": 128},
    },
}
_STATUS: Json = {
    "type": "object",
    "description": "What went wrong, a google.rpc.Status.",
    "properties": {
        "code": {"type": "integer", "description": "A gRPC status code, such as 3 for INVALID_ARGUMENT."},
        "message": {"type": "string", "description": "A sentence."},
        "details": {
            "type": "array",
            "description": "google.rpc details: ErrorInfo, BadRequest with the field, RetryInfo.",
            "items": {"type": "object", "properties": {"@type": {"type": "string"}}, "required": ["@type"]},
        },
    },
    "required": ["code"],
}


class _Writer:
    """Makes the document of the files that have annotations."""

    def __init__(self, files: list[FileDescriptorProto], offered: Set[str]) -> None:
        self._offered = offered
        self._files = [(file, comments_of(file)) for file in files if f".{file.package}." == _PACKAGE]
        self._messages: dict[str, tuple[DescriptorProto, Comments, tuple[int, ...]]] = {}
        self._enums: dict[str, tuple[EnumDescriptorProto, Comments, tuple[int, ...]]] = {}
        for file, comments in self._files:
            for i, message in enumerate(file.message_type):
                self._collect(message, comments, (4, i), _PACKAGE)
            for i, enum in enumerate(file.enum_type):
                self._enums[_PACKAGE + enum.name] = (enum, comments, (5, i))

    def document(self) -> Json:
        """The whole document."""
        paths: Json = {}
        asked: set[str] = set()
        answered: set[str] = set()
        for service, method, comment in self._methods():
            rule = method.options.Extensions[annotations_pb2.http]
            for binding in (rule, *rule.additional_bindings):
                verb = next(verb for verb in _VERBS if binding.HasField(verb))
                path, operation = self._operation(service, method, comment, binding, getattr(binding, verb))
                paths.setdefault(path, {})[verb] = operation
            self._reach(method.input_type, asked)
            self._reach(method.output_type, answered)
        schemas: Json = {"google.rpc.Status": _STATUS}
        for name in sorted(asked | answered):
            schemas[name.removeprefix(_PACKAGE)] = (
                self._enum(name)
                if name in self._enums
                else self._message(name, required=name not in answered)
            )
        return {
            "openapi": "3.1.0",
            "info": {"title": "Octet", "version": __version__, "description": _DESCRIPTION},
            "servers": [{"url": "http://localhost:8080"}],
            "security": [{}, {"key": []}],
            "tags": [
                {"name": service.name, "description": comments[6, i]}
                for file, comments in self._files
                for i, service in enumerate(file.service)
                if service.name in self._offered
            ],
            "paths": paths,
            "components": {
                "schemas": schemas,
                "parameters": _HEADERS,
                "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            },
        }

    def _methods(self) -> Iterator[tuple[str, MethodDescriptorProto, str]]:
        for file, comments in self._files:
            for i, service in enumerate(file.service):
                for j, method in enumerate(service.method):
                    if service.name in self._offered and method.options.HasExtension(annotations_pb2.http):
                        yield service.name, method, comments[6, i, 2, j]

    def _operation(
        self, service: str, method: MethodDescriptorProto, comment: str, binding: Any, template: str
    ) -> tuple[str, Json]:
        """A path, and what can be done there."""
        message, comments, at = self._messages[method.input_type]
        named = {match[1]: match[2] for match in _VARIABLE.finditer(template)}
        parameters: list[Json] = [{"$ref": f"#/components/parameters/{name}"} for name in _HEADERS]
        for i, field in enumerate(message.field):
            if field.name in named or not binding.body:
                where = "path" if field.name in named else "query"
                several = " May hold slashes." if named.get(field.name) == "=**" else ""
                parameters.append(
                    {
                        "name": field.name,
                        "in": where,
                        "required": where == "path",
                        "description": comments[*at, 2, i] + several,
                        "schema": self._of(field),
                    }
                )
        operation: Json = {
            "operationId": f"{service}_{method.name}",
            "tags": [service],
            "description": comment,
            "parameters": parameters,
        }
        if binding.body:
            schema = self._ref(method.input_type)
            for field in message.field:
                if field.name == binding.body:
                    schema = self._of(field)
            operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
        operation["responses"] = self._responses(method)
        return _VARIABLE.sub(r"{\1}", template), operation

    def _responses(self, method: MethodDescriptorProto) -> Json:
        answer = {"schema": self._ref(method.output_type)}
        content = {"application/json": answer}
        description = "The answer."
        if method.server_streaming:
            description = "Pieces of the answer, each one such object: a line, or the data of an event."
            content["text/event-stream"] = answer
        error = {"application/json": {"schema": {"$ref": "#/components/schemas/google.rpc.Status"}}}
        return {
            "200": {
                "description": description,
                "headers": {"x-request-id": {"schema": {"type": "string"}, "description": "The call's id."}},
                "content": content,
            },
            "default": {"description": "What went wrong.", "content": error},
        }

    def _collect(
        self, message: DescriptorProto, comments: Comments, path: tuple[int, ...], prefix: str
    ) -> None:
        name = prefix + message.name
        self._messages[name] = (message, comments, path)
        for i, nested in enumerate(message.nested_type):
            self._collect(nested, comments, (*path, 3, i), f"{name}.")
        for i, enum in enumerate(message.enum_type):
            self._enums[f"{name}.{enum.name}"] = (enum, comments, (*path, 4, i))

    def _reach(self, name: str, found: set[str]) -> None:
        """Adds the messages and enums of ours that a message holds, itself included."""
        if name in found or not name.startswith(_PACKAGE):
            return
        if name in self._enums:
            found.add(name)
            return
        message = self._messages[name][0]
        if not message.options.map_entry:
            found.add(name)
        for field in message.field:
            if field.type_name:
                self._reach(field.type_name, found)

    def _message(self, name: str, *, required: bool) -> Json:
        """A message's schema; `required`: whether it requires the fields whose comments say that."""
        message, comments, path = self._messages[name]
        properties: Json = {}
        wanted: list[str] = []
        for i, field in enumerate(message.field):
            comment = comments[*path, 2, i]
            choice = field.HasField("oneof_index") and not field.proto3_optional
            if choice:
                oneof = message.oneof_decl[field.oneof_index].name
                others = [
                    other.name
                    for other in message.field
                    if other is not field
                    and other.HasField("oneof_index")
                    and other.oneof_index == field.oneof_index
                ]
                comment += f" At most one of `{oneof}`: not together with {', '.join(others)}."
            elif required and comment.startswith("Required"):
                wanted.append(field.name)
            properties[field.name] = {**self._of(field), "description": comment}
        schema: Json = {"type": "object", "description": comments[path], "properties": properties}
        return {**schema, "required": wanted} if wanted else schema

    def _enum(self, name: str) -> Json:
        enum, comments, path = self._enums[name]
        said = [f"- `{value.name}`: {comments[*path, 2, i]}" for i, value in enumerate(enum.value)]
        return {
            "type": "string",
            "description": "\n".join([comments[path], "", *said]),
            "enum": [value.name for value in enum.value],
        }

    def _of(self, field: Field) -> Json:
        """A field's schema, without its comment."""
        entry = self._messages.get(field.type_name)
        if entry is not None and entry[0].options.map_entry:
            _, value = entry[0].field
            return {"type": "object", "additionalProperties": self._of(value)}
        one = self._ref(field.type_name) if field.type_name else dict(_SCALARS[field.type])
        repeated = field.label == Field.LABEL_REPEATED
        return {"type": "array", "items": one} if repeated else one

    def _ref(self, name: str) -> Json:
        if name.startswith(_PACKAGE):
            return {"$ref": f"#/components/schemas/{name.removeprefix(_PACKAGE)}"}
        return dict(_WELL_KNOWN[name])


def offered() -> set[str]:
    """The names of the services that Envoy offers as JSON."""
    [listener] = yaml.safe_load(ENVOY.read_text())["static_resources"]["listeners"]
    [manager] = listener["filter_chains"][0]["filters"]
    [transcoder] = (
        one["typed_config"] for one in manager["typed_config"]["http_filters"] if one["name"] == _TRANSCODER
    )
    return {name.removeprefix(_PACKAGE[1:]) for name in transcoder["services"]}


def document() -> Json:
    """The document that the protos make."""
    return _Writer(descriptors(), offered()).document()


def main() -> None:
    """The command line."""
    text = json.dumps(document(), indent=1, ensure_ascii=False) + "\n"
    if sys.argv[1:] == ["--check"]:
        if not TARGET.is_file() or TARGET.read_text() != text:
            raise SystemExit("docs/openapi.json is out of date: run `make format`")
        return
    TARGET.write_text(text)


if __name__ == "__main__":
    main()
