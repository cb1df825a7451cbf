"""Pictures in the forms that programs have them in."""

import io
import os
from pathlib import Path
from typing import TypeAlias

from PIL import Image

from octet.v1 import content_pb2

ImageSource: TypeAlias = str | os.PathLike[str] | bytes | Image.Image
"""A file's path, an encoded file's bytes, or a decoded picture."""


def to_image(source: ImageSource) -> content_pb2.Image:
    """The message for a picture. Files go as they are; a decoded picture goes as PNG.

    Raises:
        OSError: when a file cannot be read.
    """
    if isinstance(source, bytes):
        return content_pb2.Image(data=source)
    if isinstance(source, Image.Image):
        file = io.BytesIO()
        source.save(file, "PNG")
        return content_pb2.Image(data=file.getvalue(), mime_type="image/png")
    return content_pb2.Image(data=Path(source).read_bytes())
