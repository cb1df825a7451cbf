"""Cases by lot: calls of every method, most of them nearly right, by several callers at the same time."""

import gzip
from functools import cache
from typing import Any

from hypothesis import strategies as st

from octet.v1 import chat_service_pb2, completion_service_pb2, content_pb2, tool_pb2
from tests.fuzz.cases import KEYS, Call, Case
from tests.fuzz.constraints import grammars, regexes, schema_texts, schemas
from tests.fuzz.gateway import generate_requests
from tests.fuzz.kserve import inferences
from tests.fuzz.messages import NAMES, REQUEST_IDS, json_objects, messages, set_field, structs, texts
from tests.fuzz.methods import (
    CANCEL_CHAT,
    CHAT,
    COMPLETE,
    COUNT_TOKENS,
    GATEWAY,
    INFER,
    STREAM_CHAT,
    STREAM_COMPLETE,
    STREAM_INFER,
    methods,
)
from tests.fuzz.mutate import mutated
from tests.fuzz.pictures import picture_files
from tests.fuzz.tool_text import tool_texts
from tests.integration.http2 import framed

MOST_CALLS = 8

# What is out of the ordinary about a chat.
_SUBJECTS = st.sampled_from(
    [
        (),
        (),
        ("sampling",),
        ("form",),
        ("options",),
        ("spoilt",),
        ("sampling", "form"),
        ("options", "sampling", "spoilt"),
    ]
)
_TEMPLATE_ARGUMENTS = st.dictionaries(
    st.sampled_from(
        ["enable_thinking", "bos_token", "messages", "tools", "a", "strftime_now", "raise_exception"]
    ),
    st.sampled_from([True, None, "", "a", 1.5, [], {}, ["{{ 1 }}"]]),
    max_size=2,
)

_SECONDS = st.sampled_from([0.0, 0.001, 0.01, 0.05, 0.3, 5.0, 1e6])
_CANCEL_SECONDS = st.sampled_from([0.0, 0.001, 0.005, 0.02, 0.1])

_SAID = st.text(alphabet="abcdefgh \n.é日𝒳\"'{}[]()`=,:", min_size=1, max_size=60)

_METADATA_NAMES = st.one_of(
    st.sampled_from(
        [
            "x-request-id",
            "authorization",
            "traceparent",
            "tracestate",
            "baggage",
            "endpoint-load-metrics",
            "grpc-trace-bin",
            "x-a",
            "x-a-bin",
            "grpc-previous-rpc-attempts",
            "user-agent",
            "x-forwarded-for",
            "cookie",
            "octet",
        ]
    ),
    st.from_regex(r"[a-z0-9_.-]{1,12}", fullmatch=True).filter(lambda name: not name.startswith("grpc-")),
)
_VALUES = st.one_of(
    st.sampled_from(
        [
            "",
            "a",
            "Bearer one",
            "Bearer",
            "bearer  two",
            "00-" + "a" * 32 + "-" + "b" * 16 + "-01",
            "00-" + "0" * 32 + "-" + "0" * 16 + "-ff",
            "a=b,c=d;e",
            "x" * 128,
            "x" * 129,
            "x" * 7000,
            "TEXT",
            "%00",
        ]
    ),
    st.text(alphabet=[chr(code) for code in range(32, 127)], max_size=20),
)


