"""What callers ask while a server is soaked: everything that it answers, ended in every way.

All of it comes out of one seed. Pictures, schemas and prompts come back, and new ones come between them.
"""

import io
import json
import random
from collections.abc import Callable
from typing import Any

from PIL import Image
from smg_grpc_proto import vllm_engine_pb2

from octet.v1 import (
    chat_service_pb2,
    completion_service_pb2,
    content_pb2,
    embedding_service_pb2,
    model_service_pb2,
    tool_pb2,
)
from tests import kserve
from tests.fuzz.cases import Call, Case
from tests.fuzz.methods import (
    CHAT,
    COMPLETE,
    COUNT_TOKENS,
    EMBED,
    INFER,
    STREAM_CHAT,
    STREAM_COMPLETE,
    STREAM_INFER,
)

_MODELS = "/octet.v1.ModelService/"
_GATEWAY = "/vllm.grpc.engine.VllmEngine/Generate"
_HEALTH = "/grpc.health.v1.Health/Check"

CANCELLED = 0.2
"""The share of calls that their client cancels."""

TOO_SHORT = 0.05
"""The share of calls whose deadline is hardly theirs."""

RUDE = 0.05
"""The share of calls by clients that read no further, or whose connection breaks."""

_CANCEL_SECONDS = 0.5
_SHORTEST, _SHORT = 0.0005, 0.3
PATIENT = 120.0
"""The deadline of all other calls, in seconds, which none needs."""

WRONG = (("x-soak", "wrong"),)
"""The metadata of calls with something wrong."""

_QUESTIONS = (
    *("What is the capital of France?", "Tell me a story.", "Count to ten.", "Hello!"),
    *("What is two plus three?", "Which colours are in the picture?", "Wie geht es dir? \U0001f600"),
)
_WORDS = ("red", "green", "blue", "Oslo", "Paris", "seven", "cat", "the", "of", "and", "é")


