"""Pictures that requests name by https: URI, fetched from the hosts that the operator allows and no others.

What a client writes must not make the server talk to machines that the client could not reach itself. Hosts
are compared with a list; every address is checked on the socket that is about to be connected to it, so that
no name can point elsewhere a moment later; redirects are followed by hand and checked like the first URI.
"""

import asyncio
import ipaddress
import re
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeAlias

import aiohttp
from yarl import URL

from octet import __version__
from octet.errors import ImageFetchError, InvalidRequestError

Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URI_LENGTH = 8192
MAX_REDIRECTS = 5
MAX_CONNECTIONS = 32
"""Pictures fetched at the same time, over all requests; others wait."""

_PRINTABLE = re.compile(r"[\x21-\x7e]+")
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": f"octet/{__version__}"}
_CHUNK_BYTES = 64 * 1024

# IPv6 networks whose addresses stand for IPv4 ones, and the position of these in their 16 bytes.
_EMBEDDING = (
    (ipaddress.IPv6Network("::ffff:0:0/96"), 12),  # IPv4-mapped
    (ipaddress.IPv6Network("::/96"), 12),  # IPv4-compatible
    (ipaddress.IPv6Network("64:ff9b::/96"), 12),  # NAT64
    (ipaddress.IPv6Network("2002::/16"), 2),  # 6to4
)


def is_public(address: Address) -> bool:
    """Whether an address is one of the public internet.

    Private, loopback, link-local, multicast and reserved ones are not, however they are written.
    """
    if isinstance(address, ipaddress.IPv6Address):
        for network, at in _EMBEDDING:
            if address in network:
                return is_public(ipaddress.IPv4Address(address.packed[at : at + 4]))
        if address.teredo is not None or address.is_site_local:
            return False
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
    )


