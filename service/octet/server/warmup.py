"""The first request, asked by the server itself."""

from contextlib import aclosing

from PIL import Image

from octet.engine.protocol import Engine
from octet.engine.types import GenerationRequest, ImagePart, Message, Part, Role, Sampling, TextPart

REQUEST_ID = "octet-warm-up"


async def warm_up(engine: Engine) -> None:
    """Returns when the engine has answered a small request, with a picture if the model takes one."""
    parts: list[Part] = [TextPart("Hello")]
    if engine.model.takes_images:
        parts.append(ImagePart(Image.new("RGB", (64, 64))))
    request = GenerationRequest(
        request_id=REQUEST_ID,
        messages=(Message(role=Role.USER, parts=tuple(parts)),),
        sampling=Sampling(max_tokens=2, temperature=0.0),
    )
    async with aclosing(engine.generate(request)) as events:
        async for _ in events:
            pass
