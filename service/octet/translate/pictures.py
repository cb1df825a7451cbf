"""The pictures of a request, wherever in it they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from octet.engine.types import ImagePart, ModelInfo
from octet.errors import InvalidRequestError
from octet.pictures.decode import decode_here
from octet.pictures.header import Base64Source, Source
from octet.translate.data_uri import SCHEME, is_data_uri, parse_data_uri
from octet.translate.media import Decode, ImageLimits, check_image, decode_image
from octet.v1 import content_pb2

Pictures = Sequence[tuple[str, content_pb2.Image]]
"""Pictures with the paths of the fields that they stand in, in order."""


def check_image_count(pictures: Pictures, model: ModelInfo) -> None:
    """Raises InvalidRequestError at the first of a prompt's pictures that the model does not take."""
    if pictures and not model.takes_images:
        raise InvalidRequestError(pictures[0][0], f"is a picture, but {model.names[0]} takes text only")
    if len(pictures) > model.max_images:
        raise InvalidRequestError(
            pictures[model.max_images][0],
            f"is one of {len(pictures)} pictures, more than the {model.max_images} of one request",
        )


def uris_of(pictures: Pictures, model: ModelInfo) -> dict[str, str]:
    """The URIs of pictures that are elsewhere, each with the path of the field that names it first.

    Raises:
        InvalidRequestError: there are more pictures than the model takes.
    """
    check_image_count(pictures, model)
    uris: dict[str, str] = {}
    for path, image in pictures:
        if image.HasField("uri") and not is_data_uri(image.uri):
            uris.setdefault(image.uri, f"{path}.uri")
    return uris


def file_of(uri: str, fetched: Mapping[str, bytes]) -> Source | None:
    """The file that a URI holds or names, of which little is decoded; None when it cannot be looked at."""
    if uri in fetched:
        return fetched[uri]
    if not is_data_uri(uri):
        return None
    body = uri[len(SCHEME) :].partition(",")[2]
    return None if "%" in body else Base64Source(body)


def check_pictures(pictures: Pictures, limits: ImageLimits, *, fetches: bool) -> None:
    """Checks what can be told of pictures without decoding or fetching them.

    Args:
        pictures: those of a request.
        limits: how large they may be.
        fetches: whether those that are elsewhere will be fetched.

    Raises:
        InvalidRequestError: at the first wrong field.
    """
    for path, image in pictures:
        source = image.WhichOneof("source")
        if source is None:
            raise _sourceless(path)
        if source == "data":
            check_image(image.data, limits=limits, where=f"{path}.data")
        elif is_data_uri(image.uri):
            # One with escapes is looked at when it is decoded.
            if (file := file_of(image.uri, {})) is not None:
                check_image(file, limits=limits, where=f"{path}.uri")
        elif not fetches:
            raise _elsewhere(f"{path}.uri")


@dataclass(frozen=True, slots=True)
class PictureReader:
    """Checks and decodes the pictures of a request.

    Attributes:
        model: what is served.
        limits: of pictures.
        fetched: the files that `uris_of` named, by their URIs.
        pan_and_scan: whether pictures are shown in crops as well; None where the request does not say.
        decode: decodes pictures.
    """

    model: ModelInfo
    limits: ImageLimits
    fetched: Mapping[str, bytes] = field(default_factory=dict)
    pan_and_scan: bool | None = None
    decode: Decode = decode_here

    def read(self, image: content_pb2.Image, path: str) -> ImagePart:
        """The picture at `path`.

        Raises:
            InvalidRequestError: at the wrong field.
        """
        source = image.WhichOneof("source")
        match source:
            case "data":
                data, source_type = image.data, ""
            case "uri":
                data, source_type = self._open(image.uri, f"{path}.uri")
            case _:
                raise _sourceless(path)
        decoded = decode_image(
            data,
            mime_type=image.mime_type,
            limits=self.limits,
            field=path,
            source=source,
            source_type=source_type,
            view=self.model.image_view,
            pan_and_scan=self.pan_and_scan,
            decode=self.decode,
        )
        return ImagePart(decoded)

    def _open(self, uri: str, path: str) -> tuple[bytes, str]:
        """The file that a URI holds or names, and its media type where the URI says that."""
        if is_data_uri(uri):
            parsed = parse_data_uri(uri, max_bytes=self.limits.max_bytes, field=path)
            return parsed.data, parsed.media_type
        if uri not in self.fetched:
            raise _elsewhere(path)
        return self.fetched[uri], ""


def _sourceless(path: str) -> InvalidRequestError:
    return InvalidRequestError(path, "has no source; set data to the bytes of the picture file, or uri")


def _elsewhere(path: str) -> InvalidRequestError:
    return InvalidRequestError(path, "is not a data: URI, and this server fetches no pictures (--image-host)")
