"""The memory that the pictures of a request will take, from their headers alone."""

from collections.abc import Mapping
from types import MappingProxyType

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError
from octet.pictures.plan import Plan, make_plan, memory_for
from octet.translate.data_uri import is_data_uri
from octet.translate.media import ImageLimits, check_image
from octet.translate.pictures import Pictures, file_of
from octet.v1 import chat_service_pb2


def image_memory(
    pictures: Pictures,
    options: chat_service_pb2.ImageOptions,
    model: ModelInfo,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
) -> int:
    """Bytes that decoding the pictures of a request takes, one after the other, and keeping the results.

    A picture that is elsewhere needs nothing until it has been fetched; neither does what is no picture: it
    is refused before it is decoded. One in a URI with escapes may need all that a request may have, as
    looking for its header would take long.

    Args:
        pictures: those of a request of which nothing has been checked yet.
        options: how they are prepared.
        model: what is served; no more pictures are looked at than it takes.
        limits: of pictures.
        fetched: the files that `octet.translate.pictures.uris_of` named, by their URIs.

    Raises:
        InvalidRequestError: at the first picture that takes too much memory together with those before it.
    """
    plans: list[Plan] = []
    escaped = False
    pan_and_scan = options.pan_and_scan if options.HasField("pan_and_scan") else None
    for path, image in pictures[: model.max_images]:
        name = "uri" if image.HasField("uri") else "data"
        file = file_of(image.uri, fetched) if name == "uri" else image.data
        if file is None:
            escaped = escaped or is_data_uri(image.uri)
            continue
        try:
            header = check_image(file, limits=limits, where=f"{path}.{name}")
        except InvalidRequestError:
            # Said when its turn comes: other fields may be wrong as well, and are cheaper to look at.
            continue
        plans.append(make_plan(header, model.image_view, pan_and_scan=pan_and_scan))
        check_memory(plans, limits, f"{path}.{name}")
    return limits.max_memory or 0 if escaped else memory_for(plans)


def check_memory(plans: list[Plan], limits: ImageLimits, where: str) -> None:
    """Raises InvalidRequestError at `where` when the last of a request's pictures makes them too large."""
    needed = memory_for(plans)
    if limits.max_memory is not None and needed > limits.max_memory:
        header = plans[-1].header
        raise InvalidRequestError(
            where,
            f"has {header.width} x {header.height} pixels, with which decoding the request's pictures takes "
            f"{needed} bytes of memory, more than the limit of {limits.max_memory}; "
            "make them smaller or send fewer",
        )
