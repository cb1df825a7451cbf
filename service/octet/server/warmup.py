"""The first request, asked by the server itself."""

from contextlib import aclosing

from PIL import Image

from octet.engine.protocol import Engine
from octet.engine.types import GenerationRequest, ImagePart, Message, Part, Role, Sampling, TextPart
from octet.errors import InvalidRequestError, StartupError

REQUEST_ID = "octet-warm-up"


async def warm_up(engine: Engine) -> None:
    """Returns when the engine has answered a small request, with a picture if the model takes one.

    Raises:
        StartupError: when the model cannot answer it, for want of a chat template that works, for example.
    """
    parts: list[Part] = [TextPart("Hello")]
    if engine.model.takes_images:
        parts.append(ImagePart(Image.new("RGB", (64, 64))))
    request = GenerationRequest(
        request_id=REQUEST_ID,
        messages=(Message(role=Role.USER, parts=tuple(parts)),),
        # With log probabilities, as vLLM compiles what they need when they are first asked for.
        sampling=Sampling(max_tokens=2, temperature=0.0, logprobs=True, prompt_logprobs=0),
    )
    try:
        async with aclosing(engine.generate(request)) as events:
            async for _ in events:
                pass
    except InvalidRequestError as error:
        raise StartupError(f"the model cannot answer even a greeting: {error.message}") from error
