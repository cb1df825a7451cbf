"""Writes docs/api.md out of protos/octet and their comments.

python -m tools.api_reference            writes it
python -m tools.api_reference --check    exits with 1 when it is not what the protos say
"""

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    MethodDescriptorProto,
)

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "docs" / "api.md"

_INTRODUCTION = """\
# API reference

Generated from the comments in `protos/octet` by `make format`. Paths in brackets are those of JSON
over HTTP (`docs/http.md`, `docs/openapi.json`). All is of the package `octet.v1`, but for what KServe's and
Triton's clients ask, which is of `inference`: `GRPCInferenceService` and what comes behind it.
"""

_PACKAGES = (".octet.v1.", ".inference.")

Comments = dict[tuple[int, ...], str]


def descriptors() -> list[FileDescriptorProto]:
    """Our files with their comments, those of octet.v1 first."""
    google = Path(annotations_pb2.__file__).parents[2]
    protos = ROOT / "protos"
    names = sorted(str(path.relative_to(protos)) for path in protos.rglob("*.proto"))
    with tempfile.NamedTemporaryFile() as out:
        command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{protos}", f"-I{google}"]
        command += ["--include_source_info", f"--descriptor_set_out={out.name}", *names]
        subprocess.run(command, check=True)
        files = FileDescriptorSet.FromString(Path(out.name).read_bytes()).file
        return sorted(files, key=lambda file: _PACKAGES.index(f".{file.package}."))


def reference(files: list[FileDescriptorProto]) -> str:
    """The whole page, by packages: services first, then messages and enums in the files' order."""
    commented = [(file, comments_of(file)) for file in files]
    lines = [_INTRODUCTION]
    for _, group in groupby(commented, key=lambda pair: pair[0].package):
        lines += _package(list(group))
    return "\n".join(lines).rstrip() + "\n"


def _package(commented: list[tuple[FileDescriptorProto, Comments]]) -> Iterator[str]:
    for file, comments in commented:
        for i, service in enumerate(file.service):
            yield from (f"## {service.name}", "", comments[6, i], "")
            for j, method in enumerate(service.method):
                yield from (_method(method), "", comments[6, i, 2, j], "")
    for file, comments in commented:
        for i, message in enumerate(file.message_type):
            yield from _message(message, comments, (4, i), "")
        for i, enum in enumerate(file.enum_type):
            yield from _enum(enum, comments, (5, i), "")


def comments_of(file: FileDescriptorProto) -> Comments:
    """Comments by the path of what they stand before (descriptor.proto's SourceCodeInfo)."""
    return {
        tuple(location.path): " ".join(
            paragraph for line in location.leading_comments.splitlines() if (paragraph := line.strip())
        )
        for location in file.source_code_info.location
    }


def _method(method: MethodDescriptorProto) -> str:
    takes, gives = (
        ("stream of " if streams else "") + _link(kind)
        for streams, kind in (
            (method.client_streaming, method.input_type),
            (method.server_streaming, method.output_type),
        )
    )
    rule = method.options.Extensions[annotations_pb2.http]
    verb = rule.WhichOneof("pattern")
    path = f" [`{verb.upper()} {getattr(rule, verb)}`]" if verb else ""
    return f"### {method.name}\n\n{takes} → {gives}{path}"


def _message(
    message: DescriptorProto, comments: Comments, path: tuple[int, ...], prefix: str
) -> Iterator[str]:
    if message.options.map_entry:
        return
    name = prefix + message.name
    yield from (f"## {name}", "", comments[path], "")
    if message.field:
        yield from ("| field | type | |", "|---|---|---|")
    for i, field in enumerate(message.field):
        yield f"| `{field.name}` | {_type(field, message)} | {comments[*path, 2, i]} |"
    if message.field:
        yield ""
    for i, nested in enumerate(message.nested_type):
        yield from _message(nested, comments, (*path, 3, i), f"{name}.")
    for i, enum in enumerate(message.enum_type):
        yield from _enum(enum, comments, (*path, 4, i), f"{name}.")


def _enum(enum: EnumDescriptorProto, comments: Comments, path: tuple[int, ...], prefix: str) -> Iterator[str]:
    yield from (f"## {prefix}{enum.name}", "", comments[path], "", "| value | number | |", "|---|---|---|")
    for i, value in enumerate(enum.value):
        yield f"| `{value.name}` | {value.number} | {comments[*path, 2, i]} |"
    yield ""


def _type(field: FieldDescriptorProto, message: DescriptorProto) -> str:
    entries = {f"{message.name}.{n.name}": n for n in message.nested_type if n.options.map_entry}
    if entry := entries.get(".".join(field.type_name.split(".")[-2:])):
        key, value = (_link(part.type_name) if part.type_name else _scalar(part) for part in entry.field)
        return f"map of {key} to {value}"
    kind = _link(field.type_name) if field.type_name else _scalar(field)
    if field.label == FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {kind}"
    if field.proto3_optional:
        return f"optional {kind}"
    if field.HasField("oneof_index"):
        return f"{kind}, one of `{message.oneof_decl[field.oneof_index].name}`"
    return kind


def _scalar(field: FieldDescriptorProto) -> str:
    return FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()


def _link(type_name: str) -> str:
    """A type's name, as a link to its section when it is one of ours."""
    for package in _PACKAGES:
        if type_name.startswith(package):
            name = type_name.removeprefix(package)
            return f"[{name}](#{name.lower().replace('.', '')})"
    return f"`{type_name.removeprefix('.')}`"


def main() -> None:
    """The command line."""
    page = reference(descriptors())
    if sys.argv[1:] == ["--check"]:
        if not TARGET.is_file() or TARGET.read_text() != page:
            raise SystemExit("docs/api.md is out of date: run `make format`")
        return
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(page)


if __name__ == "__main__":
    main()