class ImageFetcher:
    """Fetches pictures; one for a whole server. Use on one event loop, and `close` at the end.

    Args:
        hosts: names, or NAME:PORT for a port other than 443, that pictures may come from.
        max_bytes: of one picture.
        max_request_bytes: of all that one request names.
        seconds: that one picture may take, redirects included.
        permits: which addresses may be connected to.
        ssl_context: which certificates are trusted; None for the system's.
    """

    def __init__(
        self,
        hosts: Collection[str],
        *,
        max_bytes: int,
        max_request_bytes: int,
        seconds: float,
        permits: Callable[[Address], bool] = is_public,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        allowed = (URL(f"https://{host}") for host in hosts)
        self._hosts = frozenset((_host(url), url.port) for url in allowed)
        self._max_bytes = max_bytes
        self._max_request_bytes = max_request_bytes
        self._seconds = seconds
        self._permits = permits
        self._ssl_context = ssl_context
        self._session: aiohttp.ClientSession | None = None

    async def fetch_all(self, uris: Mapping[str, str]) -> dict[str, bytes]:
        """Fetches what the pictures of one request name.

        Args:
            uris: each URI, and the path of the field that it stands in.

        Returns:
            The files by their URIs.

        Raises:
            InvalidRequestError: a URI is none that is fetched.
            ImageFetchError: the file cannot be had, or is too large.
        """
        # All are checked before the first is fetched.
        urls = {uri: self._checked(uri, field) for uri, field in uris.items()}
        budget = _Budget(self._max_request_bytes)
        tasks: dict[str, asyncio.Task[bytes]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for uri, url in urls.items():
                    tasks[uri] = group.create_task(self._fetch(url, uris[uri], budget))
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return {uri: task.result() for uri, task in tasks.items()}

    async def close(self) -> None:
        """Closes all connections."""
        if self._session is not None:
            await self._session.close()

    def _checked(self, uri: str, field: str) -> URL:
        if len(uri) > MAX_URI_LENGTH:
            raise InvalidRequestError(field, f"has {len(uri)} characters, more than {MAX_URI_LENGTH}")
        if not _PRINTABLE.fullmatch(uri):
            raise InvalidRequestError(field, "has characters that must be percent-encoded in a URI")
        try:
            # As it is written: signatures do not survive another encoding.
            url = URL(uri, encoded=True)
            host = _host(url)
        except ValueError as error:
            raise InvalidRequestError(field, f"is not a URI: {error}") from error
        if url.scheme != "https" or not host:
            raise InvalidRequestError(field, "is neither a data: nor an https: URI")
        if url.raw_user is not None or url.raw_password is not None:
            raise InvalidRequestError(field, "holds a user or password, which this server does not send")
        if (host, url.port) not in self._hosts:
            raise InvalidRequestError(
                field, f"names {host}:{url.port}, which this server does not fetch from (--image-host)"
            )
        return url

    async def _fetch(self, url: URL, field: str, budget: "_Budget") -> bytes:
        try:
            async with asyncio.timeout(self._seconds):
                for _ in range(MAX_REDIRECTS + 1):
                    found = await self._get(url, field, budget)
                    if isinstance(found, bytes):
                        return found
                    url = found
        except TimeoutError as error:
            raise ImageFetchError(field, f"took more than {self._seconds:g} seconds to fetch") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ImageFetchError(field, f"could not be fetched: {_reason(error)}") from error
        raise ImageFetchError(field, f"redirects more than {MAX_REDIRECTS} times")

    async def _get(self, url: URL, field: str, budget: "_Budget") -> bytes | URL:
        """The file, or where else it is."""
        async with self._connections().get(url, allow_redirects=False) as response:
            if response.status in _REDIRECTS:
                return self._redirection(url, response, field)
            if response.status != 200:
                raise ImageFetchError(field, f"could not be fetched: status {response.status}")
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise ImageFetchError(field, "came with a content encoding, which was not asked for")
            if (response.content_length or 0) > self._max_bytes:
                raise self._too_large(field)
            content = bytearray()
            async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                content += chunk
                if len(content) > self._max_bytes:
                    raise self._too_large(field)
                budget.take(len(chunk), field)
            return bytes(content)

    def _redirection(self, url: URL, response: aiohttp.ClientResponse, field: str) -> URL:
        location = response.headers.get("Location", "")
        try:
            return self._checked(str(url.join(URL(location, encoded=True))), field)
        except InvalidRequestError as error:
            raise ImageFetchError(field, f"leads to another URI that {error.message}") from error
        except ValueError as error:
            raise ImageFetchError(field, "leads to another URI that is none") from error

    def _too_large(self, field: str) -> ImageFetchError:
        return ImageFetchError(field, f"leads to more than the limit of {self._max_bytes} bytes")

    def _connections(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                ssl=self._ssl_context or True,
                limit=MAX_CONNECTIONS,
                resolver=aiohttp.ThreadedResolver(),
                use_dns_cache=False,
                socket_factory=self._socket,
            )
            self._session = aiohttp.ClientSession(
                connector=connector,
                headers=_HEADERS,
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None),
                trust_env=False,
            )
        return self._session

    def _socket(self, info: Any) -> socket.socket:
        """A socket for one of a name's addresses, which is the very one that it will be connected to."""
        family, kind, protocol, _, name = info
        if not self._permits(ipaddress.ip_address(name[0].partition("%")[0])):
            raise _ForbiddenAddressError("its host's address is not a public one")
        return socket.socket(family, kind, protocol)


class _ForbiddenAddressError(OSError):
    """An address that must not be connected to."""


class _Budget:
    """What the pictures of a request may still take."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def take(self, size: int, field: str) -> None:
        self._left -= size
        if self._left < 0:
            raise ImageFetchError(field, f"takes the request's pictures to more than {self._size} bytes")


def _host(url: URL) -> str:
    return (url.raw_host or "").lower().rstrip(".")


def _reason(error: Exception) -> str:
    """What went wrong, in words that say nothing about the network that the server is in."""
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
            return "its host has no valid certificate"
        case aiohttp.ClientConnectorDNSError():
            return "its host's name is unknown"
        case aiohttp.ClientConnectorError() if re.search("not a public one", str(error.os_error)):
            return "its host's address is not a public one"
        case aiohttp.ClientConnectorError():
            return "its host cannot be reached"
        case _:
            return "the connection broke off"
