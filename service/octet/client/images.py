"""Pictures in the forms that programs have them in."""

import io
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from typing_extensions import TypeIs

from octet.v1 import content_pb2

if TYPE_CHECKING:
    from PIL import Image

ImageSource: TypeAlias = "str | os.PathLike[str] | bytes | Image.Image"
"""A file's path, a "data:" or "https:" URI, an encoded file's bytes, or a decoded picture (Pillow's)."""

_URI_SCHEMES = ("data:", "https:")


def is_decoded(source: object) -> "TypeIs[Image.Image]":
    """Whether it is a decoded picture. Whoever has one has imported Pillow, which clients do without."""
    pillow = sys.modules.get("PIL.Image")
    return pillow is not None and isinstance(source, pillow.Image)


def to_image(source: ImageSource) -> content_pb2.Image:
    """The message for a picture. Files go as they are; a decoded picture goes as PNG; the server itself
    fetches what a URI names, where it was told to.

    Raises:
        OSError: when a file cannot be read.
    """
    if isinstance(source, bytes):
        return content_pb2.Image(data=source)
    if is_decoded(source):
        file = io.BytesIO()
        source.save(file, "PNG")
        return content_pb2.Image(data=file.getvalue(), mime_type="image/png")
    if isinstance(source, str) and source.startswith(_URI_SCHEMES):
        return content_pb2.Image(uri=source)
    return content_pb2.Image(data=Path(source).read_bytes())
