"""What the tests of translation share: a model, its limits, and small pictures."""

from io import BytesIO

import pytest
from PIL import Image

from octet.engine.types import ModelInfo, Quantization
from octet.translate.media import ImageLimits


@pytest.fixture(scope="session")
def model() -> ModelInfo:
    return ModelInfo(
        names=("gemma", "gemma-alias"),
        source="org/gemma",
        takes_images=True,
        context_window=8192,
        output_token_limit=2048,
        quantization=Quantization("FP8_DYNAMIC", "e4m3", "e5m2"),
        active_kernels=("per_token_quant_fp8: octet/avx2",),
        max_images=3,
        tokens_per_image=256,
        vocabulary_size=1000,
        pans_and_scans=True,
        adapters=("poet", "lawyer"),
        takes_priorities=True,
        vocabulary_format="e4m3",
    )


@pytest.fixture(scope="session")
def limits() -> ImageLimits:
    return ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)


@pytest.fixture(scope="session")
def png() -> bytes:
    """A picture of 2 x 1 pixels, red and blue."""
    image = Image.new("RGB", (2, 1), "red")
    image.putpixel((1, 0), (0, 0, 255))
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()
