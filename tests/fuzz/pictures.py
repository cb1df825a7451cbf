"""Picture files of every kind, whole and damaged, and with headers that lie."""

import base64
import random
import struct
import zlib
from functools import cache
from io import BytesIO
from typing import Any

from hypothesis import strategies as st
from PIL import Image

from tests.fuzz.mutate import mutated
from tests.pictures import flat, flat_png, slow_jpeg
from tests.unit.pictures.pngs import Png, chunk, kinds

_SIDES = (1, 2, 7, 19, 64)
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_SIZES = [0, 1, 255, 8000, 65535, 65536, 2**24 - 1, 2**31 - 1, 2**31, 2**32 - 1]

# What is saved, in which modes, and with which options.
_SAVED: dict[str, tuple[tuple[str, ...], tuple[dict[str, Any], ...]]] = {
    "JPEG": (
        ("L", "RGB", "CMYK"),
        ({}, {"progressive": True}, {"quality": 5, "subsampling": 2}, {"dpi": (1, 1), "comment": b"x" * 99}),
    ),
    "WEBP": (
        ("RGB", "RGBA"),
        ({"lossless": True, "method": 0}, {"quality": 20, "method": 0}, {"exif": b"Exif\0\0MM\0*\0\0\0\x08"}),
    ),
    "GIF": (("L", "P", "RGB"), ({}, {"transparency": 0}, {"interlace": 1})),
    "PNG": (("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), ({}, {"compress_level": 0}, {"optimize": True})),
    "BMP": (("RGB",), ({},)),
    "TIFF": (("RGB",), ({},)),
    "ICO": (("RGBA",), ({},)),
}


@cache
def _saved(file_format: str, mode: str, option: int, side: int) -> bytes:
    lots = random.Random(f"{file_format}{mode}{side}")
    bands = 1 if mode in ("1", "L", "P", "I;16") else len(mode)
    noise = lots.randbytes(side * side * (2 if mode == "I;16" else bands))
    picture = Image.frombytes(mode, (side, side), noise) if mode != "1" else Image.new("1", (side, side), 1)
    file = BytesIO()
    picture.save(file, file_format, **_SAVED[file_format][1][option])
    return file.getvalue()


@cache
def _animated(file_format: str) -> bytes:
    frames = [Image.new("RGB", (9, 9), (40 * i, 0, 0)) for i in range(5)]
    file = BytesIO()
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:], duration=20)
    return file.getvalue()


@st.composite
def _whole(draw: st.DrawFn) -> bytes:
    form = draw(st.integers(0, 5))
    if form == 0:
        return Png(
            draw(st.sampled_from(list(kinds()))), draw(st.sampled_from(_SIDES)), draw(st.sampled_from(_SIDES))
        ).file()
    if form == 1:
        return _animated(draw(st.sampled_from(["GIF", "WEBP", "PNG"])))
    if form == 2:
        # Few bytes, many pixels.
        return flat(
            draw(st.sampled_from(["WEBP", "PNG", "GIF", "JPEG"])), draw(st.sampled_from([1000, 4000, 8000]))
        )
    if form == 3:
        return draw(
            st.sampled_from(
                [slow_jpeg(500, 60), slow_jpeg(2000, 101), flat_png(1, 60_000), flat_png(60_000, 1)]
            )
        )
    file_format = draw(st.sampled_from(sorted(_SAVED)))
    modes, options = _SAVED[file_format]
    mode, side = draw(st.sampled_from(modes)), draw(st.sampled_from(_SIDES))
    return _saved(file_format, mode, draw(st.integers(0, len(options) - 1)), side)


