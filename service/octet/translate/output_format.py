"""The form that an answer must have."""

from octet.engine.types import OutputFormat, OutputKind, ToolChoice, ToolChoiceMode
from octet.errors import InvalidRequestError
from octet.translate.schemas import SchemaReader
from octet.v1 import chat_service_pb2

MAX_REGEX_LENGTH = 8192
MAX_GRAMMAR_LENGTH = 65536
MAX_CHOICES = 1000
MAX_CHOICE_LENGTH = 1000

# The formats whose answers are JSON.
_JSON = frozenset({"json_object", "json_schema", "json_schema_text"})


def to_output_format(
    output_format: chat_service_pb2.OutputFormat, choice: ToolChoice, schemas: SchemaReader
) -> OutputFormat | None:
    """Checks and converts a set ChatRequest.output_format; None means free text. `schemas` reads a schema.

    Whether a regular expression or grammar compiles is the engine's to say.

    Raises:
        InvalidRequestError: at the wrong field.
    """
    converted = _convert(output_format, schemas)
    if converted is not None and choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED):
        raise InvalidRequestError(
            "output_format",
            "constrains the text, but tool_choice requires a tool call instead of text; set one of the two",
        )
    return converted


def _convert(output_format: chat_service_pb2.OutputFormat, schemas: SchemaReader) -> OutputFormat | None:
    kind, white_space = output_format.WhichOneof("format"), output_format.free_white_space
    if white_space and kind not in _JSON:
        raise InvalidRequestError(
            "output_format.free_white_space", "is for JSON; leave it out with any other format"
        )
    match kind:
        case "text":
            return None
        case "json_object":
            return OutputFormat(OutputKind.JSON_OBJECT, white_space=white_space)
        case "json_schema":
            schema = schemas.read(output_format.json_schema, "output_format.json_schema")
            return OutputFormat(OutputKind.JSON_SCHEMA, schema, white_space=white_space)
        case "json_schema_text":
            schema = schemas.read_text(output_format.json_schema_text, "output_format.json_schema_text")
            return OutputFormat(OutputKind.JSON_SCHEMA, schema, as_text=True, white_space=white_space)
        case "regex":
            regex = _bounded(output_format.regex, MAX_REGEX_LENGTH, "output_format.regex")
            return OutputFormat(OutputKind.REGEX, regex)
        case "grammar":
            grammar = _bounded(output_format.grammar, MAX_GRAMMAR_LENGTH, "output_format.grammar")
            return OutputFormat(OutputKind.GRAMMAR, grammar)
        case "choice":
            return OutputFormat(OutputKind.CHOICE, _choices(output_format.choice))
        case _:
            raise InvalidRequestError(
                "output_format", "sets no format; set one of its fields, or leave it out for free text"
            )


def _choices(choice: chat_service_pb2.ChoiceFormat) -> tuple[str, ...]:
    field = "output_format.choice.values"
    if not 1 <= len(choice.values) <= MAX_CHOICES:
        raise InvalidRequestError(field, f"has {len(choice.values)} texts, not 1 to {MAX_CHOICES}")
    return tuple(_bounded(value, MAX_CHOICE_LENGTH, f"{field}[{i}]") for i, value in enumerate(choice.values))


def _bounded(text: str, most: int, field: str) -> str:
    if not 1 <= len(text) <= most:
        raise InvalidRequestError(field, f"has {len(text)} characters, not 1 to {most}")
    return text
