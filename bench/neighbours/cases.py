"""What a caller can think of, within the limits or just beyond them."""

import itertools
import json
import random
from collections.abc import Iterator
from io import BytesIO
from typing import Any

from PIL import Image

from bench.constraints import CASES as CONSTRAINTS
from bench.constraints import build
from bench.neighbours.calls import STREAM, Call, Case, chat, counting, field, text, tokenizing, turn
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2
from tests.pictures import flat, flat_png, slow_jpeg

_MILLION = 1_000_000


def cases() -> dict[str, Case]:
    """All cases, by a word that chooses them on the command line."""
    return {**_TEXTS, **_ANSWERS, **_constraints(), **_PICTURES, **_NO_REQUESTS}


def _call_and_result(result: bytes) -> bytes:
    """A conversation with one tool call."""
    call = tool_pb2.ToolCall(id="c", name="f", arguments_json="{}").SerializeToString()
    asked = text("a") + turn(field(2, field(3, call)), content_pb2.ROLE_ASSISTANT)
    return asked + turn(field(2, field(4, field(1, b"c") + result)), content_pb2.ROLE_TOOL)


def _numbers(count: int) -> bytes:
    number = field(1, b"\x11" + b"\0" * 8)
    return _call_and_result(field(3, field(1, field(1, b"x") + field(2, field(6, number * count)))))


def _calls(_: int) -> list[Call]:
    made = b""
    for i in range(60):
        arguments = '{"a": "' + "x" * _MILLION + '"}'
        call = tool_pb2.ToolCall(id=str(i), name="f", arguments_json=arguments)
        made += field(2, field(3, call.SerializeToString()))
    return [Call(text("a") + turn(made, content_pb2.ROLE_ASSISTANT))]


