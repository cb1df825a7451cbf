"""Picture files that are hard on whoever decodes them, for tests and for the benchmark."""

import struct
import zlib
from functools import cache
from io import BytesIO

from PIL import Image


@cache
def slow_jpeg(side: int = 4000, scans: int = 90) -> bytes:
    """A grey square that takes a decoder so many passes over all its pixels; a few hundred KB."""
    file = BytesIO()
    Image.new("L", (side, side), 90).save(file, "JPEG", progressive=True)
    data = file.getvalue()
    scan = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + scan * (scans - data.count(b"\xff\xda")) + data[-2:]


def flat_png(width: int, height: int, claimed: tuple[int, int] | None = None) -> bytes:
    """A grey PNG file; its header may claim another size."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    pixels = zlib.compress((b"\x00" + bytes((90,)) * width) * height)
    header = struct.pack(">2I5B", *(claimed or (width, height)), 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@cache
def flat(file_format: str, side: int, mode: str = "RGB") -> bytes:
    """A square of one colour, which takes next to no bytes."""
    file = BytesIO()
    options = {"lossless": True, "method": 0} if file_format == "WEBP" else {}
    Image.new(mode, (side, side)).save(file, file_format, **options)
    return file.getvalue()
