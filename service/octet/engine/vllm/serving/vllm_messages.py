"""Messages and tools in the form that vLLM's renderer takes: OpenAI's, with pictures as PIL images."""

import json
from collections.abc import Sequence
from typing import Any

from octet.engine.types import (
    GenerationRequest,
    ImagePart,
    Message,
    ReasoningPart,
    Role,
    TextPart,
    ToolCallPart,
    ToolChoiceMode,
    ToolResultPart,
)
from octet.engine.vllm import compat
from octet.engine.vllm.serving.special_tokens import Speech
from octet.translate.values import parse_json_object


def to_vllm_messages(messages: Sequence[Message], speech: Speech) -> list[dict[str, Any]]:
    """Messages for the renderer; their texts go through `speech`.

    A message with several tool results becomes as many messages, since chat templates know no other way.
    """
    rendered: list[dict[str, Any]] = []
    for message in messages:
        if message.role is Role.TOOL:
            rendered += _to_results(message, speech)
            continue
        turn: dict[str, Any] = {"role": message.role.value, "content": _to_content(message, speech)}
        if calls := [_to_call(part, speech) for part in message.parts if isinstance(part, ToolCallPart)]:
            turn["tool_calls"] = calls
        if reasoning := "".join(part.text for part in message.parts if isinstance(part, ReasoningPart)):
            turn["reasoning"] = speech.text(reasoning, of_model=True)
        if not turn["content"] and not calls:
            # Some templates read the first part without asking whether there is one.
            turn["content"] = [{"type": "text", "text": ""}]
        rendered.append(turn)
    return rendered


def to_vllm_tools(request: GenerationRequest) -> list[dict[str, Any]] | None:
    """The tools on offer; None when there are none or none may be called."""
    if not request.tools or request.tool_choice.mode is ToolChoiceMode.NONE:
        return None
    return [
        {
            "type": "function",
            "function": {
                "name": tool.name,
                "description": tool.description,
                # A plain copy: templates print it, and what is not a dict they print in another way.
                "parameters": json.loads(json.dumps(dict(tool.parameters))),
            },
        }
        for tool in request.tools
    ]


def _to_content(message: Message, speech: Speech) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case TextPart(text):
                if message.role is Role.SYSTEM and compat.rendering.is_dropped_from_system(text):
                    said = speech.kept(text)
                else:
                    said = speech.text(text, of_model=message.role is Role.ASSISTANT)
                content.append({"type": "text", "text": said})
            case ImagePart(image):
                content.append({"type": "image_pil", "image_pil": image})
    return content


def _to_call(call: ToolCallPart, speech: Speech) -> dict[str, Any]:
    """A call, with its arguments as an object; as the text that they are where that would lose something."""
    try:
        arguments = speech.value(parse_json_object(call.arguments_json or "{}", strict=True))
    except ValueError:
        arguments = speech.object(call.arguments_json)
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": speech.text(call.name), "arguments": arguments},
    }


def _to_results(message: Message, speech: Speech) -> list[dict[str, Any]]:
    """The results of tools, each with the pictures behind it."""
    results: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case ToolResultPart(call_id, name, content):
                turn = {"role": Role.TOOL.value, "tool_call_id": call_id, "name": speech.text(name)}
                results.append({**turn, "content": speech.text(content)})
            case ImagePart(image):
                result = results[-1]
                if isinstance(result["content"], str):
                    said = [{"type": "text", "text": result["content"]}] if result["content"] else []
                    result["content"] = said
                result["content"].append({"type": "image_pil", "image_pil": image})
    return results
