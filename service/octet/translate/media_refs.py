"""Pictures in the requests of an SMG gateway, which go to vLLM's own processor as data: URIs."""

import base64
from collections.abc import Mapping
from types import MappingProxyType

from smg_grpc_proto import vllm_engine_pb2
from smg_grpc_proto.generated import common_pb2

from octet.errors import InvalidRequestError
from octet.translate.data_uri import is_data_uri, parse_data_uri
from octet.translate.media import ImageLimits, check_image


def refs_to_fetch(request: vllm_engine_pb2.GenerateRequest) -> dict[str, str]:
    """The URIs of pictures that are elsewhere, and the path of the field that each stands in."""
    return {
        item.url: _path(i)
        for i, item in enumerate(request.media_refs.items)
        if item.url and not is_data_uri(item.url)
    }


def inline_pictures(
    request: vllm_engine_pb2.GenerateRequest,
    limits: ImageLimits,
    fetched: Mapping[str, bytes] = MappingProxyType({}),
) -> None:
    """Checks the request's pictures without decoding them, and replaces what was fetched by data: URIs.

    Args:
        request: a request, which is changed.
        limits: of pictures.
        fetched: the files that `refs_to_fetch` named, by their URIs.

    Raises:
        InvalidRequestError: at the first picture that is not taken.
    """
    for i, item in enumerate(request.media_refs.items):
        if item.modality != common_pb2.IMAGE:
            name = common_pb2.Modality.Name(item.modality).lower()
            raise InvalidRequestError(f"media_refs.items[{i}].modality", f"is {name}; only images are taken")
        if (file := fetched.get(item.url)) is not None:
            header = check_image(file, limits=limits, where=_path(i))
            item.url = f"data:{header.format.value};base64,{base64.b64encode(file).decode()}"
        elif is_data_uri(item.url):
            check_image(
                parse_data_uri(item.url, max_bytes=limits.max_bytes, field=_path(i)).data,
                limits=limits,
                where=_path(i),
            )
        else:
            raise InvalidRequestError(
                _path(i), "names a picture elsewhere; this server fetches none (see --image-host)"
            )


def _path(i: int) -> str:
    return f"media_refs.items[{i}].url"
