"""The pictures of a request, wherever in it they stand."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from octet.engine.types import ImagePart, ModelInfo
from octet.errors import InvalidRequestError
from octet.pictures.decode import decode_here
from octet.translate.data_uri import is_data_uri, parse_data_uri
from octet.translate.media import Decode, ImageLimits, decode_image
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
                raise InvalidRequestError(
                    path, "has no source; set data to the bytes of the picture file, or uri"
                )
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
            raise InvalidRequestError(
                path, "is not a data: URI, and this server fetches no pictures (--image-host)"
            )
        return self.fetched[uri], ""
