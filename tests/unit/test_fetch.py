"""Fetching from a real HTTPS server on this machine; only which addresses are permitted is the tests' own."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
import trustme
from aiohttp import web

from octet.errors import ImageFetchError, InvalidRequestError
from octet.fetch import MAX_REDIRECTS, Address, ImageFetcher, is_public
from tests.https_origin import HOST, OTHER, UNLISTED, Origin, serve_origin

FIELD = "messages[0].parts[0].image.uri"


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
async def origin(authority: trustme.CA) -> AsyncIterator[Origin]:
    async with serve_origin(authority) as origin:
        yield origin


class Names:
    """What the tests' host names stand for; each look-up takes the next of several addresses."""

    def __init__(self) -> None:
        self.addresses = {HOST: ["127.0.0.1"], OTHER: ["127.0.0.1"], UNLISTED: ["127.0.0.1"]}
        self.asked: list[str] = []


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    names = Names()
    real = socket.getaddrinfo

    def look_up(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(host, str):
            host = host.lower().rstrip(".")
        if host in names.addresses:
            names.asked.append(host)
            known = names.addresses[host]
            host = known.pop(0) if len(known) > 1 else known[0]
        elif isinstance(host, str) and host.endswith(".test"):
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    return names


def only_this_machine(address: Address) -> bool:
    return address == ipaddress.IPv4Address("127.0.0.1")


Make = Callable[..., ImageFetcher]


@pytest.fixture
async def make(origin: Origin, authority: trustme.CA) -> AsyncIterator[Make]:
    """Makes fetchers that trust the tests' certificates and may fetch from two of the origin's names."""
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    made: list[ImageFetcher] = []

    def make(**options: Any) -> ImageFetcher:
        options = {
            "hosts": [f"{name}:{origin.port}" for name in (HOST, OTHER, "127.0.0.1", "gone.test")],
            "max_bytes": 1000,
            "max_request_bytes": 5000,
            "seconds": 60.0,
            "permits": only_this_machine,
            "ssl_context": trusting,
        } | options
        made.append(ImageFetcher(options.pop("hosts"), **options))
        return made[-1]

    yield make
    for fetcher in made:
        await fetcher.close()


async def fetch(fetcher: ImageFetcher, uri: str) -> bytes:
    return (await fetcher.fetch_all({uri: FIELD}))[uri]


async def refusal(fetcher: ImageFetcher, uri: str) -> InvalidRequestError:
    with pytest.raises(InvalidRequestError) as caught:
        await fetch(fetcher, uri)
    assert caught.value.field == FIELD
    return caught.value


async def test_a_picture_is_fetched_as_it_was_named(origin: Origin, make: Make) -> None:
    uri = origin.answer("/a.png", body=b"picture") + "?sig=a%2Fb%3d+c#part"
    assert await fetch(make(), uri) == b"picture"
    assert origin.asked == ["/a.png?sig=a%2Fb%3d+c"]
    assert origin.headers[0]["Accept-Encoding"] == "identity"
    assert not {"Cookie", "Authorization"} & origin.headers[0].keys()


async def test_several_at_once_come_by_their_uris(origin: Origin, make: Make) -> None:
    uris = {origin.answer(f"/{i}", body=str(i).encode()): f"field {i}" for i in range(4)}
    fetched = await make().fetch_all(uris)
    assert fetched == {uri: str(i).encode() for i, uri in enumerate(uris)}


async def test_names_are_compared_without_case(origin: Origin, make: Make) -> None:
    origin.answer("/a", body=b"x")
    assert await fetch(make(), origin.uri("/a", "IMAGES.test.")) == b"x"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://images.test/a", "is neither a data: nor an https: URI"),
        ("ftp://images.test/a", "is neither a data: nor an https: URI"),
        ("file:///etc/passwd", "is neither"),
        ("//images.test/a", "is neither"),
        ("https:///a", "is neither"),
        ("", "has characters"),
        ("https://images.test/\n", "has characters"),
        ("https://images.test/ä", "has characters"),
        ("https://images.test:x/", "is not a URI"),
        ("https://[::1/", "is not a URI"),
        ("https://images.test/" + "x" * 8192, "more than 8192"),
        ("https://user@images.test/", "holds a user or password"),
        ("https://:word@images.test/", "holds a user or password"),
        ("https://unlisted.test@images.test/", "holds a user"),
        ("https://images.test\\@unlisted.test/", "is not a URI"),
        ("https://images.test/a", "names images.test:443, which this server does not fetch from"),
        ("https://unlisted.test/a", "names unlisted.test:443"),
        ("https://images.test.unlisted.test/a", "which this server does not fetch from"),
        ("https://2130706433/a", "which this server does not fetch from"),
    ],
)
async def test_uris_that_are_not_fetched(make: Make, names: Names, uri: str, problem: str) -> None:
    error = await refusal(make(), uri)
    assert problem in error.message
    assert not isinstance(error, ImageFetchError)
    assert names.asked == []


