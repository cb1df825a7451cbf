"""JPEG, WebP and GIF files: what is not pixels does not matter, and what an animation shows first."""

import random
import struct
from contextlib import suppress
from io import BytesIO
from typing import Any

import pytest
from PIL import Image

from octet.errors import InvalidRequestError
from octet.pictures.plan import ImageView, PanAndScan
from octet.translate.media import ImageLimits, decode_image

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=40_000_000)
NOISE = random.Random(1).randbytes(50_000)


def decode(file: bytes, **options: Any) -> Image.Image:
    return decode_image(file, mime_type="", limits=LIMITS, field="image", **options)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 24)) -> Image.Image:
    gradient = Image.linear_gradient("L").resize(size)
    image = Image.merge("RGB", (gradient, gradient.transpose(Image.Transpose.ROTATE_180), gradient))
    return image.convert(mode)


def same(actual: Image.Image, expected: Image.Image, tolerance: int = 0) -> bool:
    if (actual.mode, actual.size) != ("RGB", expected.size):
        return False
    pairs = zip(actual.tobytes(), expected.convert("RGB").tobytes(), strict=True)
    return all(abs(a - b) <= tolerance for a, b in pairs)


def segment(marker: int, body: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(body) + 2) + body


SEGMENTS = {
    "a comment": segment(0xFE, NOISE),
    "many comments": segment(0xFE, b"x") * 2000,
    "a profile": segment(0xE2, b"ICC_PROFILE\x00\x01\x01" + NOISE),
    "half a profile": segment(0xE2, b"ICC_PROFILE\x00\x02\x05" + NOISE) + segment(0xE2, b"ICC_PROFILE\x00"),
    "damaged EXIF data": segment(0xE1, b"Exif\x00\x00MM\x00*\xff\xff\xff\xff"),
    "an index of pictures that there are not": segment(0xE2, b"MPF\x00MM\x00*\x00\x00\x00\x08\x00\x01"),
    "a damaged index of pictures": segment(0xE2, b"MPF\x00"),
    "Photoshop's data, cut short": segment(0xED, b"Photoshop 3.0\x008BIM\x04"),
    "an empty APP0": segment(0xE0, b""),
    "an empty APP14": segment(0xEE, b""),
    "Adobe's mark, cut short": segment(0xEE, b"Adobe"),
    "fill bytes": b"\xff" * 50,
}


@pytest.mark.parametrize("extra", SEGMENTS.values(), ids=SEGMENTS.keys())
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"mode": "L"}, {"mode": "CMYK"}], ids=str)
def test_what_else_a_jpeg_file_holds_does_not_matter(extra: bytes, options: dict[str, Any]) -> None:
    image = picture(options.get("mode", "RGB"))
    file = encode(image, "JPEG", **{k: v for k, v in options.items() if k != "mode"})
    assert same(decode(file[:2] + extra + file[2:]), decode(file))
    # Behind the mark of JFIF, 18 bytes, or of Adobe, 16.
    first = 18 if options.get("mode") == "CMYK" else 20
    assert same(decode(file[:first] + extra + file[first:]), decode(file))
    assert same(decode(file + extra + NOISE), decode(file))


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_colors(mode: str, progressive: bool) -> None:
    image = picture(mode)
    file = encode(image, "JPEG", quality=100, subsampling=0, progressive=progressive)
    assert same(decode(file), image, tolerance=4)


def test_a_ycck_jpeg() -> None:
    """What Photoshop writes: CMYK, inverted, of which three components are coded as YCbCr."""
    ycc, key = picture("YCbCr"), Image.new("L", (40, 24), 255)
    planes = Image.merge("CMYK", (*ycc.split(), key))
    file = encode(planes, "JPEG", quality=100, subsampling=0)
    # Pillow writes CMYK samples inverted, and no transform; the file is to say that there is one.
    inverted = encode(
        Image.merge("CMYK", [p.point(lambda v: 255 - v) for p in planes.split()]), "JPEG", quality=100
    )
    at = inverted.index(b"Adobe")
    patched = inverted[: at + 11] + b"\x02" + inverted[at + 12 :]
    with Image.open(BytesIO(patched)) as image:
        expected = image.convert("RGB")
    assert same(decode(patched), expected, tolerance=1)
    assert not same(decode(file), expected, tolerance=8)


CHUNKS = {
    "EXIF data, damaged": (b"EXIF", b"MM\x00*\xff\xff\xff\xff"),
    "a profile": (b"ICCP", NOISE),
    "XMP data": (b"XMP ", NOISE),
    "an unknown chunk": (b"oops", NOISE + b"1"),
}


def riff(*chunks: tuple[bytes, bytes]) -> bytes:
    body = b"".join(
        name + struct.pack("<I", len(data)) + data + b"\x00" * (len(data) % 2) for name, data in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


@pytest.mark.parametrize("extra", CHUNKS.values(), ids=CHUNKS.keys())
@pytest.mark.parametrize("lossless", [False, True])
def test_what_else_a_webp_file_holds_does_not_matter(extra: tuple[bytes, bytes], lossless: bool) -> None:
    file = encode(picture(), "WEBP", lossless=lossless)
    stream = file[12:16], file[20 : 20 + int.from_bytes(file[16:20], "little")]
    header = b"VP8X", b"\x2c\x00\x00\x00" + struct.pack("<I", 39)[:3] + struct.pack("<I", 23)[:3]
    for extended in (riff(header, extra, stream), riff(header, stream, extra), riff(stream, extra)):
        assert same(decode(extended), decode(file))


@pytest.mark.parametrize("lossless", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (40, 24), (641, 481)])
def test_webp_looks_as_pillow_says(lossless: bool, size: tuple[int, int]) -> None:
    image = picture("RGBA", size)
    image.putalpha(Image.linear_gradient("L").resize(size))
    file = encode(image, "WEBP", lossless=lossless, exact=True)
    with Image.open(BytesIO(file)) as opened:
        white = Image.new("RGBA", size, "white")
        white.alpha_composite(opened.convert("RGBA"))
    assert same(decode(file), white, tolerance=1)


