"""Who is to blame for what the package that answers gateways cannot do."""

import grpc
import pytest
from smg_grpc_servicer.vllm.errors import grpc_code_for

from octet.engine.vllm.serving.smg import PictureProcessor


class Failing:
    """A processor of pictures that fails."""

    max_inflight = 3

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def process(self, ids: list[int], *, request_id: str) -> None:
        raise self._error


# As vLLM says it where a prompt has no token for a picture.
NO_PLACE = AssertionError("Failed to apply prompt replacement for mm_items['image'][0]")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (NO_PLACE, grpc.StatusCode.INVALID_ARGUMENT),
        (ValueError("multimodal placeholder validation failed"), grpc.StatusCode.INVALID_ARGUMENT),
        (OSError("no memory"), grpc.StatusCode.INTERNAL),
    ],
)
async def test_pictures_that_cannot_be_processed(error: Exception, code: grpc.StatusCode) -> None:
    processor = PictureProcessor(Failing(error))
    assert processor.max_inflight == 3
    with pytest.raises(type(error) if error is not NO_PLACE else ValueError) as raised:
        await processor.process([2], request_id="a")
    assert grpc_code_for(raised.value) == code
