import hashlib
from functools import partial
from pathlib import Path

import pytest

from octet.config import ServerConfig
from octet.errors import StartupError
from octet.rpc.call import CallerLimits
from octet.server import keys
from octet.server.keys import KeyRing, load_keys


def ring(**settings: str) -> KeyRing:
    result = KeyRing(partial(load_keys, ServerConfig(**settings)))  # type: ignore[arg-type]
    result.load()
    return result


def sha256(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def test_a_files_keys_have_names_and_limits(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(
        "# who   key\n"
        "\n"
        "search  plain-key  max_concurrent_requests=16\n"
        f"  batch\tsha256:{sha256('hashed-key').upper()}\r\n"
        "search  next-key   max_concurrent_requests=16"
    )
    found = ring(api_keys_file=str(file))
    for key, caller, limit, line in (
        (b"plain-key", "search", 16, 3),
        (b"hashed-key", "batch", None, 4),
        (b"next-key", "search", 16, 5),
    ):
        api_key = found.find(key)
        assert api_key is not None
        assert (api_key.caller, api_key.limits) == (caller, CallerLimits(limit))
        assert api_key.source == f"{file}:{line}"
    for key in (b"", b"plain-key ", b"plain-ke", b"search", b"#", sha256("hashed-key").encode()):
        assert found.find(key) is None


def test_a_file_that_is_written_half_way_makes_no_key_valid(tmp_path: Path) -> None:
    """However far its writer has come, and however long that takes."""
    file = tmp_path / "keys"
    file.write_text("search old")
    found = ring(api_keys_file=str(file))
    whole = f"search old-and-new\nbatch sha256:{sha256('hashed')} max_concurrent_requests=16\n# end\n"
    valid = {hashlib.sha256(key).digest() for key in (b"old-and-new", b"hashed")}
    for length in range(len(whole)):
        file.write_text(whole[:length])
        try:
            found.load()
        except StartupError:
            continue
        assert whole[length - 1] == "\n"
        assert {key.digest for key in found._keys} <= valid
        assert {key.limits for key in found._keys if key.caller == "batch"} <= {CallerLimits(16)}
    file.write_text(whole)
    found.load()
    assert {key.digest for key in found._keys} == valid
    file.write_text(whole[:-1])
    with pytest.raises(StartupError, match="does not end in a newline; the file may be half written"):
        found.load()
    assert {key.digest for key in found._keys} == valid


def test_flag_environment_and_file_add_up(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("b two")
    keys = load_keys(ServerConfig(api_key="zero", api_keys="a one\n", api_keys_file=str(file)))
    assert [(key.caller, key.source) for key in keys] == [
        ("default", "--api-key"),
        ("a", "OCTET_API_KEYS:1"),
        ("b", f"{file}:1"),
    ]


def test_every_key_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """However early one is found."""
    compared = []
    real = keys.hmac.compare_digest

    def compare(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return real(a, b)

    found = ring(api_keys="a one\nb two\nc three")
    monkeypatch.setattr(keys.hmac, "compare_digest", compare)
    for key in (b"one", b"three", b"none"):
        compared.clear()
        found.find(key)
        assert compared == [hashlib.sha256(each).digest() for each in (b"one", b"two", b"three")]


def test_the_keys_in_the_documentation_can_be_used() -> None:
    page = (Path(__file__).parents[3] / "docs" / "security.md").read_text()
    sample = page.partition("has a line each:\n\n")[2].partition("\n\n")[0]
    keys = load_keys(ServerConfig(api_keys=sample))
    assert [(key.caller, key.limits) for key in keys] == [
        ("search", CallerLimits(16)),
        ("batch", CallerLimits(2)),
    ]


SECRET = "s3cret-key"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("name", "the key is missing behind the name"),
        (f"{SECRET}: x", "the name is not made of letters, digits"),
        ("a" * 65 + f" {SECRET}", "at most 64"),
        (f"name {SECRET} 3", "what follows the key is not max_concurrent_requests=N"),
        (f"name {SECRET} max_concurrent_requests=0", "is not a whole number from 1 up"),
        (f"name {SECRET} max_concurrent_requests=-1", "is not a whole number from 1 up"),
        (f"name {SECRET} max_concurrent_requests=", "is not a whole number from 1 up"),
        (f"name {SECRET} max_concurrent_requests=1e3", "is not a whole number from 1 up"),
        (f"name {SECRET} max_concurrent_requests=1 max_concurrent_requests=1", "is there twice"),
        (f"name first {SECRET}", "what follows the key is not"),
        (f"name sha256:{SECRET}", "'sha256:' is not followed by 64 hexadecimal digits"),
        (f"other k\nname {SECRET}\nname2 {SECRET}", "this key is already there, in OCTET_API_KEYS:2"),
        (
            f"other k\nname {SECRET}\nn sha256:{sha256(SECRET)}",
            "this key is already there, in OCTET_API_KEYS:2",
        ),
        (
            f"other k\nname {SECRET}\nname x max_concurrent_requests=2",
            "the limits of name differ from those in OCTET_API_KEYS:2",
        ),
    ],
)
def test_a_bad_line_is_named_and_never_quoted(line: str, problem: str) -> None:
    with pytest.raises(StartupError, match=r"^OCTET_API_KEYS:3: ") as raised:
        ring(api_keys=line if "\n" in line else f"\n\n{line}")
    assert problem in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.parametrize("text", ["", "\n", "# nothing but this\n"])
def test_no_key_at_all(text: str) -> None:
    with pytest.raises(StartupError, match="OCTET_API_KEYS: holds no key"):
        ring(api_keys=text)


def test_unreadable_files(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    config = ServerConfig(api_keys_file=str(file))
    with pytest.raises(
        StartupError, match=r"--api-keys-file: cannot read .*/keys: No such file or directory"
    ):
        load_keys(config)
    file.write_bytes("a one\nb clé\n".encode())
    with pytest.raises(StartupError, match=r"keys:2: only ASCII"):
        load_keys(config)
    file.write_bytes(b"a one\n" + b"#" * 1024 * 1024)
    with pytest.raises(StartupError, match="longer than 1048576 bytes"):
        load_keys(config)


def test_keys_are_not_printed() -> None:
    assert sha256(SECRET) not in repr(load_keys(ServerConfig(api_keys=f"name {SECRET}")))
    (key,) = load_keys(ServerConfig(api_keys=f"name {SECRET}"))
    assert repr(key.digest) not in repr(key)