# Values that are allowed.
_ALLOWED: dict[str, st.SearchStrategy[Any]] = {
    "temperature": st.sampled_from([0.0, 0.7, 2.0]),
    "top_p": st.sampled_from([1e-6, 0.5, 1.0]),
    "top_k": st.sampled_from([0, 1, 10**6]),
    "min_p": st.sampled_from([0.0, 1.0]),
    "seed": st.sampled_from([0, 1, 2**63 - 1]),
    "n": st.integers(1, 5),
    "presence_penalty": st.sampled_from([-2.0, 2.0]),
    "frequency_penalty": st.sampled_from([-2.0, 2.0]),
    "repetition_penalty": st.sampled_from([1e-6, 2.0]),
    "ignore_eos": st.booleans(),
    "min_tokens": st.integers(0, 5),
    "logprobs": st.just(True),
    "top_logprobs": st.integers(0, 20),
    "prompt_logprobs": st.integers(0, 20),
    "include_stop_string": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "max_reasoning_tokens": st.integers(0, 9),
}
_LISTS: dict[str, st.SearchStrategy[Any]] = {
    "stop": st.lists(st.one_of(_SAID, st.sampled_from(["a", " ", "\n", "é"])), max_size=4),
    "stop_token_ids": st.lists(st.integers(0, 300), max_size=4),
    "bad_words": st.lists(_SAID.filter(str.strip), max_size=4),
    "allowed_token_ids": st.lists(st.integers(0, 300), max_size=9),
}


@st.composite
def metadata(draw: st.DrawFn) -> tuple[tuple[str, str | bytes], ...]:
    """What else a call may carry."""
    entries: list[tuple[str, str | bytes]] = []
    for _ in range(draw(st.integers(1, 4))):
        name = draw(_METADATA_NAMES)
        value: str | bytes = draw(st.binary(max_size=20)) if name.endswith("-bin") else draw(_VALUES)
        entries += [(name, value)] * draw(st.sampled_from([1, 1, 1, 2, 400]))
    return tuple(entries)


@st.composite
def chats(draw: st.DrawFn) -> chat_service_pb2.ChatRequest:
    """A request to Chat with little or nothing wrong with it."""
    request = chat_service_pb2.ChatRequest(request_id=draw(st.sampled_from(["", "", "", *REQUEST_IDS])))
    request.sampling.max_tokens = draw(st.integers(1, 24))
    if draw(st.booleans()):
        _add_tools(draw, request)
    _converse(draw, request)
    subjects = draw(_SUBJECTS)
    if "sampling" in subjects:
        _sample(draw, request.sampling)
    if "form" in subjects:
        _constrain(draw, request)
    if draw(st.integers(0, 3)) == 0:
        _begin(draw, request)
    if "options" in subjects:
        _set_options(draw, request)
    if "spoilt" in subjects:
        _spoil(draw, request)
    return request


@st.composite
def completions(draw: st.DrawFn) -> completion_service_pb2.CompletionRequest:
    """A request to Complete with little or nothing wrong with it."""
    request = completion_service_pb2.CompletionRequest(
        request_id=draw(st.sampled_from(["", "", "", *REQUEST_IDS]))
    )
    request.sampling.max_tokens = draw(st.integers(1, 24))
    for _ in range(draw(st.sampled_from([1, 1, 2, 3, 7]))):
        prompt = request.prompts.add()
        for _ in range(draw(st.integers(1, 3))):
            form = draw(st.integers(0, 4))
            if form <= 2:
                prompt.parts.add(text=draw(st.one_of(_SAID, texts.filter(bool))))
            elif form == 3:
                ids = draw(st.lists(st.integers(0, 300), min_size=1, max_size=9))
                prompt.parts.add().tokens.ids.extend(ids * draw(st.sampled_from([1, 1, 1, 100, 1000])))
            else:
                prompt.parts.add().image.data = draw(picture_files())
    subjects = draw(_SUBJECTS)
    if "sampling" in subjects:
        _sample(draw, request.sampling)
    if "form" in subjects:
        _constrain(draw, request)
    if "options" in subjects:
        request.cache_salt = draw(st.sampled_from(["", "a", "é" * 128]))
        request.add_special_tokens = draw(st.booleans())
        request.parse_special_tokens = draw(st.booleans())
    if "spoilt" in subjects:
        _spoil(draw, request)
    return request