class Mix:
    """Calls by lot.

    Args:
        seed: what decides.
        model: the name of what is asked.
        gateways: whether the server answers SMG gateways.
        inferences: whether it answers KServe's clients.
        key: the key that calls carry; empty for none.
    """

    def __init__(self, seed: int, model: str, *, gateways: bool, inferences: bool, key: str = "") -> None:
        self._lots = random.Random(seed)
        self._model = model
        self._key = key
        # Those that come back.
        self._pictures = [self._picture() for _ in range(8)]
        self._schemas = [self._schema() for _ in range(8)]
        self._kinds: list[tuple[int, Callable[[], Call]]] = [
            (6, lambda: self._chat(STREAM_CHAT, self._request())),
            (3, lambda: self._chat(CHAT, self._request())),
            (2, self._tools),
            (2, self._formed),
            (3, self._pictured),
            (2, self._completion),
            (1, self._batch),
            (1, self._begun),
            (1, self._count),
            (1, self._tokenize),
            (1, self._embed),
            (1, self._small),
            (2, self._bad),
            *([(1, self._generate)] if gateways else []),
            *([(1, self._infer)] if inferences else []),
        ]

    def call(self) -> Call:
        """The next call."""
        weights, kinds = zip(*self._kinds, strict=True)
        make = self._lots.choices(kinds, weights)[0]
        call = make()
        lot = self._lots.random()
        if lot < CANCELLED:
            when = self._lots.random() * _CANCEL_SECONDS
            return self._ended(call, cancel_seconds=when if self._lots.random() < 0.7 else None, reads=1)
        if lot < CANCELLED + TOO_SHORT:
            return self._ended(call, seconds=self._lots.choice((_SHORTEST, self._lots.random() * _SHORT)))
        return call

    def case(self) -> Case:
        """The next call, to be played."""
        return Case((self.call(),))

    def even(self) -> bool:
        """One of two ways."""
        return self._lots.random() < 0.5

    def story(self) -> chat_service_pb2.ChatRequest:
        """A chat whose answer is long, for callers who do not take it."""
        request = self._request()
        request.sampling.Clear()
        request.sampling.max_tokens, request.sampling.ignore_eos = 200, True
        return request

    def rude(self) -> bool:
        """Whether the next caller speaks HTTP/2 by hand, and stops reading or breaks the connection."""
        return self._lots.random() < RUDE

    def _ended(self, call: Call, **how: Any) -> Call:
        if how.get("cancel_seconds") is not None:
            how.pop("reads", None)
        fields = {name: getattr(call, name) for name in ("method", "messages", "key", "metadata")}
        return Call(**(fields | {"seconds": call.seconds} | how))

    def _call(self, method: str, *messages: Any) -> Call:
        sent = tuple(message.SerializeToString() for message in messages)
        return Call(method, sent, key=self._key, seconds=PATIENT)

    def _chat(self, method: str, request: Any) -> Call:
        return self._call(method, request)

    def _request(self) -> chat_service_pb2.ChatRequest:
        request = chat_service_pb2.ChatRequest()
        for _ in range(self._lots.choice((0, 0, 0, 1, 3))):
            self._say(request, content_pb2.ROLE_USER, self._lots.choice(_QUESTIONS))
            self._say(request, content_pb2.ROLE_ASSISTANT, self._text(8))
        self._say(request, content_pb2.ROLE_USER, f"{self._text(6)} {self._lots.choice(_QUESTIONS)}")
        sampling = request.sampling
        sampling.max_tokens = self._lots.choice((1, 4, 16, 48))
        match self._lots.randrange(8):
            case 0:
                sampling.temperature, sampling.seed = 1.0, self._lots.randrange(1000)
            case 1:
                sampling.n, sampling.temperature = 3, 0.9
            case 2:
                sampling.logprobs, sampling.top_logprobs = True, 3
            case 3:
                sampling.stop.extend(["e", "\n"])
            case 4:
                sampling.prompt_logprobs = 1
            case 5:
                sampling.ignore_eos = True
        return request

    @staticmethod
    def _say(request: chat_service_pb2.ChatRequest, role: Any, text: str) -> None:
        request.messages.add(role=role).parts.add(text=text)

    def _text(self, most: int) -> str:
        return " ".join(self._lots.choices(_WORDS, k=self._lots.randint(1, most)))

    def _tools(self) -> Call:
        request = self._request()
        for name in ("get_weather", f"look_up_{self._lots.randrange(5)}"):
            schema = {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            }
            request.tools.add(name=name, description=self._text(5), parameters_json=json.dumps(schema))
        request.sampling.max_tokens = 32
        if self._lots.random() < 0.5:
            request.tool_choice.mode = tool_pb2.ToolChoice.MODE_REQUIRED
            request.sampling.ignore_eos = False
        return self._call(self._lots.choice((CHAT, STREAM_CHAT)), request)

    def _formed(self) -> Call:
        request = self._request()
        del request.sampling.stop[:]
        request.sampling.max_tokens, request.sampling.ignore_eos = 32, False
        new = self._lots.random() < 0.5
        request.output_format.json_schema_text = self._schema() if new else self._lots.choice(self._schemas)
        return self._call(self._lots.choice((CHAT, STREAM_CHAT)), request)

    def _schema(self) -> str:
        """One that has hardly come before."""
        names = [
            f"{self._lots.choice(('name', 'city', 'age'))}_{self._lots.randrange(10**9)}" for _ in range(3)
        ]
        kinds = ({"type": "string", "maxLength": 8}, {"type": "integer"}, {"enum": ["a", "b"]})
        properties = {name: self._lots.choice(kinds) for name in names}
        return json.dumps({"type": "object", "properties": properties, "required": names[:2]})

    def _pictured(self) -> Call:
        request = self._request()
        for _ in range(self._lots.choice((1, 1, 2))):
            new = self._lots.random() < 0.5
            data = self._picture() if new else self._lots.choice(self._pictures)
            part = request.messages[-1].parts.add()
            part.image.data, part.image.mime_type = data, "image/png"
        return self._call(self._lots.choice((CHAT, STREAM_CHAT)), request)

    def _picture(self) -> bytes:
        """One that has hardly come before."""
        size = self._lots.choice(((40, 30), (96, 96), (200, 120)))
        picture = Image.new("RGB", size, tuple(self._lots.randrange(256) for _ in range(3)))
        picture.putpixel((3, 4), tuple(self._lots.randrange(256) for _ in range(3)))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return file.getvalue()

    def _completion(self) -> Call:
        request = completion_service_pb2.CompletionRequest()
        request.prompts.add().parts.add(text=self._text(30))
        request.sampling.max_tokens = self._lots.choice((1, 8, 32))
        return self._call(self._lots.choice((COMPLETE, STREAM_COMPLETE)), request)

    def _batch(self) -> Call:
        request = completion_service_pb2.CompletionRequest()
        for _ in range(self._lots.randint(2, 12)):
            request.prompts.add().parts.add(text=self._text(20))
        request.sampling.max_tokens = self._lots.choice((1, 8))
        return self._call(self._lots.choice((COMPLETE, STREAM_COMPLETE)), request)

    def _begun(self) -> Call:
        request = self._request()
        self._say(request, content_pb2.ROLE_ASSISTANT, self._text(4))
        return self._call(STREAM_CHAT, request)

    def _count(self) -> Call:
        return self._call(COUNT_TOKENS, model_service_pb2.CountTokensRequest(request=self._request()))

    def _tokenize(self) -> Call:
        if self._lots.random() < 0.5:
            ids = [self._lots.randint(3, 500) for _ in range(20)]
            return self._call(f"{_MODELS}Detokenize", model_service_pb2.DetokenizeRequest(token_ids=ids))
        return self._call(f"{_MODELS}Tokenize", model_service_pb2.TokenizeRequest(text=self._text(50)))

    def _embed(self) -> Call:
        request = embedding_service_pb2.EmbedRequest()
        request.inputs.add().parts.add(text=self._text(5))
        return self._call(EMBED, request)

    def _small(self) -> Call:
        if self._lots.random() < 0.5:
            return Call(_HEALTH, key=self._key, seconds=PATIENT)
        return Call(f"{_MODELS}ListModels", key=self._key, seconds=PATIENT)

    def _generate(self) -> Call:
        request = vllm_engine_pb2.GenerateRequest(stream=self._lots.random() < 0.5)
        request.tokenized.input_ids.extend(
            self._lots.randint(3, 500) for _ in range(self._lots.randint(1, 60))
        )
        request.sampling_params.max_tokens = self._lots.choice((1, 8, 32))
        return self._call(_GATEWAY, request)

    def _infer(self) -> Call:
        sampling = json.dumps({"max_tokens": str(self._lots.choice((1, 8, 32)))})
        inputs = (("text_input", self._text(20)), ("sampling_parameters", sampling))
        request = kserve.make(self._lots.random() < 0.5, *inputs)
        request.model_name = self._model
        return self._call(self._lots.choice((INFER, STREAM_INFER)), request)

    def _bad(self) -> Call:
        """Something wrong, which has to be said without anything else coming of it; it is marked as that."""
        request = self._request()
        method, messages = CHAT, ()
        match self._lots.randrange(8):
            case 0:
                messages = (b"\xff\xff\xff",)
            case 1:
                del request.messages[:]
            case 2:
                request.sampling.temperature = -1
            case 3:
                request.model = "no-such-model"
            case 4:
                request.messages[-1].parts.add().image.data = self._lots.choice(self._pictures)[:60]
            case 5:
                request.output_format.json_schema_text = '{"type": "nothing"'
            case 6:
                self._say(request, content_pb2.ROLE_USER, "word " * 4000)
            case 7:
                method = "/octet.v1.ChatService/NoSuchMethod"
        sent = messages or (request.SerializeToString(),)
        return Call(method, sent, key=self._key, metadata=WRONG, seconds=PATIENT)