async def test_all_uris_are_checked_before_any_is_fetched(origin: Origin, make: Make) -> None:
    uri = origin.answer("/a", body=b"x")
    with pytest.raises(InvalidRequestError) as caught:
        await make().fetch_all({uri: FIELD, "http://images.test/": "the second"})
    assert caught.value.field == "the second"
    assert origin.asked == []


@pytest.mark.parametrize("host", [HOST, "127.0.0.1"])
async def test_an_address_that_is_not_public_is_not_connected_to(
    origin: Origin, make: Make, host: str
) -> None:
    origin.answer("/a", body=b"x")
    error = await refusal(make(permits=is_public), origin.uri("/a", host))
    assert "its host's address is not a public one" in error.message
    assert origin.asked == []


async def test_a_name_that_changes_its_address_is_checked_anew(
    origin: Origin, make: Make, names: Names
) -> None:
    origin.answer("/a", body=b"x", headers={"Connection": "close"})
    names.addresses[HOST] = ["127.0.0.1", "127.0.0.2"]
    fetcher = make()
    assert await fetch(fetcher, origin.uri("/a")) == b"x"
    assert "not a public one" in (await refusal(fetcher, origin.uri("/a"))).message
    assert names.asked == [HOST, HOST]
    assert origin.asked == ["/a"]


async def test_redirects_are_followed(origin: Origin, make: Make) -> None:
    origin.answer("/end", body=b"there")
    origin.answer("/middle", status=307, headers={"Location": origin.uri("/end", OTHER)})
    uri = origin.answer("/dir/start", status=302, headers={"Location": "../middle"})
    assert await fetch(make(), uri) == b"there"
    assert origin.asked == ["/dir/start", "/middle", "/end"]


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("https://unlisted.test:{port}/end", "leads to another URI that names unlisted.test:"),
        ("http://images.test/end", "leads to another URI that is neither"),
        ("https://images.test:443/end", "leads to another URI that names images.test:443"),
        ("https://me@images.test:{port}/end", "leads to another URI that holds a user"),
        ("https://gone.test:{port}/end", "its host's name is unknown"),
        ("", "redirects more than"),
    ],
)
async def test_redirects_are_checked(origin: Origin, make: Make, location: str, problem: str) -> None:
    origin.answer("/end", body=b"secret")
    uri = origin.answer("/start", status=301, headers={"Location": location.format(port=origin.port)})
    error = await refusal(make(), uri)
    assert isinstance(error, ImageFetchError)
    assert problem in error.message
    assert "/end" not in origin.asked


async def test_a_redirect_to_an_address_that_is_not_public(origin: Origin, make: Make, names: Names) -> None:
    names.addresses[OTHER] = ["127.0.0.2"]
    origin.answer("/end", body=b"secret")
    uri = origin.answer("/start", status=302, headers={"Location": origin.uri("/end", OTHER)})
    assert "not a public one" in (await refusal(make(), uri)).message
    assert origin.asked == ["/start"]