def _set_options(draw: st.DrawFn, request: chat_service_pb2.ChatRequest) -> None:
    request.adapter = draw(st.sampled_from(["", "", "pirate", "nobody"]))
    request.cache_salt = draw(st.sampled_from(["", "a", "é" * 128]))
    request.priority = draw(st.sampled_from([0, 0, 0, 1, -(2**31)]))
    if draw(st.booleans()):
        request.chat_template_args.CopyFrom(draw(structs(_TEMPLATE_ARGUMENTS)))
    if draw(st.booleans()):
        request.image_options.pan_and_scan = draw(st.booleans())


def _add_tools(draw: st.DrawFn, request: chat_service_pb2.ChatRequest) -> None:
    for name in draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)):
        tool = request.tools.add(name=name, description=draw(st.sampled_from(["", "Does it."])))
        form = draw(st.integers(0, 3))
        if form == 0:
            tool.parameters.CopyFrom(draw(structs(_object_schemas())))
        elif form == 1:
            tool.parameters_json = draw(schema_texts())
        elif form == 2:
            tool.parameters_json = '{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}'
        tool.strict = draw(st.integers(0, 3)) == 0
    if draw(st.booleans()):
        request.tool_choice.mode = draw(st.sampled_from(tool_pb2.ToolChoice.Mode.values()))
        if request.tool_choice.mode == tool_pb2.ToolChoice.MODE_NAMED:
            request.tool_choice.name = request.tools[0].name
        if draw(st.booleans()):
            request.tool_choice.parallel_calls = draw(st.booleans())
        if draw(st.booleans()):
            names = [tool.name for tool in request.tools]
            request.tool_choice.allowed_names.extend(draw(st.lists(st.sampled_from(names), unique=True)))


@cache
def _object_schemas() -> st.SearchStrategy[Any]:
    return schemas().map(lambda schema: {"type": "object", "properties": {"a": schema}, "required": ["a"]})


def _converse(draw: st.DrawFn, request: chat_service_pb2.ChatRequest) -> None:
    add = request.messages.add
    if draw(st.booleans()):
        add(role=content_pb2.ROLE_SYSTEM).parts.add(text=draw(_SAID))
    for number in range(draw(st.integers(0, 2))):
        add(role=content_pb2.ROLE_USER).parts.add(text=draw(_SAID))
        answer = add(role=content_pb2.ROLE_ASSISTANT)
        if not (request.tools and draw(st.booleans())):
            answer.parts.add(text=draw(_SAID))
            continue
        call = tool_pb2.ToolCall(id=f"c{number}", name=request.tools[0].name, arguments_json='{"a": "b"}')
        answer.parts.add(tool_call=call)
        turn = add(role=content_pb2.ROLE_TOOL)
        result = turn.parts.add().tool_result
        result.call_id = call.id
        for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
            turn.parts.add().image.data = draw(picture_files())
        if draw(st.booleans()):
            result.text = draw(texts)
        else:
            result.data.CopyFrom(draw(structs(json_objects)))
    last = add(role=content_pb2.ROLE_USER)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        last.parts.add().image.data = draw(picture_files())
    last.parts.add(text=draw(st.one_of(_SAID, tool_texts(NAMES), texts.filter(bool))))


def _begin(draw: st.DrawFn, request: chat_service_pb2.ChatRequest) -> None:
    """Begins the answer, in a form that it is to have or in another."""
    said = request.messages.add(role=content_pb2.ROLE_ASSISTANT)
    form = request.output_format
    whole = draw(
        st.sampled_from(
            [
                *form.choice.values[:1],
                *[
                    '{"a":"b"}',
                    '{"city": "Oslo"}',
                    '[{"name": "f", "parameters": {"a": "b"}}]',
                    "",
                    " \n",
                    "Well. ",
                ],
            ]
        )
        | tool_texts(NAMES)
        | _SAID
    )
    if draw(st.booleans()):
        said.parts.add(text=whole[: draw(st.integers(0, len(whole)))])
    if request.tools and draw(st.booleans()):
        arguments = draw(st.sampled_from(["", "{", '{"a": "', '{"a": 1, "b', '{"a": "b"}', "nonsense"]))
        call = tool_pb2.ToolCall(id="begun", name=request.tools[0].name, arguments_json=arguments)
        said.parts.add(tool_call=call)


