"""What answering a request takes, estimated from facts that are cheap to find."""

from dataclasses import dataclass

from octet.engine.types import ModelInfo
from octet.translate.sampling import MAX_CANDIDATES
from octet.v1 import chat_service_pb2, completion_service_pb2, embedding_service_pb2, prompt_pb2

BYTES_PER_TOKEN = 4
"""Of text, tool declarations and what is around them. Tokenizing would cost what admission is to save; in
English, and in the scripts that take three bytes a character, this is near enough."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request takes.

    Attributes:
        sequences: candidates that the engine computes at the same time.
        tokens: of its prompt, estimated.
        text_tokens: of these, those that are not pictures'. 0 also when nobody learns when they are computed.
        images: pictures to be decoded.
        image_bytes: memory that decoding them takes.
        priority: smaller goes first.
    """

    sequences: int = 1
    tokens: int = 0
    text_tokens: int = 0
    images: int = 0
    image_bytes: int = 0
    priority: int = 0


def estimate(request: chat_service_pb2.ChatRequest, model: ModelInfo, image_bytes: int = 0) -> Cost:
    """The cost of a request of which nothing has been checked yet but the memory that its pictures take."""
    text = sum(tool.ByteSize() for tool in request.tools)
    images = 0
    for message in request.messages:
        for part in message.parts:
            if part.HasField("image"):
                images += 1
            else:
                text += part.ByteSize()
    return _cost(request, text // BYTES_PER_TOKEN, images, model, image_bytes)


def estimate_prompt(
    prompt: prompt_pb2.Prompt,
    request: completion_service_pb2.CompletionRequest,
    model: ModelInfo,
    image_bytes: int = 0,
) -> Cost:
    """The cost of one prompt of a request, of which nothing has been checked yet either."""
    images = sum(part.HasField("image") for part in prompt.parts)
    return _cost(request, _tokens(prompt), images, model, image_bytes)


def estimate_input(
    prompt: prompt_pb2.Prompt, request: embedding_service_pb2.EmbedRequest, model: ModelInfo
) -> Cost:
    """The cost of one input of a request, of which nothing has been checked yet either."""
    tokens = min(_tokens(prompt), model.context_window) if request.truncate else _tokens(prompt)
    return Cost(
        tokens=tokens,
        text_tokens=tokens,
        priority=request.priority if model.takes_priorities else 0,
    )


def _tokens(prompt: prompt_pb2.Prompt) -> int:
    """About how many tokens its texts are, and those that it holds."""
    text = sum(part.ByteSize() for part in prompt.parts if part.HasField("text"))
    return text // BYTES_PER_TOKEN + sum(len(part.tokens.ids) for part in prompt.parts)


def _cost(
    request: chat_service_pb2.ChatRequest | completion_service_pb2.CompletionRequest,
    text_tokens: int,
    images: int,
    model: ModelInfo,
    image_bytes: int,
) -> Cost:
    options = request.image_options
    crops = options.pan_and_scan if options.HasField("pan_and_scan") else None
    return Cost(
        sequences=min(max(request.sampling.n, 1), MAX_CANDIDATES),
        tokens=text_tokens + images * model.image_cost(crops),
        text_tokens=text_tokens,
        images=images,
        image_bytes=image_bytes,
        priority=request.priority if model.takes_priorities else 0,
    )
