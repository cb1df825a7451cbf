"""How small a picture may be made before the model sees it, and the memory that decoding it so takes."""

from collections.abc import Iterable
from dataclasses import dataclass

from octet.pictures.header import Format, Header

Factors = tuple[int, int]
"""By which width and height are divided."""

_SPARE = 2
"""Sides are kept at least so many times as long as the model's own, so that what its processor makes of the
picture stays the same but for rounding. A picture whose sides are less than twice that is not touched."""

RESULT_PIXEL_BYTES = 4
"""Bytes a pixel of a picture in Pillow's memory, RGB."""

_BASE_BYTES = 16 * 2**20
"""What a decoder takes beside the picture: a strip of it in several forms."""

_FILE_COPIES = 3
"""Received, without its metadata, and in the decoder's hands."""


@dataclass(frozen=True, slots=True)
class PanAndScan:
    """How a picture is cut into crops, along its longer side, that are shown beside the whole.

    Attributes:
        max_crops: most of them.
        min_ratio: of the sides, below which there are none.
        min_side: shortest side of a crop, in pixels.
        by_default: whether it is done where a request does not say.
    """

    max_crops: int
    min_ratio: float
    min_side: int
    by_default: bool = False

    def crops(self, width: int, height: int) -> int:
        """How many crops are made of a picture; 0 for none."""
        long, short = max(width, height), min(width, height)
        if long / short < self.min_ratio:
            return 0
        crops = min(self.max_crops, max(2, min(long // self.min_side, int(long / short + 0.5))))
        return 0 if min(-(-long // crops), short) < self.min_side else crops


@dataclass(frozen=True, slots=True)
class ImageView:
    """What a model's processor makes of every picture: one of this size, whatever shape it had.

    Attributes:
        width: in pixels.
        height: in pixels.
        pan_and_scan: how crops are made, each resized likewise; None where they are not.
    """

    width: int
    height: int
    pan_and_scan: PanAndScan | None = None

    def factors(self, width: int, height: int, *, pan_and_scan: bool | None) -> Factors:
        """By how much the sides of an upright picture can be divided, each by a whole number.

        Args:
            width: of the picture.
            height: of the picture.
            pan_and_scan: whether crops are shown as well; None where the request does not say.
        """
        scan = self.pan_and_scan
        if scan is not None and (scan.by_default if pan_and_scan is None else pan_and_scan):
            return self._factors_with_crops(width, height, scan)
        return max(1, width // (_SPARE * self.width)), max(1, height // (_SPARE * self.height))

    def _factors_with_crops(self, width: int, height: int, scan: PanAndScan) -> Factors:
        """Both sides are divided by the same number, as the shape decides on the crops."""
        crops = scan.crops(width, height)
        across, down = (max(1, crops), 1) if width >= height else (1, max(1, crops))
        factor = min(width // (_SPARE * self.width * across), height // (_SPARE * self.height * down))
        while factor > 1 and scan.crops(-(-width // factor), -(-height // factor)) != crops:
            factor -= 1
        return max(1, factor), max(1, factor)


@dataclass(frozen=True, slots=True)
class Plan:
    """How one picture is decoded.

    Attributes:
        header: what its file says.
        as_stored: by what its sides are divided if they are stored as they are shown.
        turned: likewise, if its metadata say that it lies on its side.
    """

    header: Header
    as_stored: Factors = (1, 1)
    turned: Factors = (1, 1)

    @property
    def result_bytes(self) -> int:
        """What the decoded picture takes."""
        header = self.header
        return RESULT_PIXEL_BYTES * max(
            _divided(header.width, fx) * _divided(header.height, fy)
            for fx, fy in (self.as_stored, self.turned)
        )

    @property
    def decoder_bytes(self) -> int:
        """What its decoder takes at most."""
        header = self.header
        output = max(
            header.output * _divided(header.width, sx) * _divided(header.height, sy)
            for sx, sy in (scale(header, self.as_stored), scale(header, self.turned))
        )
        return _BASE_BYTES + _FILE_COPIES * header.file_bytes + int(header.full * header.pixels) + output


def make_plan(header: Header, view: ImageView | None, *, pan_and_scan: bool | None = None) -> Plan:
    """How a picture is decoded for a model that sees it so; None leaves it as large as it is."""
    if view is None:
        return Plan(header)
    fx, fy = view.factors(header.width, header.height, pan_and_scan=pan_and_scan)
    turned_fx, turned_fy = view.factors(header.height, header.width, pan_and_scan=pan_and_scan)
    return Plan(header, _decodable(header, (fx, fy)), _decodable(header, (turned_fy, turned_fx)))


def memory_for(plans: Iterable[Plan]) -> int:
    """What decoding the pictures of a request takes: one after the other, the results kept."""
    kept = peak = 0
    for plan in plans:
        # Turning a result upright takes it twice.
        peak = max(peak, plan.decoder_bytes + plan.result_bytes)
        kept += plan.result_bytes
    return kept + peak


def scale(header: Header, factors: Factors) -> Factors:
    """By what the decoder itself divides the sides."""
    if header.scales is None:
        return factors
    both = next((s for s in header.scales if s <= min(factors)), 1)
    return both, both


def _decodable(header: Header, factors: Factors) -> Factors:
    """The factors, or lower ones that are multiples of what the decoder divides by."""
    if header.format is not Format.JPEG:
        return factors
    sx, sy = scale(header, factors)
    return factors[0] // sx * sx, factors[1] // sy * sy


def _divided(side: int, factor: int) -> int:
    return -(-side // factor)