def _sample(draw: st.DrawFn, sampling: chat_service_pb2.SamplingParams) -> None:
    """Sets a few fields."""
    for name in draw(st.lists(st.sampled_from([*_ALLOWED, *_LISTS]), max_size=4, unique=True)):
        if name in _ALLOWED:
            setattr(sampling, name, draw(_ALLOWED[name]))
        else:
            getattr(sampling, name).extend(draw(_LISTS[name]))
    if draw(st.booleans()):
        sampling.logit_bias.update(
            draw(st.dictionaries(st.integers(0, 300), st.sampled_from([-100.0, 0.0, 100.0]), max_size=5))
        )


def _constrain(
    draw: st.DrawFn, request: chat_service_pb2.ChatRequest | completion_service_pb2.CompletionRequest
) -> None:
    form = request.output_format
    match draw(st.integers(0, 5)):
        case 0:
            form.json_object.SetInParent()
        case 1:
            form.json_schema.CopyFrom(draw(structs(schemas())))
        case 2:
            form.json_schema_text = draw(schema_texts())
        case 3:
            form.regex = draw(regexes())
        case 4:
            form.grammar = draw(grammars())
        case 5:
            form.choice.values.extend(
                draw(st.lists(_SAID, min_size=1, max_size=4)) * draw(st.sampled_from([1, 1, 240]))
            )
    if draw(st.integers(0, 3)) == 0:
        form.free_white_space = True


def _spoil(draw: st.DrawFn, message: Any) -> None:
    """Sets a field somewhere in a message to anything."""
    fields = list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = draw(st.sampled_from(fields))
    inner: list[Any] = []
    if field.message_type is not None and not field.message_type.GetOptions().map_entry:
        value = getattr(message, field.name)
        inner = list(value) if field.is_repeated else [value]
    if inner and draw(st.integers(0, 3)):
        _spoil(draw, inner[draw(st.integers(0, len(inner) - 1))])
    else:
        set_field(draw, message, field)


_HEADERS: dict[str, st.SearchStrategy[str]] = {
    ":method": st.sampled_from(["GET", "PUT", "CONNECT", "", "post"]),
    ":scheme": st.sampled_from(["https", "", "octet"]),
    ":path": st.text(alphabet=st.characters(max_codepoint=255), max_size=20),
    ":authority": st.sampled_from(["", "é", "a" * 300, "x:99999"]),
    "content-type": st.sampled_from(
        ["text/plain", "application/grpc+json", "application/grpc-web", "", "application/grpc;a"]
    ),
    "te": st.sampled_from(["", "gzip", "trailers, deflate"]),
    "grpc-encoding": st.sampled_from(["identity", "gzip", "deflate", "brotli", ""]),
    "grpc-accept-encoding": st.sampled_from(["gzip", "identity,brotli", "\xff"]),
    "grpc-timeout": st.sampled_from(["0n", "1u", "99999999H", "123456789S", "-1S", "S", "1", "soon", "100m"]),
    "grpc-previous-rpc-attempts": st.sampled_from(["1", "-1", "x"]),
    "authorization": st.text(alphabet=st.characters(max_codepoint=255), max_size=20),
    "x-request-id": st.text(alphabet=st.characters(max_codepoint=255), max_size=20),
    "traceparent": st.text(alphabet=st.characters(max_codepoint=255), max_size=60),
    "x-a-bin": st.sampled_from(["!!", "AA", "AAAA,AAAA", "="]),
    "X-Name": st.just("x"),
    "x a": st.just("x"),
    "": st.just("x"),
    "connection": st.just("close"),
    "content-length": st.sampled_from(["0", "99999999", "-1", "x"]),
}


