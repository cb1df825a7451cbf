"""Every kind of PNG file, with every kind of metadata that has nothing to say about its pixels."""

import random
import struct
import zlib

import pytest
from PIL import Image

from octet.errors import InvalidRequestError
from octet.translate.media import ImageLimits, decode_image
from tests.unit.pictures.pngs import Kind, Png, chunk, kinds

LIMITS = ImageLimits(max_bytes=20_000_000, max_pixels=1_000_000)
PLAIN = Kind(2, 8, transparent=False, interlaced=False)


def decode(file: bytes) -> Image.Image:
    return decode_image(file, mime_type="image/png", limits=LIMITS, field="image")


def assert_looks(image: Image.Image, png: Png) -> None:
    # Pillow drops the lower halves of 16-bit samples, of which an opacity multiplies another; it rounds else.
    tolerance = 2 if png.kind.depth == 16 and png.kind.color >= 4 else 1.01
    assert image.mode == "RGB"
    assert image.size == (len(png.expected[0]), len(png.expected))
    for y, row in enumerate(png.expected):
        for x, color in enumerate(row):
            actual = image.getpixel((x, y))
            assert isinstance(actual, tuple)
            assert all(abs(a - e) <= tolerance for a, e in zip(actual, color, strict=True)), (
                x,
                y,
                actual,
                color,
            )


@pytest.mark.parametrize("kind", kinds(), ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_it_looks_as_the_specification_says(kind: Kind, seed: int) -> None:
    png = Png(kind, seed=seed)
    assert_looks(decode(png.file()), png)


@pytest.mark.parametrize("size", [(1, 1), (1, 70), (70, 1), (9, 8)])
@pytest.mark.parametrize("kind", kinds(), ids=str)
def test_of_any_size(kind: Kind, size: tuple[int, int]) -> None:
    png = Png(kind, *size)
    assert_looks(decode(png.file()), png)


NOISE = random.Random(1).randbytes(1_300_000)
METADATA = {
    "a text of 2 MB, compressed": chunk(b"zTXt", b"note\x00\x00" + zlib.compress(bytes(2_000_000))),
    "a text that expands to 200 MB": chunk(b"zTXt", b"note\x00\x00" + zlib.compress(bytes(200_000_000))),
    "many texts": chunk(b"tEXt", b"note\x00" + b"x" * 60_000) * 300,
    "an international text": chunk(b"iTXt", b"note\x00\x01\x00\x00\x00" + zlib.compress(bytes(3_000_000))),
    "a text without a keyword": chunk(b"tEXt", b""),
    "a compressed text of an unknown method": chunk(b"zTXt", b"note\x00\x07abc"),
    "a damaged compressed text": chunk(b"zTXt", b"note\x00\x00abc"),
    "a profile of 1.3 MB": chunk(b"iCCP", b"p\x00\x00" + zlib.compress(NOISE)),
    "a profile that expands": chunk(b"iCCP", b"p\x00\x00" + zlib.compress(bytes(100_000_000))),
    "a profile of an unknown method": chunk(b"iCCP", b"p\x00\x09abc"),
    "an empty profile": chunk(b"iCCP", b"p\x00"),
    "gamma that is cut short": chunk(b"gAMA", b"\x00"),
    "colours that are cut short": chunk(b"cHRM", b"\x00"),
    "a size that is cut short": chunk(b"pHYs", b"\x00") + chunk(b"sRGB", b""),
    "damaged EXIF data": chunk(b"eXIf", b"MM\x00*\xff\xff\xff\xff"),
    "large EXIF data": chunk(b"eXIf", b"MM\x00*\x00\x00\x00\x08\x00\x00" + NOISE),
    "an animation's control, cut short": chunk(b"acTL", b"\x00"),
    "an animation": chunk(b"acTL", struct.pack(">2I", 2, 0))
    + chunk(b"fcTL", struct.pack(">5I2H2B", 0, 19, 13, 0, 0, 1, 10, 0, 0)),
    "private chunks": chunk(b"prVt", b"x" * 1000) * 1000,
    "a wrong checksum": chunk(b"tEXt", b"note\x00x")[:-4] + b"oops",
    "XMP data": chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + NOISE),
}


@pytest.mark.parametrize("extra", METADATA.values(), ids=METADATA.keys())
def test_metadata_do_not_matter(extra: bytes) -> None:
    png = Png(PLAIN)
    assert_looks(decode(png.file(extra)), png)
    assert_looks(decode(png.file(behind=(extra,))), png)


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
TIFF = b"MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x06\x00\x00\x00\x00\x00\x00"
RAW = b"\nexif\n%8d\n" % len(b"Exif\x00\x00" + TIFF) + (b"Exif\x00\x00" + TIFF).hex().encode()
ORIENTATIONS = {
    "EXIF": chunk(b"eXIf", TIFF),
    "EXIF in a text": chunk(b"zTXt", b"Raw profile type exif\x00\x00" + zlib.compress(RAW)),
    "XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x00\x00\x00\x00" + XMP),
    "XMP, compressed": chunk(b"iTXt", b"XML:com.adobe.xmp\x00\x01\x00\x00\x00" + zlib.compress(XMP)),
}


@pytest.mark.parametrize("extra", ORIENTATIONS.values(), ids=ORIENTATIONS.keys())
def test_the_orientation_is_found_wherever_it_stands(extra: bytes) -> None:
    png = Png(PLAIN)
    turned = decode(png.file(extra))
    assert turned.size == (13, 19)
    assert turned.transpose(Image.Transpose.ROTATE_90).tobytes() == decode(png.file()).tobytes()


@pytest.mark.parametrize("kind", kinds(), ids=str)
def test_what_is_cut_short_is_refused(kind: Kind) -> None:
    file = Png(kind, 60, 50).file()
    end = len(file) - 12
    for length in (8, 20, 33, end // 2, end - 20):
        with pytest.raises(InvalidRequestError) as raised:
            decode(file[:length])
        assert raised.value.field == "image.data"


@pytest.mark.parametrize(
    ("color", "depth"), [(0, 3), (1, 8), (2, 4), (3, 16), (4, 4), (5, 8), (6, 1), (7, 8)]
)
def test_kinds_that_do_not_exist_are_refused(color: int, depth: int) -> None:
    file = bytearray(Png(PLAIN).file())
    file[24:26] = depth, color
    file[29:33] = struct.pack(">I", zlib.crc32(file[12:29]))
    with pytest.raises(InvalidRequestError, match=r"image\.data"):
        decode(bytes(file))


@pytest.mark.parametrize("kind", [kind for kind in kinds() if kind.transparent and kind.color != 3], ids=str)
@pytest.mark.parametrize("body", [b"", b"\x00", b"\x00\x01\x02\x03\x04\x05\x06\x07\x08"])
def test_transparency_of_a_wrong_length_is_not_fatal(kind: Kind, body: bytes) -> None:
    opaque = Png(Kind(kind.color, kind.depth, transparent=False, interlaced=kind.interlaced))
    assert decode(opaque.file(chunk(b"tRNS", body))).size == (19, 13)
