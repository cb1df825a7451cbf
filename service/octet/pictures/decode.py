"""Decodes a picture file to RGB, in strips, at the size that was planned; runs in a process of its own.

Whatever is done to the pixels is done to a strip of them, so that a picture is in memory once, as its decoder
left it, and not once more for each step.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO

# Imported for their registration: Image.open would otherwise load all plugins.
from PIL import (
    GifImagePlugin,  # noqa: F401
    Image,
    ImageChops,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,  # noqa: F401
)

from octet.pictures.bare import (
    MAX_JPEG_SCANS,
    Bare,
    TooManyScansError,
    bare_gif,
    bare_jpeg,
    bare_png,
    bare_webp,
)
from octet.pictures.header import Format, Header, NotAPictureError
from octet.pictures.plan import Factors, Plan, scale
from octet.pictures.webp import decode_webp

_STRIP_PIXELS = 2**18

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}

_BARE = {
    Format.PNG: bare_png,
    Format.JPEG: bare_jpeg,
    Format.WEBP: bare_webp,
    Format.GIF: bare_gif,
}


class DecodeError(Exception):
    """The file cannot be decoded; a sentence without its subject says why."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """A picture that comes strip by strip.

    Attributes:
        size: its width and height, as it is stored.
        orientation: EXIF's, which `upright` takes.
        strips: RGB, from top to bottom, each as wide as the picture.
    """

    size: tuple[int, int]
    orientation: int
    strips: Iterator[Image.Image]


def decode(file: bytes, plan: Plan) -> Decoded:
    """Decodes a file.

    Args:
        file: a PNG, JPEG, WebP or GIF file whose header the plan holds.
        plan: how small it may become.

    Returns:
        The picture, on white where it was transparent. Taking a strip may raise DecodeError as well.

    Raises:
        DecodeError: it is damaged, or more than one should have to decode.
    """
    # The header was read with its own limits.
    Image.MAX_IMAGE_PIXELS = None
    try:
        bare = _BARE[plan.header.format](file)
        factors = plan.turned if bare.orientation >= 5 else plan.as_stored
        if bare.canvas is not None:
            return _placed(bare, plan.header, factors)
        pixels, left = _load(bare, plan.header, factors)
    except TooManyScansError:
        raise DecodeError(f"is a JPEG file of more than {MAX_JPEG_SCANS} scans; encode it again") from None
    except MemoryError:
        raise
    except Exception as error:
        # Pillow's decoders raise nearly anything on a damaged file.
        raise _damaged(error) from error
    size = _divided(pixels.size, left)
    return Decoded(size, bare.orientation, _reduced(pixels, left))


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned and mirrored as its EXIF orientation says."""
    transpose = _TRANSPOSE.get(orientation)
    return image if transpose is None else image.transpose(transpose)


@dataclass(frozen=True, slots=True)
class _Pixels:
    """A decoded picture, and which of its pixels are transparent.

    Attributes:
        image: as the decoder left it.
        transparent: the samples of the one colour that is; None for what the image itself says.
        low: of samples of 16 bits of which `image` has the upper half, the lower one.
    """

    image: Image.Image
    transparent: tuple[int, ...] | None = None
    low: Image.Image | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.image.size

    def strip(self, top: int, bottom: int) -> Image.Image:
        """Some rows: RGB, on white."""
        box = (0, top, self.image.width, bottom)
        rows = self.image.crop(box)
        if self.transparent is not None and rows.mode.startswith("I"):
            return _on_white(_to_8_bit(rows), _differs_16(rows, self.transparent[0]))
        if rows.mode.startswith("I"):
            rows = _to_8_bit(rows)
        if self.transparent is not None:
            low = None if self.low is None else self.low.crop(box)
            return _on_white(rows, _differs(rows, low, self.transparent))
        if rows.has_transparency_data:
            rows = rows.convert("RGBA")
            return _on_white(rows, rows.getchannel("A"))
        return rows.convert("RGB")


