"""What decoding is held to: an output format, or the tool calls that a request demands."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from octet.engine.types import GenerationRequest, OutputFormat, OutputKind, Tool, ToolChoice, ToolChoiceMode
from octet.errors import InvalidRequestError
from octet.translate.tool_schema import calls_schema

if TYPE_CHECKING:
    from vllm.sampling_params import StructuredOutputsParams


def forces_calls(choice: ToolChoice) -> bool:
    """Whether the answer has to consist of tool calls."""
    return choice.mode in (ToolChoiceMode.REQUIRED, ToolChoiceMode.NAMED)


def is_constrained(request: GenerationRequest) -> bool:
    """Whether the answer is held to any form."""
    return request.output_format is not None or forces_calls(request.tool_choice)


def structured_outputs(request: GenerationRequest) -> "StructuredOutputsParams | None":
    """The constraint as vLLM takes it; None for free text.

    Raises:
        InvalidRequestError: a tool's schema cannot be compiled.
    """
    from vllm.sampling_params import StructuredOutputsParams

    if forces_calls(request.tool_choice):
        return StructuredOutputsParams(**_calls(request.tools, request.tool_choice))
    if request.output_format is None:
        return None
    return StructuredOutputsParams(**_format(request.output_format))


def constraint_field(request: GenerationRequest) -> str:
    """The field of the request that the constraint comes from."""
    if forces_calls(request.tool_choice):
        return "tools"
    if request.output_format is not None:
        return f"output_format.{request.output_format.kind.value}"
    return "sampling"


def _format(output_format: OutputFormat) -> dict[str, Any]:
    spec = output_format.spec
    match output_format.kind:
        case OutputKind.JSON_OBJECT:
            return {"json_object": True}
        case OutputKind.JSON_SCHEMA:
            return {"json": json.dumps(spec)}
        case OutputKind.REGEX:
            return {"regex": spec}
        case OutputKind.GRAMMAR:
            return {"grammar": spec}
        case OutputKind.CHOICE:
            return {"choice": list(spec or ())}


def _calls(tools: Sequence[Tool], choice: ToolChoice) -> dict[str, Any]:
    """Calls in exactly the form that models are asked for.

    JSON's free white space would let a model write blanks until its tokens are used up, and small ones do.
    """
    from vllm.v1.structured_output.backend_xgrammar import has_xgrammar_unsupported_json_features
    from xgrammar import Grammar

    schema = calls_schema(tools, choice)
    text = json.dumps(schema)
    if has_xgrammar_unsupported_json_features(schema):
        return {"json": text}
    try:
        grammar = Grammar.from_json_schema(text, any_whitespace=False, separators=(", ", ": "))
    except RuntimeError as error:
        raise InvalidRequestError("tools", f"the parameters' schema: {_reason(error)}") from error
    return {"grammar": str(grammar)}


def _reason(error: Exception) -> str:
    """The compiler's message without the place in its source."""
    return " ".join(str(error).split()).rpartition("json_schema_converter.cc:")[2].partition(": ")[2] or str(
        error
    )