@st.composite
def _lying(draw: st.DrawFn) -> bytes:
    """A file whose header says something else than its pixels."""
    size = (draw(st.sampled_from(_SIZES)), draw(st.sampled_from(_SIZES)))
    form = draw(st.integers(0, 3))
    if form == 0:
        data = bytearray(Png(draw(st.sampled_from(list(kinds())))).file())
        depth, color = (
            draw(st.sampled_from([1, 2, 8, 16, 3, 255])),
            draw(st.sampled_from([0, 2, 3, 4, 6, 1, 7])),
        )
        body = struct.pack(
            ">2I5B",
            *size,
            depth,
            color,
            draw(st.integers(0, 1)),
            draw(st.integers(0, 1)),
            draw(st.integers(0, 2)),
        )
        data[8:33] = chunk(b"IHDR", body)
        return bytes(data)
    small = [side & 0xFFFF for side in size]
    if form == 1:
        data = bytearray(_saved("GIF", "P", 0, 7))
        data[6:10] = struct.pack("<2H", *small)
        return bytes(data)
    if form == 2:
        data = bytearray(_saved("JPEG", "RGB", draw(st.integers(0, 1)), 19))
        start = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        data[start + 5 : start + 9] = struct.pack(">2H", *small)
        data[start + 9] = draw(st.sampled_from([0, 1, 2, 3, 4, 255]))
        return bytes(data)
    data = bytearray(_saved("WEBP", "RGBA", 2, 19))
    data[24:30] = size[0].to_bytes(4, "little")[:3] + size[1].to_bytes(4, "little")[:3]
    return bytes(data)


@st.composite
def _odd_chunks(draw: st.DrawFn) -> bytes:
    """A PNG file with more chunks than it needs, in any order, each of which is whole."""
    png = Png(draw(st.sampled_from(list(kinds()))))
    bomb = zlib.compress(b"\0" * 2**21)
    more = st.sampled_from(
        [
            chunk(b"tEXt", b"a\0" + b"b" * 1000),
            chunk(b"zTXt", b"a\0\0" + bomb),
            chunk(b"iCCP", b"a\0\0" + bomb),
            chunk(b"iTXt", b"a\0\x01\0\0\0" + bomb),
            chunk(b"eXIf", b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
            chunk(b"tRNS", b"\0\1"),
            chunk(b"PLTE", b"\0" * 9),
            chunk(b"gAMA", b"\0\0\0\0"),
            chunk(b"acTL", b"\0\0\0\x09\0\0\0\0"),
            chunk(b"fcTL", b"\0" * 26),
            chunk(b"IDAT", b""),
            chunk(b"IHDR", struct.pack(">2I5B", 9, 9, 8, 2, 0, 0, 0)),
            chunk(b"ZZZZ", b""),
            chunk(b"\0\0\0\0", b""),
            b"\xff\xff\xff\xffIDAT",
        ]
    )
    parts = [*png.parts]
    for extra in draw(st.lists(more, min_size=1, max_size=4)):
        parts.insert(draw(st.integers(0, len(parts))), extra)
    return _SIGNATURE + b"".join(parts)


@cache
def picture_files() -> st.SearchStrategy[bytes]:
    """Files that pass for pictures, or nearly."""
    return st.one_of(
        _whole(),
        _whole().flatmap(mutated),
        _lying(),
        _odd_chunks(),
        st.binary(max_size=30).map(lambda noise: _SIGNATURE + noise),
        st.binary(max_size=30),
    )


@st.composite
def picture_uris(draw: st.DrawFn) -> str:
    """`data:` URIs of such files, and URIs that lead elsewhere."""
    elsewhere = draw(
        st.sampled_from(
            [
                "",
                "",
                "",
                "https://127.0.0.1/a.png",
                "http://x",
                "file:///etc/passwd",
                "data:",
                "data:,",
                "https://[::1",
                "data:;base64",
                "https://user:pw@octet.test:99999/",
                "\0",
            ]
        )
    )
    if elsewhere:
        return elsewhere
    encoded = base64.b64encode(draw(picture_files())).decode()
    kind = draw(st.sampled_from(["image/png", "image/gif", "", "text/html;charset=utf-8", "IMAGE/WEBP"]))
    cut = draw(st.sampled_from([0, 0, 0, 1, 2]))
    gap = draw(st.sampled_from(["", "", "\n", " ", "%0A", "-_", "="]))
    return f"data:{kind};base64,{gap}{encoded[: len(encoded) - cut]}{gap}"
