"""PNG files of every kind, written by hand, and what they look like on white by the specification."""

import itertools
import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

Color = tuple[int, ...]

SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


@dataclass(frozen=True)
class Kind:
    """A kind of PNG file."""

    color: int
    depth: int
    transparent: bool
    interlaced: bool

    def __str__(self) -> str:
        return f"color{self.color}-{self.depth}bit{'-tRNS' * self.transparent}{'-adam7' * self.interlaced}"


def kinds() -> Iterator[Kind]:
    for color, depths in DEPTHS.items():
        for depth, transparent, interlaced in itertools.product(depths, (False, True), (False, True)):
            if not (transparent and color >= 4):
                yield Kind(color, depth, transparent, interlaced)


class Png:
    """A file of a kind, with pixels drawn by lot.

    Attributes:
        kind: what it is.
        parts: its chunks, in order.
        expected: rows of colours on white, floating point.
    """

    def __init__(self, kind: Kind, width: int = 19, height: int = 13, *, seed: int = 0) -> None:
        self.kind = kind
        lots = random.Random(f"{kind}{seed}")
        most = (1 << kind.depth) - 1
        count = SAMPLES[kind.color]
        palette = [[lots.randrange(256) for _ in range(3)] for _ in range(min(most + 1, 256))]
        alphas = [lots.choice((0, 255, lots.randrange(256))) for _ in range(len(palette) - len(palette) // 4)]
        colors = [tuple(lots.randrange(most + 1) for _ in range(count)) for _ in range(6)]
        if kind.depth == 16:
            # Colours that only their lower halves tell apart.
            colors += [
                tuple(sample ^ 1 for sample in colors[0]),
                tuple(sample ^ 0x100 for sample in colors[0]),
            ]
        rows = [[lots.choice(colors) for _ in range(width)] for _ in range(height)]
        key = rows[0][0]
        header = struct.pack(">2I5B", width, height, kind.depth, kind.color, 0, 0, kind.interlaced)
        self.parts = [chunk(b"IHDR", header)]
        if kind.color == 3:
            self.parts.append(chunk(b"PLTE", bytes(itertools.chain(*palette))))
        if kind.transparent:
            body = bytes(alphas) if kind.color == 3 else struct.pack(f">{count}H", *key)
            self.parts.append(chunk(b"tRNS", body))
        self.parts += [chunk(b"IDAT", zlib.compress(_scanlines(rows, kind))), chunk(b"IEND", b"")]

        def look(pixel: Color) -> tuple[float, ...]:
            alpha = 1.0
            if kind.color == 3:
                color: tuple[float, ...] = tuple(map(float, palette[pixel[0]]))
                if kind.transparent and pixel[0] < len(alphas):
                    alpha = alphas[pixel[0]] / 255
            else:
                scaled = tuple(sample * 255 / most for sample in pixel)
                if kind.color in (4, 6):
                    *scaled_color, opacity = scaled
                    scaled, alpha = tuple(scaled_color), opacity / 255
                color = scaled * 3 if len(scaled) == 1 else scaled
                if kind.transparent and pixel == key:
                    alpha = 0.0
            return tuple(value * alpha + 255 * (1 - alpha) for value in color)

        self.expected = [[look(pixel) for pixel in row] for row in rows]

    def file(self, *extra: bytes, behind: tuple[bytes, ...] = ()) -> bytes:
        """The file, with further chunks after the header, and behind the pixels."""
        header, *rest, end = self.parts
        return b"\x89PNG\r\n\x1a\n" + b"".join((header, *extra, *rest, *behind, end))


def _scanlines(rows: list[list[Color]], kind: Kind) -> bytes:
    passes = ADAM7 if kind.interlaced else ((0, 0, 1, 1),)
    return b"".join(
        b"\x00" + _packed(list(itertools.chain(*row[left::across])), kind.depth)
        for left, top, across, down in passes
        for row in rows[top::down]
        if row[left::across]
    )


def _packed(samples: list[int], depth: int) -> bytes:
    if depth == 16:
        return struct.pack(f">{len(samples)}H", *samples)
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    return bytes(int(bits[i : i + 8].ljust(8, "0"), 2) for i in range(0, len(bits), 8))