async def test_redirects_have_an_end(origin: Origin, make: Make) -> None:
    uri = origin.answer("/a", status=302, headers={"Location": "/a"})
    assert f"redirects more than {MAX_REDIRECTS} times" in (await refusal(make(), uri)).message
    assert len(origin.asked) == MAX_REDIRECTS + 1


@pytest.mark.parametrize("status", [204, 304, 403, 404, 500])
async def test_a_status_that_is_no_success(origin: Origin, make: Make, status: int) -> None:
    error = await refusal(make(), origin.answer("/a", status=status))
    assert isinstance(error, ImageFetchError)
    assert f"could not be fetched: status {status}" in error.message


async def test_the_size_limit(origin: Origin, make: Make) -> None:
    assert await fetch(make(), origin.answer("/fits", body=bytes(1000))) == bytes(1000)
    error = await refusal(make(), origin.answer("/large", body=bytes(1001)))
    assert "more than the limit of 1000 bytes" in error.message


async def test_an_endless_file_is_cut_off(origin: Origin, make: Make) -> None:
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        while True:
            await response.write(bytes(100))

    origin.answers["/a"] = endless
    assert "more than the limit of 1000 bytes" in (await refusal(make(), origin.uri("/a"))).message


async def test_the_pictures_of_a_request_share_a_limit(origin: Origin, make: Make) -> None:
    uris = {origin.answer(f"/{i}", body=bytes(900)): FIELD for i in range(6)}
    with pytest.raises(ImageFetchError, match="takes the request's pictures to more than 5000 bytes"):
        await make().fetch_all(uris)


async def test_compressed_answers_are_not_expanded(origin: Origin, make: Make) -> None:
    uri = origin.answer("/a", body=b"x", headers={"Content-Encoding": "gzip"})
    assert "content encoding" in (await refusal(make(), uri)).message


async def test_the_time_limit(origin: Origin, make: Make) -> None:
    origin.hang("/hangs")
    error = await refusal(make(seconds=0.3), origin.uri("/hangs"))
    assert isinstance(error, ImageFetchError)
    assert "took more than 0.3 seconds" in error.message


async def test_who_gives_up_ends_the_fetching(origin: Origin, make: Make) -> None:
    asked = origin.hang("/hangs")
    fetching = asyncio.create_task(fetch(make(), origin.uri("/hangs")))
    await asked.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await origin.dropped.wait()


async def test_a_certificate_that_nobody_trusts(origin: Origin, make: Make) -> None:
    uri = origin.answer("/a", body=b"x")
    error = await refusal(make(ssl_context=None), uri)
    assert "its host has no valid certificate" in error.message
    assert origin.asked == []


async def test_a_host_that_is_not_there(origin: Origin, make: Make) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        error = await refusal(make(hosts=[f"{HOST}:{port}"]), f"https://{HOST}:{port}/a")
    assert "its host cannot be reached" in error.message


async def test_a_connection_that_breaks_off(origin: Origin, make: Make) -> None:
    async def break_off(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "500"})
        await response.prepare(request)
        await response.write(bytes(10))
        assert request.transport is not None
        request.transport.close()
        return response

    origin.answers["/a"] = break_off
    assert "the connection broke off" in (await refusal(make(), origin.uri("/a"))).message


@pytest.mark.parametrize(
    "address",
    [
        *("127.0.0.1", "127.255.0.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254"),
        *("100.64.0.1", "224.0.0.1", "239.1.1.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1"),
        *("::", "::1", "fe80::1", "fec0::1", "fc00::1", "fd12::1", "ff02::1", "2001:db8::1"),
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::127.0.0.1", "64:ff9b::10.0.0.1", "64:ff9b::7f00:1"),
        *("2002:7f00:1::", "2002:a00:1::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "64:ff9b:1::1"),
    ],
)
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"]
)
def test_addresses_that_are(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))
