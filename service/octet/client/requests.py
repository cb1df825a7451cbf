"""Requests out of what a Python program has at hand."""

import json
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypedDict

from octet.client.answer import Answer
from octet.client.images import ImageSource, to_image
from octet.translate.values import check_representable, dict_to_struct
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2

ToolSource: TypeAlias = tool_pb2.Tool | Mapping[str, Any]
"""A tool, or a mapping with name, description, parameters (a JSON Schema) and strict, also in "function"."""

Turn: TypeAlias = content_pb2.Message | Answer
Conversation: TypeAlias = str | Turn | Sequence[Turn]
"""A user's text, one turn, or all turns so far; an `Answer` stands for the assistant's turn."""

_CHOICES = {
    "auto": tool_pb2.ToolChoice.MODE_AUTO,
    "none": tool_pb2.ToolChoice.MODE_NONE,
    "required": tool_pb2.ToolChoice.MODE_REQUIRED,
}


class SamplingOptions(TypedDict, total=False):
    """How tokens are chosen; octet.v1.SamplingParams has each option's meaning and range."""

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    seed: int
    stop: Sequence[str]
    stop_token_ids: Sequence[int]
    n: int
    presence_penalty: float
    frequency_penalty: float
    repetition_penalty: float
    ignore_eos: bool
    min_tokens: int
    logit_bias: Mapping[int, float]
    bad_words: Sequence[str]
    allowed_token_ids: Sequence[int]
    logprobs: bool
    top_logprobs: int
    prompt_logprobs: int
    include_stop_string: bool
    skip_special_tokens: bool
    max_reasoning_tokens: int


class ChatOptions(SamplingOptions, total=False):
    """What a chat may be given besides the conversation; all of it is optional.

    Attributes:
        images: pictures that go before the conversation's text; only with a conversation that is a str.
        system: instructions for the whole conversation, put before it.
        tools: functions that the model may ask for.
        tool_choice: "auto", "none", "required", or a tool's name.
        parallel_calls: whether one answer may hold several calls; default: it may.
        allowed_tools: names of the tools that may be called; the model sees the others as well. Default: all.
        output_format: a form that the answer must have.
        model: a served model's name; default: the server's first.
        request_id: the request's id; default: a new one.
        priority: smaller goes first, on a server that schedules by priority.
        adapter: the LoRA adapter to answer with.
        cache_salt: only requests with the same salt share cached prompt prefixes.
        chat_template_args: variables for the model's chat template.
        pan_and_scan: whether Gemma 3 also looks at crops of each picture.
        timeout: seconds until the call ends with DEADLINE_EXCEEDED; default: the client's.
    """

    images: Sequence[ImageSource]
    system: str
    tools: Sequence[ToolSource]
    tool_choice: str | tool_pb2.ToolChoice
    parallel_calls: bool
    allowed_tools: Sequence[str]
    output_format: chat_service_pb2.OutputFormat
    model: str
    request_id: str
    priority: int
    adapter: str
    cache_salt: str
    chat_template_args: Mapping[str, Any]
    pan_and_scan: bool
    timeout: float


def chat_request(conversation: Conversation, options: ChatOptions) -> chat_service_pb2.ChatRequest:
    """The request for a conversation. It always has an id, so that it can be cancelled by id.

    Raises:
        OSError: when a picture's file cannot be read.
        ValueError: when `images` are given with turns, or a schema holds what JSON cannot hold.
        TypeError: when an option is unknown or of the wrong type.
    """
    unknown = options.keys() - ChatOptions.__annotations__.keys()
    if unknown:
        raise TypeError(f"unknown options: {', '.join(sorted(unknown))}")
    request = chat_service_pb2.ChatRequest(
        model=options.get("model", ""),
        messages=_messages(conversation, options),
        tools=[tool(source) for source in options.get("tools", ())],
        sampling=sampling_params(options),
        request_id=options.get("request_id") or uuid.uuid4().hex,
        priority=options.get("priority", 0),
        adapter=options.get("adapter", ""),
        cache_salt=options.get("cache_salt", ""),
    )
    if "tool_choice" in options:
        request.tool_choice.CopyFrom(_tool_choice(options["tool_choice"]))
    if "parallel_calls" in options:
        request.tool_choice.parallel_calls = options["parallel_calls"]
    if "allowed_tools" in options:
        del request.tool_choice.allowed_names[:]
        request.tool_choice.allowed_names.extend(options["allowed_tools"])
    if "output_format" in options:
        request.output_format.CopyFrom(options["output_format"])
    if "chat_template_args" in options:
        request.chat_template_args.CopyFrom(dict_to_struct(options["chat_template_args"]))
    if "pan_and_scan" in options:
        request.image_options.pan_and_scan = options["pan_and_scan"]
    return request


def user(text: str = "", images: Iterable[ImageSource] = ()) -> content_pb2.Message:
    """A user's turn: pictures, then text."""
    parts = [content_pb2.Part(image=to_image(image)) for image in images]
    if text or not parts:
        parts.append(content_pb2.Part(text=text))
    return content_pb2.Message(role=content_pb2.ROLE_USER, parts=parts)


def system(text: str) -> content_pb2.Message:
    """Instructions: for the whole conversation as the first turn, or from their place on."""
    return content_pb2.Message(role=content_pb2.ROLE_SYSTEM, parts=[content_pb2.Part(text=text)])


