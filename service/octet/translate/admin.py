"""Requests of AdminService."""

import re
from pathlib import PurePosixPath

from octet.errors import InvalidRequestError
from octet.v1 import admin_service_pb2

MAX_PATH_LENGTH = 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def to_adapter_name(name: str) -> str:
    """Checks the name of an adapter.

    Raises:
        InvalidRequestError: it is none.
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "name",
            f"{name[:80]!r} is not 1 to 64 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
    return name


def to_adapter_path(request: admin_service_pb2.LoadAdapterRequest) -> PurePosixPath:
    """Checks LoadAdapterRequest.path: what it names lies below the directory that it begins in.

    Raises:
        InvalidRequestError: it leads elsewhere, or nowhere.
    """
    path = request.path
    if not 1 <= len(path) <= MAX_PATH_LENGTH:
        raise InvalidRequestError("path", f"has {len(path)} characters, not 1 to {MAX_PATH_LENGTH}")
    if not path.isprintable():
        raise InvalidRequestError("path", "has characters that cannot be printed")
    if path.startswith("/") or any(part in ("", ".", "..") for part in path.removesuffix("/").split("/")):
        raise InvalidRequestError(
            "path", "is no path below the server's --adapter-root: it begins there, without '.' and '..'"
        )
    return PurePosixPath(path)
