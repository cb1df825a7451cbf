"""What a decoder takes is no more than its plan says, for every kind of file."""

import re
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from octet.pictures.header import read_header
from octet.pictures.plan import ImageView, make_plan
from octet.pictures.process import DecoderProcess
from tests.pictures import flat_png

SIDE = 2400
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    **{f"PNG {mode}": ("PNG", mode, {"compress_level": 1}) for mode in ("1", "L", "P", "RGB", "RGBA", "LA")},
    "PNG, 16 bits": ("PNG", "I;16", {"compress_level": 1}),
    "JPEG, gray": ("JPEG", "L", {}),
    "JPEG": ("JPEG", "RGB", {}),
    "JPEG, progressive": ("JPEG", "RGB", {"progressive": True}),
    "JPEG, progressive, all colours": ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    "JPEG, CMYK": ("JPEG", "CMYK", {}),
    "JPEG, CMYK, progressive": ("JPEG", "CMYK", {"progressive": True}),
    "GIF": ("GIF", "L", {}),
    "WebP": ("WEBP", "RGB", {"method": 0}),
    "WebP, transparent": ("WEBP", "RGBA", {"method": 0}),
    "WebP, lossless": ("WEBP", "RGBA", {"lossless": True, "method": 0, "quality": 0}),
    "WebP, animated": ("WEBP", "RGBA", {"method": 0, "save_all": True, "append_images": True}),
}


def encoded(file_format: str, mode: str, options: dict[str, Any]) -> bytes:
    noise = Image.effect_noise((SIDE // 8, SIDE // 8), 60).resize((SIDE, SIDE))
    image = Image.merge("RGB", (noise, noise.transpose(Image.Transpose.ROTATE_90), noise))
    image = noise.convert(mode) if mode == "I;16" else image.convert(mode)
    if mode == "RGBA":
        image.putalpha(noise)
    if options.get("append_images"):
        options = {**options, "append_images": [image.rotate(90)]}
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture
def process() -> Iterator[DecoderProcess]:
    one = DecoderProcess()
    small = flat_png(3, 2)
    one.decode(small, make_plan(read_header(small), None), seconds=60)
    yield one
    one.close()


def memory(process: DecoderProcess, name: str) -> int:
    status = Path(f"/proc/{process.pid}/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


@pytest.mark.parametrize("view", [None, ImageView(500, 300)], ids=["whole", "smaller"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_a_decoder_takes_no_more_than_planned(
    process: DecoderProcess, kind: tuple[str, str, dict[str, Any]], view: ImageView | None
) -> None:
    file = encoded(*kind)
    plan = make_plan(read_header(file), view)
    # Sets the peak back to what there is now.
    Path(f"/proc/{process.pid}/clear_refs").write_text("5")
    before = memory(process, "VmRSS")
    process.decode(file, plan, seconds=60)
    taken = memory(process, "VmHWM") - before
    assert taken <= plan.decoder_bytes
    # Nor does it ask for far more, which others would wait for in vain.
    assert plan.decoder_bytes <= 2.2 * taken + 24 * 2**20
