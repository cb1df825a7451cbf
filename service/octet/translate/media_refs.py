"""Pictures in the requests of an SMG gateway, which go to vLLM's own processor as data: URIs."""

import base64
from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType

from smg_grpc_proto import vllm_engine_pb2
from smg_grpc_proto.generated import common_pb2

from octet.engine.types import ModelInfo
from octet.errors import InvalidRequestError
from octet.pictures.decode import DecodeError, decode_here
from octet.pictures.plan import Plan, make_plan, memory_for
from octet.translate.data_uri import is_data_uri, parse_data_uri
from octet.translate.image_memory import check_memory
from octet.translate.media import Decode, ImageLimits, check_image
from octet.translate.pictures import file_of

_SMALL_PIXELS = 2**20
"""Of a picture that vLLM's processor may decode by itself, in the server's own process and at full size."""


def refs_to_fetch(request: vllm_engine_pb2.GenerateRequest) -> dict[str, str]:
    """The URIs of pictures that are elsewhere, and the path of the field that each stands in."""
    return {
        item.url: _path(i)
        for i, item in enumerate(request.media_refs.items)
        if item.url and not is_data_uri(item.url)
    }


def inline_pictures(
    request: vllm_engine_pb2.GenerateRequest,
    model: ModelInfo,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
    decode: Decode = decode_here,
) -> None:
    """Checks the request's pictures, and replaces what was fetched, and what is large, by data: URIs.

    Large ones are decoded as a chat's are, and encoded anew.

    Args:
        request: a request, which is changed.
        model: what is served.
        limits: of pictures.
        fetched: the files that `refs_to_fetch` named, by their URIs.
        decode: decodes pictures.

    Raises:
        InvalidRequestError: at the first picture that is not taken.
    """
    for i, item in enumerate(request.media_refs.items):
        if item.modality != common_pb2.IMAGE:
            known = common_pb2.Modality.DESCRIPTOR.values_by_number.get(item.modality)
            name = known.name.lower() if known is not None else item.modality
            raise InvalidRequestError(f"media_refs.items[{i}].modality", f"is {name}; only images are taken")
        file = fetched.get(item.url)
        if file is None:
            if not is_data_uri(item.url):
                raise InvalidRequestError(
                    _path(i), "names a picture elsewhere; this server fetches none (see --image-host)"
                )
            file = parse_data_uri(item.url, max_bytes=limits.max_bytes, field=_path(i)).data
        header = check_image(file, limits=limits, where=_path(i))
        media_type = header.format.value
        if header.pixels > _SMALL_PIXELS:
            file, media_type = _encoded_anew(file, make_plan(header, model.image_view), decode, _path(i))
        elif item.url not in fetched:
            continue
        item.url = f"data:{media_type};base64,{base64.b64encode(file).decode()}"


def refs_memory(
    request: vllm_engine_pb2.GenerateRequest,
    model: ModelInfo,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
) -> int:
    """Bytes that decoding a request's pictures takes; see `octet.translate.image_memory.image_memory`.

    Raises:
        InvalidRequestError: at the first picture that takes too much memory together with those before it.
    """
    plans: list[Plan] = []
    escaped = False
    for i, item in enumerate(request.media_refs.items):
        file = file_of(item.url, fetched)
        if file is None:
            escaped = escaped or is_data_uri(item.url)
            continue
        try:
            header = check_image(file, limits=limits, where=_path(i))
        except InvalidRequestError:
            # Said by `inline_pictures`.
            continue
        plans.append(make_plan(header, model.image_view))
        check_memory(plans, limits, _path(i))
    return limits.max_memory or 0 if escaped else memory_for(plans)


def _encoded_anew(file: bytes, plan: Plan, decode: Decode, where: str) -> tuple[bytes, str]:
    """A file of the picture as the model needs it, and its media type."""
    try:
        image = decode(file, plan)
    except DecodeError as error:
        raise InvalidRequestError(where, str(error)) from error
    encoded = BytesIO()
    image.save(encoded, "PNG", compress_level=1)
    return encoded.getvalue(), "image/png"


def _path(i: int) -> str:
    return f"media_refs.items[{i}].url"
