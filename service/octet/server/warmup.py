"""The first request, asked by the server itself."""

from contextlib import aclosing
from dataclasses import replace

from PIL import Image

from octet.engine.protocol import Engine
from octet.engine.types import (
    EmbeddingRequest,
    GenerationRequest,
    ImagePart,
    Message,
    Prompt,
    Role,
    Sampling,
    Service,
    TextPart,
)
from octet.errors import InvalidRequestError, StartupError

REQUEST_ID = "octet-warm-up"


async def warm_up(engine: Engine) -> None:
    """Returns when the engine has answered a small request of what it is for, with a picture if it takes one.

    Raises:
        StartupError: when the model cannot answer it, for want of a chat template that works, for example.
    """
    parts: list[TextPart | ImagePart] = [TextPart("Hello")]
    services = engine.model.services
    if engine.model.takes_images and Service.EMBEDDING not in services:
        parts.append(ImagePart(Image.new("RGB", (64, 64))))
    said, prompt = tuple(parts), Prompt("prompt", tuple(parts))
    request = GenerationRequest(
        request_id=REQUEST_ID,
        # With log probabilities, as vLLM compiles what they need when they are first asked for.
        sampling=Sampling(max_tokens=2, temperature=0.0, logprobs=True, prompt_logprobs=0),
    )
    try:
        if Service.EMBEDDING in services:
            await engine.embed(EmbeddingRequest(REQUEST_ID, prompt))
        elif Service.CHAT in services:
            await _answer(engine, replace(request, messages=(Message(Role.USER, said),)))
        else:
            await _answer(engine, replace(request, prompt=prompt))
    except InvalidRequestError as error:
        raise StartupError(f"the model cannot answer even a greeting: {error.message}") from error


async def _answer(engine: Engine, request: GenerationRequest) -> None:
    async with aclosing(engine.generate(request)) as events:
        async for _ in events:
            pass