@pytest.mark.parametrize("file_format", ["GIF", "WEBP"])
def test_a_first_frame_lies_where_it_belongs(file_format: str) -> None:
    """A frame of 8 x 6 at (4, 2) on a canvas of 20 x 14, which is white elsewhere."""
    frame = Image.new("RGB", (8, 6), (255, 0, 0))
    if file_format == "GIF":
        file = bytearray(encode(frame, "GIF"))
        file[6:10] = struct.pack("<2H", 20, 14)
        at = file.index(b"\x2c\x00\x00\x00\x00\x08\x00\x06\x00")
        file[at + 1 : at + 5] = struct.pack("<2H", 4, 2)
    else:
        still = encode(frame, "WEBP", lossless=True)
        place = b"".join(struct.pack("<I", n)[:3] for n in (2, 1, 7, 5, 100)) + b"\x00"
        canvas = b"\x02\x00\x00\x00" + struct.pack("<I", 19)[:3] + struct.pack("<I", 13)[:3]
        file = bytearray(riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", place + still[12:])))
    expected = Image.new("RGB", (20, 14), "white")
    expected.paste(frame, (4, 2))
    assert same(decode(bytes(file)), expected)


def test_a_first_frame_beyond_its_canvas_is_refused() -> None:
    still = encode(Image.new("RGB", (30, 30)), "WEBP", lossless=True)
    place = b"".join(struct.pack("<I", n)[:3] for n in (0, 0, 7, 5, 100)) + b"\x00"
    canvas = b"\x02\x00\x00\x00" + struct.pack("<I", 19)[:3] + struct.pack("<I", 13)[:3]
    with pytest.raises(InvalidRequestError, match=r"image\.data"):
        decode(riff((b"VP8X", canvas), (b"ANIM", bytes(6)), (b"ANMF", place + still[12:])))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_two_sizes_in_a_file_are_refused_or_the_announced_one_holds(file_format: str) -> None:
    """Memory is given for the size that the header says."""
    file = encode(picture(), file_format)
    larger = encode(picture(size=(400, 240)), file_format)
    lie = {
        "JPEG": lambda: larger[: larger.index(b"\xff\xda")] + file[file.index(b"\xff\xc0") :],
        "WEBP": lambda: riff((b"VP8X", bytes(4) + b"\x27\x00\x00\x17\x00\x00"), (larger[12:16], larger[20:])),
        "PNG": lambda: file[:33] + larger[33:],
        "GIF": lambda: larger[:6] + file[6:10] + larger[10:],
    }[file_format]()
    with suppress(InvalidRequestError):
        assert decode(lie).size in ((40, 24), (400, 240))


VIEW = ImageView(64, 64, PanAndScan(max_crops=4, min_ratio=1.2, min_side=16))


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
def test_pictures_below_four_times_the_models_size_are_not_touched(file_format: str) -> None:
    file = encode(picture(size=(255, 200)), file_format)
    assert decode(file, view=VIEW).tobytes() == decode(file).tobytes()


@pytest.mark.parametrize(
    ("file_format", "options"),
    [
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("JPEG", {"mode": "CMYK"}),
        ("WEBP", {}),
        ("WEBP", {"lossless": True}),
        ("GIF", {}),
    ],
)
@pytest.mark.parametrize("size", [(1000, 800), (1999, 300), (300, 1999), (257, 255)])
def test_what_the_model_sees_of_a_large_picture_stays_the_same(
    file_format: str, size: tuple[int, int], options: dict[str, Any]
) -> None:
    image = picture(options.get("mode", "RGB"), size)
    file = encode(image, file_format, **{k: v for k, v in options.items() if k != "mode"})
    small, whole = decode(file, view=VIEW), decode(file)
    assert min(small.size) >= 128
    assert small.width * small.height < max(size[0] * size[1], 256 * 256)
    seen = [i.resize((64, 64), Image.Resampling.BILINEAR) for i in (small, whole)]
    assert same(seen[0], seen[1], tolerance=3)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP"])
def test_a_picture_that_lies_on_its_side_is_made_smaller_as_it_is_shown(
    orientation: int, file_format: str
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = encode(picture(size=(2400, 600)), file_format, exif=exif)
    whole = decode(file)
    for crops in (False, True):
        small = decode(file, view=VIEW, pan_and_scan=crops)
        assert min(small.size) >= 128
        assert small.width * small.height < whole.width * whole.height
        if crops:
            assert VIEW.pan_and_scan is not None
            assert VIEW.pan_and_scan.crops(*small.size) == VIEW.pan_and_scan.crops(*whole.size)
    seen = [i.resize((64, 64), Image.Resampling.BILINEAR) for i in (small, whole)]
    assert same(seen[0], seen[1], tolerance=3)