def _prompts(window: int, count: int) -> list[Call]:
    """Prompts as long as the context window permits, of which no two begin alike."""
    words = random.Random(0)
    made = []
    for _ in range(count):
        said = " ".join(words.choice(("red", "blue", "a", "house", "of", "7")) for _ in range(window // 3))
        made.append(Call(chat(said, tokens=8).SerializeToString()))
    return made


def _many_tools(_: int) -> list[Call]:
    """128 tools that have to be called, with schemas that share nothing."""
    request = chat(tokens=64)
    for i in range(128):
        properties = {f"p{i}_{j}": {"type": "integer", "minimum": j} for j in range(2)}
        request.tools.add(
            name=f"tool_{i}", parameters_json=json.dumps({"type": "object", "properties": properties})
        )
    request.tool_choice.mode = tool_pb2.ToolChoice.MODE_REQUIRED
    return [Call(request.SerializeToString())] * 4


_TEXTS = {
    "parts": Case(
        "3 million parts of a letter", lambda _: [Call(turn(field(2, field(1, b"a")) * 3 * _MILLION))]
    ),
    "numbers": Case("3 million numbers in a tool's result", lambda _: [Call(_numbers(3 * _MILLION))]),
    "values": Case(
        "4 requests with as many JSON values as are taken",
        lambda window: [Call(_numbers(window // 2 - 10))] * 4,
        again=True,
    ),
    "calls": Case("60 tool calls with 1 MB of arguments", _calls),
    "text": Case("6 requests of 63 MB of text", lambda _: [Call(text(b"a" * 63 * _MILLION))] * 6),
    "turns": Case(
        "16 requests of as many turns as are taken",
        lambda window: [Call(text("a") * max(1024, window // 64))] * 16,
        again=True,
    ),
    "scan": Case(
        "an assistant's turn of a tool's name and blanks",
        lambda window: [Call(chat("get_weather" + " " * 3 * window).SerializeToString())] * 8,
        again=True,
    ),
    "tools": Case("4 requests with 128 tools that have to be called", _many_tools, again=True),
    "tokenize": Case(
        "64 texts of 2 MB to be split",
        lambda _: [tokenizing("".join(map(chr, range(32, 127))) * 20_000)] * 64,
        again=True,
    ),
    "count": Case(
        "64 long prompts to be counted",
        lambda window: [counting(chat("a house " * (window // 3)))] * 64,
        again=True,
    ),
}


def _answer(window: int, **sampling: Any) -> chat_service_pb2.ChatRequest:
    """A request for an answer as long as the window permits."""
    request = chat(tokens=window - 64)
    request.sampling.ignore_eos = True
    for name, value in sampling.items():
        if isinstance(value, list):
            getattr(request.sampling, name).extend(value)
        else:
            setattr(request.sampling, name, value)
    return request


def _answers(count: int, left: str = "", **sampling: Any) -> Any:
    """As many long answers, streamed."""
    return lambda window: [Call(_answer(window, **sampling).SerializeToString(), STREAM, left)] * count


_ANSWERS = {
    "answers": Case("500 streams of long answers", _answers(500), again=True),
    "candidates": Case("64 requests for 8 long answers each", _answers(64, n=8, temperature=1.0), again=True),
    "logprobs": Case(
        "64 streams with 20 log probabilities a token",
        _answers(64, logprobs=True, top_logprobs=20),
        again=True,
    ),
    "prompts": Case("64 prompts as long as the window", lambda window: _prompts(window, 64), again=True),
    "stops": Case(
        "64 streams with 16 long stop texts",
        _answers(64, stop=["a" * 200 + str(i) for i in range(16)]),
        again=True,
    ),
    "unread": Case("200 streams that nobody reads", _answers(200, left="unread")),
    "cancelled": Case(
        "calls that are cancelled at once, 64 at a time", _answers(64, left="cancelled"), again=True
    ),
}

_HOSTILE = {
    "ambiguous": ("ambiguous grammar",),
    "repeats": ("(.*)* 1600 times", "[^a]*[^b]* 800 times"),
    "bounds": ("800 long strings", "1300 wide integers"),
}


def _constraints() -> dict[str, Case]:
    """The hostile constraints of the tests, with something new in each, so that none is known already."""
    written = {
        name: (kind, build(spec)) for name, (kind, spec) in json.loads(CONSTRAINTS.read_text()).items()
    }

    def make(*names: str) -> Any:
        return lambda _: list(itertools.islice(_constrained([written[name] for name in names]), 32))

    made = {
        word: Case("32 times " + " and ".join(names), make(*names), again=True)
        for word, names in _HOSTILE.items()
    }
    everything = Case(
        "4 times every constraint of the tests",
        lambda _: list(itertools.islice(_constrained(list(written.values())), 4 * len(written))),
        again=True,
    )
    return {**made, "constraints": everything}


def _constrained(constraints: list[tuple[str, Any]]) -> Iterator[Call]:
    for i, (kind, spec) in zip(itertools.count(), itertools.cycle(constraints), strict=False):
        request = chat(tokens=256)
        request.sampling.temperature = 1.0
        output = request.output_format
        if kind == "schema":
            output.json_schema_text = json.dumps({**spec, "description": f"number {i}"})
        elif kind == "regex":
            output.regex = spec + f"({i})?"
        else:
            output.grammar = spec + f'\nunused{i} ::= "a"'
        yield Call(request.SerializeToString(), STREAM)


def photograph(width: int, height: int, quality: int = 85) -> bytes:
    """A JPEG file with so much noise in it that it takes as much room as a photograph does."""
    noise = Image.effect_noise((width // 2, height // 2), 60).resize((width, height))
    file = BytesIO()
    turned = noise.transpose(Image.Transpose.ROTATE_180)
    Image.merge("RGB", (noise, turned, noise)).save(file, "JPEG", quality=quality)
    return file.getvalue()


def show(*pictures: bytes) -> Call:
    """Asks about pictures."""
    request = chat("What is it?")
    for picture in pictures:
        request.messages[0].parts.add(image=content_pb2.Image(data=picture))
    return Call(request.SerializeToString())


_PICTURES = {
    "photographs": Case(
        "8 photographs of 12 megapixels", lambda _: [show(photograph(4032, 3024))] * 8, again=True
    ),
    "webp": Case("a WebP file of 8000 x 8000", lambda _: [show(flat("WEBP", 8000))]),
    "webps": Case("a request with 8 of them", lambda _: [show(*(flat("WEBP", 8000),) * 8)]),
    "jpegs": Case("12 chats with a JPEG file of 18 MB", lambda _: [show(photograph(7400, 5550, 78))] * 12),
    "tall": Case("a PNG file of 1000 x 64,000", lambda _: [show(flat_png(1000, 64_000))]),
    "taller": Case("a PNG file of 1 x 64,000,000", lambda _: [show(flat_png(1, 64_000_000))]),
    "scans": Case("4 JPEG files of 90 scans", lambda _: [show(slow_jpeg())] * 4, again=True),
    "small": Case(
        "64 chats with 4 small pictures", lambda _: [show(*(flat_png(64, 64),) * 4)] * 64, again=True
    ),
}

_NO_REQUESTS = {
    "garbage": Case(
        "bytes that are no message, 16 calls at a time", lambda _: [Call(b"\xff\xff\xff")] * 16, again=True
    ),
    "utf8": Case(
        "text that is not UTF-8, 16 calls at a time", lambda _: [Call(text(b"\xff" * 1000))] * 16, again=True
    ),
}