def _load(bare: Bare, header: Header, factors: Factors) -> tuple[_Pixels, Factors]:
    """The decoded picture, and by what its sides are still to be divided."""
    size = header.width, header.height
    if header.format is Format.WEBP:
        # Scaling by one would still cost its smooth colours.
        scaled = None if factors == (1, 1) else _divided(size, factors)
        return _Pixels(decode_webp(bare.data, size, scaled)), (1, 1)
    image = _open(bare.data, header.format, size)
    if header.format is Format.PNG and bare.transparent and image.mode != "P":
        return _load_with_transparent_color(image, bare, size), factors
    done = (1, 1)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        done = scale(header, factors)
        # Rounded down, as Pillow takes the largest scale that leaves no less than what it is asked for.
        image.draft(None, (image.width // done[0], image.height // done[1]))
    image.load()
    return _Pixels(image), (factors[0] // done[0], factors[1] // done[1])


def _open(data: bytes, kind: Format, expected: tuple[int, int]) -> Image.Image:
    image = Image.open(BytesIO(data), formats=(kind.name,))
    if image.size != expected:
        raise DecodeError("says two different sizes of itself")
    return image


def _load_with_transparent_color(image: Image.Image, bare: Bare, size: tuple[int, int]) -> _Pixels:
    """A PNG picture of which one colour is transparent: tRNS, at the depth that the samples are stored in."""
    depth, color = bare.data[24], bare.data[25]
    samples = tuple(
        int.from_bytes(bare.transparent[i : i + 2], "big") & (1 << depth) - 1
        for i in range(0, len(bare.transparent) - 1, 2)
    )
    low = None
    if color == 2 and depth == 16:
        # Pillow keeps the upper halves of colours; told that the other half comes first, it keeps that one.
        low = _open(bare.data, Format.PNG, size)
        assert isinstance(low, ImageFile.ImageFile)
        low.tile = [tile._replace(args="RGB;16L") for tile in low.tile]
        low.load()
    elif depth < 8:
        # Samples are scaled to 8 bits.
        samples = tuple(sample * 255 // ((1 << depth) - 1) for sample in samples)
    image.load()
    wanted = {0: 1, 2: 3}.get(color, 0)
    return _Pixels(image, samples[:wanted] if wanted and len(samples) >= wanted else None, low)


def _placed(bare: Bare, header: Header, factors: Factors) -> Decoded:
    """An animation's first frame, where it lies on its canvas."""
    canvas_size = header.width, header.height
    if header.format is Format.WEBP:
        frame = _Pixels(decode_webp(bare.data, _webp_size(bare.data)))
    else:
        frame = _Pixels(Image.open(BytesIO(bare.data), formats=(header.format.name,)))
        frame.image.load()
    width, height = frame.size
    left, top = bare.at
    if bare.canvas != canvas_size or left + width > canvas_size[0] or top + height > canvas_size[1]:
        raise DecodeError("has a first frame that is larger than itself")
    canvas = Image.new("RGB", canvas_size, "white")
    for first, last in _rows(width, height, 1):
        canvas.paste(frame.strip(first, last), (left, top + first))
    return Decoded(_divided(canvas_size, factors), bare.orientation, _reduced(_Pixels(canvas), factors))


def _webp_size(data: bytes) -> tuple[int, int]:
    from octet.pictures.header import read_header

    header = read_header(data)
    return header.width, header.height


def _reduced(pixels: _Pixels, factors: Factors) -> Iterator[Image.Image]:
    """Strips of a picture whose sides are divided by `factors`: means of rectangles."""
    for top, bottom in _rows(*pixels.size, factors[1]):
        try:
            strip = pixels.strip(top, bottom)
        except MemoryError:
            raise
        except Exception as error:
            raise _damaged(error) from error
        yield strip.reduce(factors) if factors != (1, 1) else strip


def _rows(width: int, height: int, multiple: int) -> Iterator[tuple[int, int]]:
    """Ranges of rows, whose heights are multiples of that, but for the last."""
    step = max(1, _STRIP_PIXELS // width // multiple) * multiple
    for top in range(0, height, step):
        yield top, min(top + step, height)


def _on_white(rows: Image.Image, opacity: Image.Image) -> Image.Image:
    white = Image.new("RGB", rows.size, "white")
    white.paste(rows.convert("RGB"), mask=opacity)
    return white


def _to_8_bit(rows: Image.Image) -> Image.Image:
    """Scales 16-bit grayscale, which `convert` alone would clip at 255."""
    return rows.convert("I").point(lambda value: value * (1 / 257) + 0.5).convert("L")


def _differs_16(rows: Image.Image, sample: int) -> Image.Image:
    """255 where a 16-bit sample is another than that, else 0."""
    wide = rows.convert("I")
    above = wide.point(lambda value: value * 1 - sample).convert("L")
    below = wide.point(lambda value: value * -1 + sample).convert("L")
    return ImageChops.add(above, below).point(lambda difference: 255 if difference else 0)


def _differs(rows: Image.Image, low: Image.Image | None, samples: tuple[int, ...]) -> Image.Image:
    """255 where a pixel's samples are others than those, else 0."""
    planes = list((rows.convert("L") if rows.mode == "1" else rows).split())
    wanted = list(samples)
    if low is not None:
        planes += low.split()
        wanted = [sample >> 8 for sample in samples] + [sample & 255 for sample in samples]
    differs = Image.new("L", rows.size, 0)
    for plane, sample in zip(planes, wanted, strict=True):
        differs = ImageChops.lighter(
            differs, plane.point([0 if value == sample else 255 for value in range(256)])
        )
    return differs


def _divided(size: tuple[int, int], factors: Factors) -> tuple[int, int]:
    return -(-size[0] // factors[0]), -(-size[1] // factors[1])


def _damaged(error: Exception) -> DecodeError:
    if isinstance(error, DecodeError):
        return error
    if isinstance(error, NotAPictureError):
        return DecodeError("is not a PNG, JPEG, WebP or GIF file")
    return DecodeError(f"cannot be decoded, the file is damaged or cut short ({error})")


def decode_here(file: bytes, plan: Plan) -> Image.Image:
    """Decodes a file in this process: RGB, upright. For files that are trusted.

    Raises:
        DecodeError: it is damaged, or more than one should have to decode.
    """
    decoded = decode(file, plan)
    image = Image.new("RGB", decoded.size)
    top = 0
    for strip in decoded.strips:
        image.paste(strip, (0, top))
        top += strip.height
    return upright(image, decoded.orientation)
