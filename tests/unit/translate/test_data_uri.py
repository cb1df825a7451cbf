import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from octet.errors import InvalidRequestError
from octet.translate.data_uri import DataUri, is_data_uri, parse_data_uri


def parse(uri: str, max_bytes: int = 100) -> DataUri:
    return parse_data_uri(uri, max_bytes=max_bytes, field="f")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("data:image/png;base64,aGk=", DataUri("image/png", b"hi")),
        ("DATA:image/png;BASE64,aGk=", DataUri("image/png", b"hi")),
        ("data:image/png;charset=utf-8;base64,aGk=", DataUri("image/png;charset=utf-8", b"hi")),
        ("data:;base64,aGk%3D", DataUri("", b"hi")),
        ("data:;base64,", DataUri("", b"")),
    ],
)
def test_data_uris(uri: str, expected: DataUri) -> None:
    assert is_data_uri(uri)
    assert parse(uri) == expected


@pytest.mark.parametrize("uri", ["", "data", "dat:,", "https://a.test/data:,", " data:,"])
def test_others(uri: str) -> None:
    assert not is_data_uri(uri)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("data:image/png;base64", "has no comma"),
        ("data:image/png,hi", "is not base64"),
        ("data:,hi", "is not base64"),
        ("data:;base64,aGk", "is not valid base64"),
        ("data:;base64,aG k=", "is not valid base64"),
        ("data:;base64,aG\u00e9=", "is not valid base64"),
        ("data:;base64,aGk_", "is not valid base64"),
    ],
)
def test_malformed_ones(uri: str, problem: str) -> None:
    with pytest.raises(InvalidRequestError, match=problem) as caught:
        parse(uri)
    assert caught.value.field == "f"


@given(st.binary(max_size=64))
def test_any_bytes_within_the_limit(data: bytes) -> None:
    uri = f"data:;base64,{base64.b64encode(data).decode()}"
    assert parse(uri, len(data)).data == data


def test_the_limit_comes_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"data:;base64,{base64.b64encode(bytes(105)).decode()}"
    monkeypatch.setattr(base64, "b64decode", lambda *_, **__: pytest.fail("the data was decoded"))
    with pytest.raises(InvalidRequestError, match="more than the limit of 100 bytes"):
        parse(uri)
