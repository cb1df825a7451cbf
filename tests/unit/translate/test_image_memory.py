"""What the pictures of a request take, before they are looked at any closer."""

import base64
from dataclasses import replace

import pytest

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError
from octet.pictures.header import read_header
from octet.pictures.plan import make_plan, memory_for
from octet.translate.image_memory import image_memory
from octet.translate.media import ImageLimits
from octet.translate.messages import pictures_of
from octet.translate.pictures import Pictures
from octet.v1 import chat_service_pb2, content_pb2, tool_pb2
from tests.pictures import flat, flat_png

LIMITS = ImageLimits(max_bytes=1_000_000, max_pixels=64_000_000, max_memory=200_000_000)
FILE = flat("PNG", 1000)


OPTIONS = chat_service_pb2.ImageOptions()


def ask(*images: content_pb2.Image) -> Pictures:
    return [(f"messages[0].parts[{i}].image", image) for i, image in enumerate(images)]


def inline(file: bytes) -> content_pb2.Image:
    return content_pb2.Image(data=file)


def uri(file: bytes) -> content_pb2.Image:
    return content_pb2.Image(uri="data:image/png;base64," + base64.b64encode(file).decode())


def memory(*files: bytes) -> int:
    return memory_for([make_plan(read_header(file), None) for file in files])


def test_pictures_count_wherever_they_are(model: ModelInfo) -> None:
    fetched = {"https://a.test/x": FILE}
    for image in (inline(FILE), uri(FILE), content_pb2.Image(uri="https://a.test/x")):
        assert image_memory(ask(image), OPTIONS, model, LIMITS, fetched) == memory(FILE)
    assert image_memory(ask(inline(FILE), uri(FILE)), OPTIONS, model, LIMITS) == memory(FILE, FILE)


def test_pictures_of_tool_results_count_as_all_others_do(model: ModelInfo) -> None:
    request = chat_service_pb2.ChatRequest()
    request.messages.add(role=content_pb2.ROLE_USER).parts.add(image=inline(FILE))
    turn = request.messages.add(role=content_pb2.ROLE_TOOL)
    turn.parts.add(tool_result=tool_pb2.ToolResult(call_id="c1", text="a shot"))
    turn.parts.add(image=uri(FILE))
    assert image_memory(pictures_of(request.messages), OPTIONS, model, LIMITS) == memory(FILE, FILE)
    turn.parts.add(image=inline(flat("PNG", 3100)))
    turn.parts.add(image=inline(flat("PNG", 3100)))
    many = replace(model, max_images=9)
    few = ImageLimits(1_000_000, 64_000_000, max_memory=150_000_000)
    with pytest.raises(InvalidRequestError) as raised:
        image_memory(pictures_of(request.messages), OPTIONS, many, few)
    assert raised.value.field == "messages[1].parts[3].image.data"


def test_what_is_not_there_yet_counts_nothing(model: ModelInfo) -> None:
    assert image_memory(ask(content_pb2.Image(uri="https://a.test/x")), OPTIONS, model, LIMITS) == 0
    assert image_memory(ask(), OPTIONS, model, LIMITS) == 0


def test_what_cannot_be_looked_at_may_take_all(model: ModelInfo) -> None:
    escaped = content_pb2.Image(uri=uri(FILE).uri.replace("A", "%41"))
    assert image_memory(ask(escaped), OPTIONS, model, LIMITS) == LIMITS.max_memory


@pytest.mark.parametrize(
    "image",
    [
        inline(b""),
        inline(b"no picture"),
        inline(bytes(LIMITS.max_bytes + 1)),
        inline(flat_png(1, 1, claimed=(65_536, 1))),
        inline(flat_png(1, 1, claimed=(0, 1))),
        inline(flat_png(1, 1, claimed=(9000, 9000))),
        content_pb2.Image(),
        content_pb2.Image(uri="data:"),
        content_pb2.Image(uri="data:image/png;base64,?"),
    ],
)
def test_what_will_be_refused_counts_nothing(model: ModelInfo, image: content_pb2.Image) -> None:
    assert image_memory(ask(image), OPTIONS, model, LIMITS) == 0


def test_the_first_picture_too_many_is_named(model: ModelInfo) -> None:
    large = inline(flat("PNG", 3100))
    assert image_memory(ask(large), OPTIONS, model, LIMITS) > LIMITS.max_memory / 2  # type: ignore[operator]
    with pytest.raises(InvalidRequestError) as raised:
        image_memory(ask(large, large, large), OPTIONS, model, LIMITS)
    assert raised.value.field == "messages[0].parts[2].image.data"
    assert "has 3100 x 3100 pixels, with which decoding the request's pictures takes" in raised.value.message
    assert "more than the limit of 200000000" in raised.value.message