def assistant(text: str) -> content_pb2.Message:
    """An assistant's turn of text alone. For a turn of the model's own, use its `Answer`."""
    return content_pb2.Message(role=content_pb2.ROLE_ASSISTANT, parts=[content_pb2.Part(text=text)])


def joined(*turns: Turn) -> content_pb2.Message:
    """The assistant's turn that an answer and those that went on with it make together."""
    whole = content_pb2.Message(role=content_pb2.ROLE_ASSISTANT)
    for turn in turns:
        for part in (turn.message if isinstance(turn, Answer) else turn).parts:
            last = whole.parts[-1] if whole.parts else content_pb2.Part()
            kind = part.WhichOneof("kind")
            if kind != last.WhichOneof("kind"):
                whole.parts.append(part)
            elif kind == "text":
                last.text += part.text
            elif kind == "reasoning":
                last.reasoning += part.reasoning
            elif kind == "tool_call" and part.tool_call.id == last.tool_call.id:
                # A call that was cut off comes again as a whole.
                last.CopyFrom(part)
            else:
                whole.parts.append(part)
    return whole


def tool_result(
    call_id: str, result: str | Mapping[str, Any], images: Iterable[ImageSource] = ()
) -> content_pb2.Message:
    """What the tool call `call_id` gave: text, or structured data, and pictures that belong to it.

    Raises:
        OSError: when a picture's file cannot be read.
        ValueError: when the data hold what JSON cannot hold.
    """
    answer = tool_pb2.ToolResult(call_id=call_id)
    if isinstance(result, str):
        answer.text = result
    else:
        answer.data.CopyFrom(dict_to_struct(result))
    parts = [content_pb2.Part(tool_result=answer)]
    parts += [content_pb2.Part(image=to_image(image)) for image in images]
    return content_pb2.Message(role=content_pb2.ROLE_TOOL, parts=parts)


def tool(source: ToolSource) -> tool_pb2.Tool:
    """The message for a tool.

    Raises:
        ValueError: when its parameters hold numbers or texts that JSON cannot hold.
        TypeError: when an entry of a mapping has the wrong type.
    """
    if isinstance(source, tool_pb2.Tool):
        return source
    declaration = source.get("function", source)
    if not isinstance(declaration, Mapping):
        raise TypeError(f"a tool is a mapping, not {declaration!r}")
    name, parameters = declaration.get("name", ""), declaration.get("parameters")
    result = tool_pb2.Tool(
        name=name, description=declaration.get("description", ""), strict=declaration.get("strict", False)
    )
    if parameters is not None:
        if not isinstance(parameters, Mapping):
            raise TypeError(f"the parameters of a tool are a mapping, not {parameters!r}")
        result.parameters_json = _json(parameters)
    return result


def json_schema(
    schema: Mapping[str, Any], *, free_white_space: bool = False
) -> chat_service_pb2.OutputFormat:
    """The form of JSON that satisfies a JSON Schema; the model writes properties in the schema's order.

    Args:
        schema: the schema, such as what a pydantic model's `model_json_schema()` gives.
        free_white_space: whether the model may put white space between the parts.

    Raises:
        ValueError: when the schema holds numbers or texts that JSON cannot hold.
        TypeError: when it holds something that is no JSON value.
    """
    return chat_service_pb2.OutputFormat(json_schema_text=_json(schema), free_white_space=free_white_space)


def turns_of(conversation: Conversation, options: ChatOptions) -> list[Turn]:
    """All turns of a conversation, with the options `system` and `images` worked in.

    Raises:
        OSError: when a picture's file cannot be read.
        ValueError: when `images` are given with turns.
    """
    images = options.get("images", ())
    turns: list[Turn] = [system(options["system"])] if options.get("system") else []
    if isinstance(conversation, str):
        return [*turns, user(conversation, images)]
    if images:
        raise ValueError("images go with a text; with turns, put them into one: user(text, images)")
    if isinstance(conversation, content_pb2.Message | Answer):
        return [*turns, conversation]
    return [*turns, *conversation]


def _json(schema: Mapping[str, Any]) -> str:
    check_representable(schema)
    return json.dumps(schema, ensure_ascii=False)


def _messages(conversation: Conversation, options: ChatOptions) -> list[content_pb2.Message]:
    turns = turns_of(conversation, options)
    return [turn.message if isinstance(turn, Answer) else turn for turn in turns]


def sampling_params(options: SamplingOptions) -> chat_service_pb2.SamplingParams | None:
    """How tokens are chosen, out of all options of a request; None where they say nothing of that."""
    given = {name: options[name] for name in SamplingOptions.__annotations__ if name in options}  # type: ignore[literal-required]
    return chat_service_pb2.SamplingParams(**given) if given else None


def _tool_choice(choice: str | tool_pb2.ToolChoice) -> tool_pb2.ToolChoice:
    if isinstance(choice, tool_pb2.ToolChoice):
        return choice
    if choice in _CHOICES:
        return tool_pb2.ToolChoice(mode=_CHOICES[choice])
    return tool_pb2.ToolChoice(mode=tool_pb2.ToolChoice.MODE_NAMED, name=choice)
