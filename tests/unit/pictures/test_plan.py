"""What pictures are planned to take, and how small they may become."""

import base64
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from octet.pictures.header import Base64Source, Format, Header, NotAPictureError, read_header
from octet.pictures.plan import ImageView, PanAndScan, make_plan, memory_for
from tests.pictures import flat, flat_png, slow_jpeg

SCAN = PanAndScan(max_crops=4, min_ratio=1.2, min_side=256)
VIEW = ImageView(896, 896, SCAN)
MIB = 2**20


def header(width: int, height: int, kind: Format = Format.PNG) -> Header:
    scales = (8, 4, 2) if kind is Format.JPEG else ()
    return Header(kind, width, height, 1000, full=4, output=4 if kind is Format.JPEG else 0, scales=scales)


@given(
    st.integers(1, 65_535), st.integers(1, 65_535), st.booleans(), st.sampled_from([Format.PNG, Format.JPEG])
)
def test_no_side_is_made_shorter_than_twice_the_models(
    width: int, height: int, crops: bool, kind: Format
) -> None:
    plan = make_plan(header(width, height, kind), VIEW, pan_and_scan=crops)
    for fx, fy in (plan.as_stored, plan.turned):
        assert -(-width // fx) >= min(width, 2 * 896)
        assert -(-height // fy) >= min(height, 2 * 896)


@given(st.integers(1, 65_535), st.integers(1, 65_535))
def test_the_crops_stay_the_same(width: int, height: int) -> None:
    fx, fy = VIEW.factors(width, height, pan_and_scan=True)
    crops = SCAN.crops(width, height)
    assert SCAN.crops(-(-width // fx), -(-height // fy)) == crops
    along = max(-(-width // fx), -(-height // fy)) / max(1, crops)
    assert along >= min(2 * 896, max(width, height) / max(1, crops)) - 1


@given(st.integers(1, 3583), st.integers(1, 3583), st.booleans())
def test_what_is_below_four_times_the_models_size_is_not_touched(
    width: int, height: int, crops: bool
) -> None:
    assert VIEW.factors(width, height, pan_and_scan=crops) == (1, 1)


def test_without_a_word_it_is_as_the_model_does_it() -> None:
    by_default = ImageView(896, 896, PanAndScan(4, 1.2, 256, by_default=True))
    for view, crops in ((VIEW, False), (by_default, True)):
        assert view.factors(9000, 5000, pan_and_scan=None) == view.factors(9000, 5000, pan_and_scan=crops)
    assert VIEW.factors(9000, 5000, pan_and_scan=True) != VIEW.factors(9000, 5000, pan_and_scan=False)


@pytest.mark.parametrize(
    ("file", "most"),
    [
        (flat("WEBP", 8000), 350),
        (flat("PNG", 8000), 350),
        (flat("GIF", 8000), 200),
        (flat("JPEG", 8000), 80),
        (slow_jpeg(), 120),
    ],
    ids=["WebP", "PNG", "GIF", "JPEG", "progressive JPEG"],
)
def test_large_pictures_take_far_less_than_they_did(file: bytes, most: int) -> None:
    plan = make_plan(read_header(file), VIEW)
    assert memory_for([plan]) < most * MIB
    # The next ones cost no more than what is kept of them.
    assert memory_for([plan] * 8) == memory_for([plan]) + 7 * plan.result_bytes


def animation(file_format: str) -> bytes:
    file = BytesIO()
    frames = [Image.new("RGB", (60, 40), color) for color in ("red", "blue")]
    frames[0].save(file, file_format, save_all=True, append_images=frames[1:])
    return file.getvalue()


FILES = [
    *(flat(name, 300) for name in ("PNG", "JPEG", "WEBP", "GIF")),
    *(animation(name) for name in ("PNG", "WEBP", "GIF")),
    slow_jpeg(40, 12),
]


@pytest.mark.parametrize("file", FILES)
def test_a_file_in_base64_says_the_same(file: bytes) -> None:
    assert read_header(Base64Source(base64.b64encode(file).decode())) == read_header(file)


@given(st.binary(max_size=200), st.integers(0, 250), st.integers(0, 250))
def test_any_piece_of_base64_can_be_read(data: bytes, start: int, stop: int) -> None:
    source = Base64Source(base64.b64encode(data).decode())
    assert len(source) == len(data)
    assert source[start:stop] == data[start:stop]


@given(st.text(max_size=60))
def test_what_is_no_base64_is_no_picture(text: str) -> None:
    with pytest.raises(NotAPictureError):
        read_header(Base64Source(text))


@given(st.sampled_from(FILES), st.data())
def test_damaged_headers_raise_nothing_else(file: bytes, data: st.DataObject) -> None:
    damaged = bytearray(file[: data.draw(st.integers(0, len(file)))])
    for _ in range(min(4, len(damaged))):
        damaged[data.draw(st.integers(0, min(len(damaged), 120) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = read_header(bytes(damaged))
    except NotAPictureError:
        return
    assert found.full >= 0


class Counted:
    """A file that counts how often it is looked at."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.reads = 0

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, piece: slice) -> bytes:
        self.reads += 1
        return self.data[piece]


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xd8" + b"\xff\xfe\x00\x02" * 2_000_000,
        b"\xff\xd8" + b"\xff" * 2_000_000,
        b"\xff\xd8" + b"\xff\xd0" * 2_000_000,
        b"GIF89a" + bytes(7) + b"\x21\xfe\x01x" + b"\x01x" * 2_000_000,
        b"GIF89a" + bytes(7) + b"\x21\xfe\x00" * 2_000_000,
        b"RIFF\x00\x00\x00\x00WEBP" + b"JUNK\x00\x00\x00\x00" * 1_000_000,
    ],
    ids=["comments", "fill bytes", "lone markers", "a GIF comment", "GIF comments", "WebP chunks"],
)
def test_a_header_is_found_in_few_steps_or_not_at_all(data: bytes) -> None:
    file = Counted(data)
    with pytest.raises(NotAPictureError):
        read_header(file)
    assert file.reads < 20_000


def test_sizes_that_only_png_files_can_have() -> None:
    assert read_header(flat_png(1, 1, claimed=(1, 64_000_000))).height == 64_000_000
