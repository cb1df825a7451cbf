import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps, ImageSequence

from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits, decode_image

# Outside tests, what Pillow warns about does not end the decoding.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning"),
]

FIELD = "messages[2].parts[0].image"
LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=1_000_000)
WHITE = (255, 255, 255)
RED = (255, 0, 0)
BLUE = (0, 0, 255)


def decode(data: bytes, mime_type: str = "", limits: ImageLimits = LIMITS) -> Image.Image:
    return decode_image(data, mime_type=mime_type, limits=limits, field=FIELD)


def encode(image: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def refusal(data: bytes, mime_type: str = "", limits: ImageLimits = LIMITS) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        decode(data, mime_type, limits)
    return caught.value


def pixel(image: Image.Image, x: int, y: int) -> tuple[int, ...]:
    assert image.mode == "RGB"
    value = image.getpixel((x, y))
    assert isinstance(value, tuple)
    return value


def near(actual: tuple[int, ...], expected: tuple[int, ...], tolerance: int = 6) -> bool:
    return all(abs(a - e) <= tolerance for a, e in zip(actual, expected, strict=True))


def halves(mode: str = "RGB", size: tuple[int, int] = (32, 16)) -> Image.Image:
    """A picture whose left half is red and whose right half is blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


class TestFormats:
    @pytest.mark.parametrize(
        ("file_format", "options", "mime_type"),
        [
            ("PNG", {}, "image/png"),
            ("JPEG", {"quality": 95, "subsampling": 0}, "image/jpeg"),
            ("JPEG", {"quality": 95, "subsampling": 0, "progressive": True}, "image/jpg"),
            ("WEBP", {"lossless": True}, "image/webp"),
            ("GIF", {}, "image/gif"),
        ],
    )
    def test_each_is_recognised_and_decoded(
        self, file_format: str, options: dict[str, Any], mime_type: str
    ) -> None:
        data = encode(halves(), file_format, **options)
        for claimed in ("", mime_type, f" {mime_type.upper()}; q=1"):
            image = decode(data, claimed)
            assert image.size == (32, 16)
            assert near(pixel(image, 2, 2), RED)
            assert near(pixel(image, 30, 14), BLUE)

    @pytest.mark.parametrize("file_format", ["BMP", "TIFF", "ICO", "PPM", "TGA"])
    def test_other_formats_are_refused(self, file_format: str) -> None:
        error = refusal(encode(halves(), file_format))
        assert error.field == f"{FIELD}.data"
        assert "is not a PNG, JPEG, WebP or GIF file" in error.message

    @pytest.mark.parametrize("mime_type", ["image/jpeg", "image/bmp", "text/plain", "nonsense"])
    def test_a_media_type_that_contradicts_the_data_is_refused(self, mime_type: str, png: bytes) -> None:
        error = refusal(png, mime_type)
        assert error.field == f"{FIELD}.mime_type"
        assert f"says {mime_type!r}, but the data is image/png" in error.message

    @pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
    def test_of_an_animation_the_first_frame_is_taken(self, file_format: str) -> None:
        frames = [Image.new("RGB", (8, 8), color) for color in (RED, BLUE, WHITE)]
        data = encode(frames[0], file_format, save_all=True, append_images=frames[1:], lossless=True)
        with Image.open(BytesIO(data)) as animation:
            assert len(ImageSequence.all_frames(animation)) == 3
        assert pixel(decode(data), 4, 4) == RED

    def test_of_a_multi_picture_jpeg_the_first_is_taken(self) -> None:
        others = [Image.new("RGB", (16, 16), BLUE)]
        data = encode(Image.new("RGB", (16, 16), RED), "MPO", save_all=True, append_images=others)
        assert near(pixel(decode(data, "image/jpeg"), 4, 4), RED)


class TestModes:
    @pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
    def test_png(self, mode: str) -> None:
        gray = Image.new("L", (2, 1), 0)
        gray.putpixel((1, 0), 255)
        image = decode(encode(gray.convert(mode), "PNG"))
        assert (pixel(image, 0, 0), pixel(image, 1, 0)) == ((0, 0, 0), WHITE)

    def test_16_bit_grayscale_is_scaled(self) -> None:
        wide = Image.new("I;16", (4, 1))
        for x, value in enumerate((0, 255, 0x8080, 0xFFFF)):
            wide.putpixel((x, 0), value)
        image = decode(encode(wide, "PNG"))
        assert [pixel(image, x, 0)[0] for x in range(4)] == [0, 1, 0x80, 0xFF]

    def test_16_bit_grayscale_with_one_transparent_value(self) -> None:
        wide = Image.new("I;16", (4, 1))
        for x, value in enumerate((255, 256, 257, 0xFFFF)):
            wide.putpixel((x, 0), value)
        image = decode(encode(wide, "PNG", transparency=256))
        assert [pixel(image, x, 0)[0] for x in range(4)] == [1, 255, 1, 255]

    def test_16_bit_color_is_scaled(self) -> None:
        row = b"\x00" + struct.pack(">3H", 0xFFFF, 0x8000, 0x0000)
        image = decode(png_file(1, 1, row, depth=16, color=2))
        assert near(pixel(image, 0, 0), (255, 128, 0), 1)

    def test_cmyk_jpeg(self) -> None:
        data = encode(halves("CMYK"), "JPEG", quality=95, subsampling=0)
        with Image.open(BytesIO(data)) as stored:
            assert stored.mode == "CMYK"
        assert near(pixel(decode(data), 2, 2), RED)
        assert near(pixel(decode(data), 30, 14), BLUE)

    def test_grayscale_jpeg(self) -> None:
        assert near(pixel(decode(encode(Image.new("L", (8, 8), 77), "JPEG")), 3, 3), (77, 77, 77))


class TestTransparency:
    @pytest.mark.parametrize("file_format", ["PNG", "WEBP"])
    def test_alpha_is_laid_on_white(self, file_format: str) -> None:
        image = Image.new("RGBA", (3, 1), (255, 0, 0, 255))
        image.putpixel((1, 0), (255, 0, 0, 0))
        image.putpixel((2, 0), (0, 0, 0, 51))
        decoded = decode(encode(image, file_format, lossless=True))
        assert pixel(decoded, 0, 0) == RED
        assert pixel(decoded, 1, 0) == WHITE
        assert near(pixel(decoded, 2, 0), (204, 204, 204), 1)

    def test_gray_with_alpha(self) -> None:
        image = Image.new("LA", (2, 1), (10, 255))
        image.putpixel((1, 0), (10, 0))
        decoded = decode(encode(image, "PNG"))
        assert (pixel(decoded, 0, 0), pixel(decoded, 1, 0)) == ((10, 10, 10), WHITE)

    @pytest.mark.parametrize("file_format", ["PNG", "GIF"])
    def test_a_transparent_palette_entry(self, file_format: str) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([*RED, *BLUE])
        image.putpixel((1, 0), 1)
        decoded = decode(encode(image, file_format, transparency=1))
        assert (pixel(decoded, 0, 0), pixel(decoded, 1, 0)) == (RED, WHITE)

    def test_a_palette_with_alpha(self) -> None:
        image = Image.new("P", (2, 1), 0)
        image.putpalette([*RED, *BLUE])
        image.putpixel((1, 0), 1)
        decoded = decode(encode(image, "PNG", transparency=b"\xff\x80"))
        assert pixel(decoded, 0, 0) == RED
        assert near(pixel(decoded, 1, 0), (127, 127, 255), 1)

    def test_a_transparent_color(self) -> None:
        decoded = decode(encode(halves(), "PNG", transparency=BLUE))
        assert (pixel(decoded, 0, 0), pixel(decoded, 31, 0)) == (RED, WHITE)


# What was done to the upright picture before it was stored, for each value of the EXIF tag.
STORED = {
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class TestOrientation:
    @pytest.mark.parametrize("orientation", range(1, 9))
    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    def test_the_picture_is_turned_upright(self, orientation: int, file_format: str) -> None:
        upright = Image.new("RGB", (48, 32), WHITE)
        upright.paste(RED, (0, 0, 24, 16))
        upright.paste(BLUE, (0, 16, 24, 32))
        transpose = STORED[orientation]
        stored = upright if transpose is None else upright.transpose(transpose)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {"lossless": True}
        decoded = decode(encode(stored, file_format, exif=exif, **options))
        assert decoded.size == (48, 32)
        for x, y, color in ((4, 4, RED), (4, 28, BLUE), (44, 4, WHITE), (44, 28, WHITE)):
            assert near(pixel(decoded, x, y), color)

    @pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize(
        "exif", [b"", b"no TIFF header", b"II*\x00\xff\xff\xff\xff", b"MM\x00*\x00\x00\x00\x08"]
    )
    def test_damaged_exif_data_is_ignored(self, exif: bytes, file_format: str) -> None:
        options = {"quality": 95, "subsampling": 0} if file_format == "JPEG" else {"lossless": True}
        data = encode(halves(), file_format, exif=b"Exif\x00\x00" + exif, **options)
        assert near(pixel(decode(data), 2, 2), RED)

    def test_an_unknown_orientation_is_ignored(self) -> None:
        exif = Image.Exif()
        exif[0x0112] = 99
        assert decode(encode(halves(), "PNG", exif=exif)).size == (32, 16)


def png_file(width: int, height: int, rows: bytes, *, depth: int = 8, color: int = 0) -> bytes:
    """A PNG file, written chunk by chunk, so that its header can claim anything."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">2I5B", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class TestLimits:
    def test_bytes(self, png: bytes) -> None:
        assert decode(png, limits=ImageLimits(len(png), 2)).size == (2, 1)
        error = refusal(png, limits=ImageLimits(len(png) - 1, 2))
        assert error.field == f"{FIELD}.data"
        assert f"has {len(png)} bytes, more than the limit of {len(png) - 1}" in error.message

    def test_pixels(self, png: bytes) -> None:
        error = refusal(png, limits=ImageLimits(1000, 1))
        assert error.field == f"{FIELD}.data"
        assert "has 2 x 1 pixels, more than the limit of 1" in error.message

    @pytest.mark.parametrize(
        ("width", "height"), [(1001, 1000), (9500, 9500), (60_000, 60_000), (2**31 - 1, 2**31 - 1)]
    )
    def test_a_bomb_is_refused_by_what_its_header_claims(
        self, width: int, height: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Image, "open", lambda *_: pytest.fail("the picture was decoded"))
        error = refusal(png_file(width, height, bytes(1000)))
        assert error.field == f"{FIELD}.data"
        assert "limit of 1000000" in error.message

    def test_compressed_text_that_expands_does_not_matter(self) -> None:
        text = b"comment\x00\x00" + zlib.compress(bytes(10_000_000), 9)
        bomb = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
        good = png_file(1, 1, b"\x00\x00")
        assert len(good[:33] + bomb + good[33:]) < LIMITS.max_bytes
        assert decode(good[:33] + bomb + good[33:]).size == (1, 1)

    def test_no_data(self) -> None:
        error = refusal(b"")
        assert error.field == f"{FIELD}.data"
        assert "is empty" in error.message

    @pytest.mark.parametrize(("width", "height"), [(0, 1), (1, 0), (0, 0)])
    def test_no_pixels(self, width: int, height: int) -> None:
        assert refusal(png_file(width, height, b"")).field == f"{FIELD}.data"

    def test_a_gif_frame_larger_than_its_canvas_counts(self) -> None:
        data = bytearray(encode(Image.new("L", (64, 64)), "GIF"))
        data[6:10] = struct.pack("<2H", 1, 1)
        assert refusal(bytes(data), limits=ImageLimits(100_000, 64 * 64 - 1)).field == f"{FIELD}.data"

    def test_a_jpeg_of_endless_scans_is_refused(self) -> None:
        data = encode(halves(), "JPEG", progressive=True)
        assert decode(data).size == (32, 16)
        scan = data[data.rindex(b"\xff\xda") : -2]
        error = refusal(data[:-2] + scan * 200 + data[-2:])
        assert error.field == f"{FIELD}.data"
        assert "more than 100 scans" in error.message
        # Not even behind a marker that decoders take no length from.
        hidden = b"\xff\x01\xff\xff" + scan * 200
        assert "more than 100 scans" in refusal(data[:-2] + hidden + data[-2:]).message

    def test_what_looks_like_scans_elsewhere_in_a_jpeg_does_not_count(self) -> None:
        data = encode(halves(), "JPEG", comment=b"\xff\xda" * 200)
        assert decode(data + b"\xff\xda" * 200).size == (32, 16)


class TestDamage:
    @pytest.mark.parametrize("file_format", ["PNG", "JPEG", "WEBP", "GIF"])
    def test_a_file_cut_short_is_refused(self, file_format: str) -> None:
        noise = Image.effect_noise((64, 64), 90)
        data = encode(noise, file_format, **({"lossless": True} if file_format == "WEBP" else {}))
        for length in (4, 20, len(data) // 3, len(data) // 2, len(data) * 3 // 4):
            assert refusal(data[:length]).field == f"{FIELD}.data"

    def test_the_sentence_says_so(self) -> None:
        data = encode(Image.effect_noise((64, 64), 90), "JPEG")
        assert "the file is damaged or cut short" in refusal(data[: len(data) // 2]).message

    def test_damaged_pixels_are_refused(self) -> None:
        data = bytearray(encode(Image.effect_noise((64, 64), 90), "PNG"))
        data[len(data) // 2] ^= 0xFF
        assert refusal(bytes(data)).field == f"{FIELD}.data"

    @given(
        st.sampled_from(
            [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\x10\x00\x00\x00WEBPVP8 "]
        ),
        st.binary(max_size=300),
    )
    def test_arbitrary_bytes_raise_nothing_else(self, magic: bytes, data: bytes) -> None:
        self.survives(magic + data)

    @given(st.data())
    def test_changed_files_raise_nothing_else(self, data: st.DataObject) -> None:
        file = bytearray(data.draw(st.sampled_from(SAMPLES)))
        positions = st.integers(0, len(file) - 1)
        for position in data.draw(st.lists(positions, min_size=1, max_size=8)):
            file[position] = data.draw(st.integers(0, 255))
        self.survives(bytes(file[: data.draw(st.integers(1, len(file)))]))

    def survives(self, data: bytes) -> None:
        field = f"{FIELD}.data"
        try:
            image = decode(data)
        except InvalidRequestError as error:
            field = error.field
        else:
            assert image.mode == "RGB"
        assert field == f"{FIELD}.data"


def _samples() -> list[bytes]:
    exif = Image.Exif()
    exif[0x0112] = 6
    small = halves(size=(12, 10))
    frames = [small, ImageOps.invert(small)]
    return [
        encode(small, "PNG", exif=exif),
        encode(small.convert("P"), "PNG", transparency=0),
        encode(small, "JPEG", exif=exif, progressive=True),
        encode(small.convert("CMYK"), "JPEG"),
        encode(small, "WEBP", exif=exif),
        encode(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]),
    ]


SAMPLES = _samples()


def test_the_result_stands_alone(png: bytes) -> None:
    image = decode(png)
    assert type(image) is Image.Image
    assert image.info.get("exif") is None
    image.rotate(90)


def test_many_threads_at_once() -> None:
    files = SAMPLES * 20
    with ThreadPoolExecutor(4) as pool:
        together = [image.tobytes() for image in pool.map(decode, files)]
    assert together == [decode(file).tobytes() for file in files]