@st.composite
def by_hand(draw: st.DrawFn) -> Call:
    """A call with headers and a body that no client of gRPC's would send."""
    names = draw(st.lists(st.sampled_from(list(_HEADERS)), min_size=1, max_size=3, unique=True))
    message: bytes = draw(chats()).SerializeToString(deterministic=True)
    form = draw(st.integers(0, 6))
    body = framed(message, draw(st.sampled_from([0, 0, 1, 2, 255])))
    if form == 1:
        body = framed(gzip.compress(message, mtime=0), 1)
    elif form == 2:
        body = body[: draw(st.integers(0, 12))]
    elif form == 3:
        body = b"\0" + draw(st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\0\0\0"])) + message
    elif form == 4:
        body *= 2
    elif form == 5:
        # Much from little.
        body = framed(gzip.compress(b"\0" * 2**25, mtime=0), 1)
    return Call(
        draw(st.sampled_from([CHAT, STREAM_CHAT, CANCEL_CHAT])),
        headers=tuple((name, draw(_HEADERS[name])) for name in names),
        # As much as is sent at once.
        body=body[: 2**16 - 1],
    )


@st.composite
def calls(draw: st.DrawFn, *, gateways: bool) -> Call:
    """One call."""
    served = {path: method for path, method in methods().items() if gateways or not path.startswith(GATEWAY)}
    request: Any
    form = draw(st.integers(0, 15))
    if form == 10:
        return draw(by_hand())
    if form == 11 and gateways:
        path, request = f"{GATEWAY}VllmEngine/Generate", draw(generate_requests())
    elif form <= 5:
        request = draw(chats())
        path = draw(st.sampled_from([STREAM_CHAT, STREAM_CHAT, CHAT, COUNT_TOKENS]))
        if path == COUNT_TOKENS:
            request = served[path].request(request=request)
    elif form >= 14:
        path, request = draw(st.sampled_from([STREAM_INFER, INFER])), draw(inferences())
    elif form >= 12:
        path, request = draw(st.sampled_from([STREAM_COMPLETE, COMPLETE])), draw(completions())
    elif form == 6:
        path, request = CANCEL_CHAT, chat_service_pb2.CancelChatRequest(request_ids=REQUEST_IDS)
    else:
        path = draw(st.sampled_from(sorted(served)))
        request = draw(messages(served[path].request.DESCRIPTOR))
    data: bytes = request.SerializeToString(deterministic=True)
    sent = (data,)
    damage = draw(st.integers(0, 29))
    if damage <= 2:
        sent = (draw(mutated(data)),)
    elif damage == 3:
        sent = draw(st.sampled_from([(), (data, data), (b"", data)]))
    elif damage == 4:
        path = draw(
            st.sampled_from(
                ["/", "/octet.v1.ChatService/", path + "/", path.lower(), "/a/b", "/é/𝒳", path + "?a", "//"]
            )
        )
    if served.get(path) is not None and served[path].many:
        sent *= draw(st.integers(0, 3))
    ending = draw(st.integers(0, 19))
    return Call(
        path,
        sent,
        key=draw(st.sampled_from([*KEYS * 20, "", "nobody"])),
        metadata=draw(metadata()) if draw(st.integers(0, 9)) == 0 else (),
        seconds=draw(_SECONDS) if ending == 1 else None,
        cancel_seconds=draw(_CANCEL_SECONDS) if ending == 2 else None,
        reads=draw(st.integers(1, 4)) if ending == 3 else None,
    )


def cases(*, gateways: bool) -> st.SearchStrategy[Case]:
    """Cases.

    Args:
        gateways: whether the server answers SMG gateways.
    """
    return st.lists(calls(gateways=gateways), min_size=1, max_size=MOST_CALLS).map(
        lambda made: Case(tuple(made))
    )
