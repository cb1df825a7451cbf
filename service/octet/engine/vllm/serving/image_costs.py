"""What pictures take in a model's prompts, measured by rendering some."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PIL import Image

from octet.engine.types import ImagePart, TextPart
from octet.engine.vllm import compat
from octet.errors import InvalidRequestError

if TYPE_CHECKING:
    from octet.engine.vllm.serving.render import Prompt, PromptRenderer

logger = logging.getLogger(__name__)

_SMALL = (64, 64)
"""As few tokens as any: pictures this small are shown whole and enlarged."""

_CROPPED_SIDE = 512
"""Pixels of a side that pan and scan makes crops of: twice the least that Gemma 3's crops have."""

_WORD = "x"
"""A text of one token, whatever it is next to."""

_SAMPLES = 3
"""So many pictures tell what any further one takes: from the second on all are alike."""


@dataclass(frozen=True, slots=True)
class ImageCosts:
    """What pictures take in prompts, in tokens.

    Attributes:
        most_images: most pictures in a request: with more, no prompt fits into the context window.
        tokens: most that one picture adds to a prompt without pan and scan, what the model has around it
            included.
        cropped_tokens: likewise with pan and scan; the same for a model that has none.
        pans_and_scans: whether requests can ask for pan and scan.
        crops_by_default: whether it is on for those that do not say.
        visual_tokens: of `tokens`, those that the picture itself becomes.
    """

    most_images: int = 0
    tokens: int = 0
    cropped_tokens: int = 0
    pans_and_scans: bool = False
    crops_by_default: bool = False
    visual_tokens: int = 0


async def measure(renderer: "PromptRenderer", processor: Any) -> ImageCosts:
    """Renders a few prompts, and thereby also prepares all that pictures need, crops included.

    Args:
        renderer: the model's.
        processor: vLLM's multimodal processor of the model; None where it has none.

    Returns:
        Zeros where no pictures are taken, or the chat template has no place for them.

    Raises:
        InvalidRequestError: the model cannot be shown a picture.
    """
    allowed = 0 if processor is None else processor.info.allowed_mm_limits.get("image", 0)
    if not allowed:
        return ImageCosts()
    rendering = _Rendering(renderer)
    largest = largest_picture(processor, cropped=renderer.pans_and_scans)
    if not await renderer.shows(largest, min(allowed, 2)):
        logger.warning(
            "the chat template gives pictures no place: text is served, and pictures are refused; "
            "--chat-template takes another template"
        )
        return ImageCosts()
    lengths = await rendering.lengths(largest, min(allowed, _SAMPLES))
    without = (await rendering.prompt([TextPart(_WORD)])).tokens + 1
    shown = (TextPart(_WORD), ImagePart(largest), TextPart(_WORD))
    with compat.tokenizers.unsaid_about_crops():
        one, cropped, by_default = [
            await rendering.prompt(shown, pan_and_scan=wanted) for wanted in (False, True, None)
        ]
    return ImageCosts(
        most_images=most_that_fit(lengths, allowed, renderer.context_window),
        tokens=one.tokens - without,
        cropped_tokens=cropped.tokens - without,
        pans_and_scans=renderer.pans_and_scans,
        crops_by_default=by_default.tokens > one.tokens,
        visual_tokens=one.image_tokens,
    )


def most_that_fit(lengths: Sequence[int], allowed: int, context_window: int) -> int:
    """The most pictures with which a prompt leaves room for a token of the answer.

    Args:
        lengths: tokens of the prompts of 1, 2, ... pictures and nothing else. Where there are three, each
            further picture takes what the third one takes.
        allowed: most pictures in a request, whether they fit or not.
        context_window: tokens of prompt and answer together.
    """
    room = context_window - 1
    fitting = sum(length <= room for length in lengths)
    if fitting < _SAMPLES:
        return min(fitting, allowed)
    return min(fitting + (room - lengths[-1]) // (lengths[-1] - lengths[-2]), allowed)


@dataclass(frozen=True, slots=True)
class _Rendering:
    """Renders prompts that no engine will see."""

    renderer: "PromptRenderer"

    async def prompt(
        self, parts: Sequence[TextPart | ImagePart], *, pan_and_scan: bool | None = False
    ) -> "Prompt":
        wanted = pan_and_scan if self.renderer.pans_and_scans else None
        return await self.renderer.measure_parts(tuple(parts), pan_and_scan=wanted)

    async def lengths(self, largest: Image.Image, most: int) -> list[int]:
        """Tokens of the prompts of 1, 2, ... pictures, small ones if the model takes those."""
        picture = ImagePart(Image.new("RGB", _SMALL))
        try:
            await self.prompt([picture])
        except InvalidRequestError:
            picture = ImagePart(largest)
        return [(await self.prompt([picture] * n)).tokens for n in range(1, most + 1)]


def largest_picture(processor: Any, *, cropped: bool) -> Image.Image:
    """A picture of which a model makes as many tokens as of any; vLLM takes it to find out a model's needs.

    Args:
        processor: vLLM's multimodal processor of a model that takes pictures.
        cropped: whether it has to be large enough to be shown in crops.
    """
    context_window = processor.info.ctx.model_config.max_model_len
    data = processor.dummy_inputs.get_dummy_mm_data(context_window, {"image": 1}, {})
    picture: Image.Image = data["image"][0]
    enlarge = math.ceil(_CROPPED_SIDE / min(picture.size)) if cropped else 1
    return picture if enlarge <= 1 else picture.resize((picture.width * enlarge, picture.height * enlarge))
