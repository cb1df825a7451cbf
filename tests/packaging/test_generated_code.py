"""The protos as other languages see them: options, names that run into each other, and the code."""

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc_tools
import pytest
from google.api import annotations_pb2
from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto

from tools.api_reference import ROOT, descriptors

Field = FieldDescriptorProto
PROTOBUF_JAR = Path("/usr/share/java/protobuf.jar")
LANGUAGES = ("cpp", "csharp", "java", "kotlin", "objc", "php", "python", "ruby")

OPTIONS = {
    "csharp_namespace": "Octet.V1",
    "go_package": "example.com/octet/gen/octet/v1;octetv1",
    "java_multiple_files": True,
    "java_package": "octet.v1",
    "objc_class_prefix": "OCT",
    "php_namespace": "Octet\\V1",
    "ruby_package": "Octet::V1",
}


@pytest.fixture(scope="module")
def files() -> list[FileDescriptorProto]:
    return descriptors()


# KServe's protocol, of whose package others make code, too: ours keeps out of its way.
KSERVE_OPTIONS = {
    "csharp_namespace": "Octet.Kserve",
    "go_package": "example.com/octet/gen/octet/kserve;kserve",
    "java_multiple_files": True,
    "java_package": "octet.kserve",
    "objc_class_prefix": "OCTK",
    "php_namespace": "Octet\\Kserve",
    "ruby_package": "Octet::Kserve",
}


def test_every_file_says_where_its_code_belongs_in_each_language(files: list[FileDescriptorProto]) -> None:
    for file in files:
        options = KSERVE_OPTIONS if file.package == "inference" else OPTIONS
        assert {name: getattr(file.options, name) for name in options} == options, file.name
        stem = Path(file.name).stem.title().replace("_", "")
        assert file.options.java_outer_classname == f"{stem}Proto"


def _java(name: str, field: Field) -> Iterator[str]:
    """What protoc makes of a field in a class of Java's, after get, set and the like."""
    yield name
    repeated = field.label == Field.LABEL_REPEATED
    if repeated:
        yield from (f"{name}List", f"{name}Count", f"{name}Map", f"{name}OrDefault", f"{name}OrThrow")
    if field.type == Field.TYPE_STRING:
        yield f"{name}Bytes"
    if field.type == Field.TYPE_MESSAGE:
        yield from (f"{name}Builder", f"{name}OrBuilder")
        if repeated:
            yield from (f"{name}BuilderList", f"{name}OrBuilderList")
    if field.type == Field.TYPE_ENUM:
        yield from (f"{name}Value", f"{name}ValueList")


def _csharp(name: str, field: Field) -> Iterator[str]:
    yield from (name, f"Has{name}", f"Clear{name}", f"{name}FieldNumber")


def _go(name: str, field: Field) -> Iterator[str]:
    yield from (name, f"Get{name}")


def _objc(name: str, field: Field) -> Iterator[str]:
    name = name[0].lower() + name[1:]
    yield from (
        (f"{name}Array", f"{name}Array_Count")
        if field.label == Field.LABEL_REPEATED
        else (name, f"has{name[0].upper()}{name[1:]}")
    )


NAMES: dict[str, Callable[[str, Field], Iterator[str]]] = {
    "java": _java,
    "csharp": _csharp,
    "go": _go,
    "objc": _objc,
}
# What each makes of a oneof.
CHOICES = {"java": "{}Case", "csharp": "{}Case", "go": "{}", "objc": "{}OneOfCase"}


def _collisions(message: DescriptorProto, language: str) -> list[str]:
    """Names that two fields of a message, or a field and a oneof, have in common."""
    names: Counter[str] = Counter()
    for field in message.field:
        camel = "".join(word[:1].upper() + word[1:] for word in field.name.split("_"))
        names.update(set(NAMES[language](camel, field)))
    # The ones that protoc makes of `optional` come last, and have a field's name behind an underscore.
    for oneof in message.oneof_decl:
        if not oneof.name.startswith("_"):
            camel = "".join(word.capitalize() for word in oneof.name.split("_"))
            names[CHOICES[language].format(camel)] += 1
    return [name for name, count in names.items() if count > 1]


def _messages(message: DescriptorProto) -> Iterator[DescriptorProto]:
    yield message
    for inner in message.nested_type:
        yield from _messages(inner)


@pytest.mark.parametrize("language", NAMES)
def test_no_two_fields_have_the_same_name(language: str, files: list[FileDescriptorProto]) -> None:
    messages = [inner for file in files for message in file.message_type for inner in _messages(message)]
    assert len(messages) > 30
    found = {message.name: _collisions(message, language) for message in messages}
    assert not {name: names for name, names in found.items() if names}


@pytest.mark.parametrize(
    ("language", "fields", "found"),
    [
        ("java", [("token", Field.TYPE_STRING), ("token_bytes", Field.TYPE_BYTES)], ["TokenBytes"]),
        ("java", [("role", Field.TYPE_ENUM), ("role_value", Field.TYPE_INT32)], ["RoleValue"]),
        ("csharp", [("stop", Field.TYPE_STRING), ("has_stop", Field.TYPE_BOOL)], ["HasStop"]),
        ("go", [("tool", Field.TYPE_STRING), ("get_tool", Field.TYPE_STRING)], ["GetTool"]),
        ("objc", [("tool", Field.TYPE_STRING), ("has_tool", Field.TYPE_BOOL)], ["hasTool"]),
    ],
)
def test_names_that_run_into_each_other_are_found(
    language: str, fields: list[tuple[str, Field.Type]], found: list[str]
) -> None:
    message = DescriptorProto(field=[Field(name=name, type=kind) for name, kind in fields])
    assert _collisions(message, language) == found


@pytest.fixture(scope="module")
def protoc() -> list[str]:
    """A compiler that knows more languages than the one that Python's package brings."""
    program = shutil.which("protoc")
    if program is None:
        pytest.skip("no protoc (Debian: protobuf-compiler)")
    google = Path(annotations_pb2.__file__).parents[2]
    types = Path(grpc_tools.__file__).parent / "_proto"
    return [program, f"-I{ROOT / 'protos'}", f"-I{google}", f"-I{types}"]


def _generate(protoc: list[str], language: str, folder: Path) -> None:
    sources = sorted(str(path.relative_to(ROOT / "protos")) for path in (ROOT / "protos").rglob("*.proto"))
    sources += ["google/api/annotations.proto", "google/api/http.proto"]
    subprocess.run([*protoc, f"--{language}_out={folder}", *sources], check=True)


@pytest.mark.parametrize("language", LANGUAGES)
def test_protoc_makes_code_of_them(language: str, protoc: list[str], tmp_path: Path) -> None:
    _generate(protoc, language, tmp_path)
    code = b"\n".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert re.search(rb"\b(OCT)?ChatRequest\b", code)


def test_java_compiles_them(protoc: list[str], tmp_path: Path) -> None:
    if shutil.which("javac") is None or not PROTOBUF_JAR.is_file():
        pytest.skip("no javac, or no protobuf for it (Debian: default-jdk-headless, libprotobuf-java)")
    _generate(protoc, "java", tmp_path)
    sources = [str(path) for path in tmp_path.rglob("*.java")]
    command = ["javac", "-nowarn", "-proc:none", "-cp", str(PROTOBUF_JAR), "-d", str(tmp_path), *sources]
    subprocess.run(command, check=True)
    assert (tmp_path / "octet" / "v1" / "ChatRequest.class").is_file()
