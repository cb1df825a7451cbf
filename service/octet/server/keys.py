"""API keys: who calls, and what they may.

A file of keys has a line each, of words between spaces:

    # name   key                                                    limits
    search   4ZlRlTS4aUnMYX1mDkOq0Q                                 max_concurrent_requests=16
    batch    sha256:6b3a55e0261b0304143f805a24924d0c1c44524821305f31d9277843b8a10f4e

Lines with the same name are one caller with several keys, which is how a key is replaced without a gap.

A file that has changed is taken only if its last line ends in a newline: while a file is being written, its
last line may be a part of a key.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from octet.config import ServerConfig
from octet.errors import StartupError
from octet.rpc.call import CallerLimits

DEFAULT_CALLER = "default"
"""Name of the caller whose key --api-key is."""

ENVIRONMENT = "OCTET_API_KEYS"

_MAX_FILE_BYTES = 1024 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HASH_PREFIX = "sha256:"
_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key.

    Attributes:
        caller: whose it is.
        digest: SHA-256 of the key, 32 bytes; the key itself is not kept.
        limits: what its holder may do.
        source: where it was found, such as "keys.txt:3".
    """

    caller: str
    digest: bytes = field(repr=False)
    limits: CallerLimits
    source: str


class LoadKeys(Protocol):
    """Reads keys; `changed` says whether their file has just changed, and so may not be whole."""

    def __call__(self, *, changed: bool = False) -> tuple[ApiKey, ...]:
        """All keys; raises StartupError."""
        ...


class KeyRing:
    """The keys that are valid now; none before `load`."""

    def __init__(self, load: LoadKeys) -> None:
        """`load` reads the keys, such as `load_keys` of a server's settings."""
        self._load = load
        self._keys: tuple[ApiKey, ...] = ()

    def load(self) -> None:
        """Reads the keys, for the first time or anew, in any thread.

        Raises:
            StartupError: when that is not possible, with one line that names the file and the line, and
                never a key; the keys stay as they were.
        """
        self._keys = self._load(changed=bool(self._keys))

    def find(self, key: bytes) -> ApiKey | None:
        """The valid key that equals `key`, in a time that does not depend on either's bytes.

        Every key is compared, as digests, so the time tells neither how much of a guess is right nor which
        key it resembles.
        """
        digest = hashlib.sha256(key).digest()
        found = None
        for candidate in self._keys:
            if hmac.compare_digest(candidate.digest, digest):
                found = candidate
        return found


def load_keys(config: ServerConfig, *, changed: bool = False) -> tuple[ApiKey, ...]:
    """All keys of the settings: --api-key, --api-keys-file and the environment; empty without any.

    Args:
        config: the settings.
        changed: whether the file has just changed, and so may not be whole.

    Raises:
        StartupError: when they cannot be read, or contradict each other.
    """
    keys: list[ApiKey] = []
    if config.api_key is not None:
        keys.append(ApiKey(DEFAULT_CALLER, _digest(config.api_key), CallerLimits(), "--api-key"))
    if config.api_keys is not None:
        keys += _parse(config.api_keys, ENVIRONMENT)
    if config.api_keys_file is not None:
        keys += _read_keys(config.api_keys_file, "--api-keys-file", changed=changed)
    _check_together(keys)
    return tuple(keys)


def load_admin_keys(file: str, *, changed: bool = False) -> tuple[ApiKey, ...]:
    """The keys of --admin-keys-file.

    Args:
        file: its name.
        changed: whether it has just changed, and so may not be whole.

    Raises:
        StartupError: when they cannot be read, contradict each other, or have limits, which are callers'.
    """
    keys = _read_keys(file, "--admin-keys-file", changed=changed)
    _check_together(keys)
    for key in keys:
        if key.limits != CallerLimits():
            raise StartupError(f"{key.source}: limits are for callers; leave them out")
    return tuple(keys)


def _read_keys(file: str, flag: str, *, changed: bool) -> list[ApiKey]:
    text = _read(Path(file), flag)
    if changed and not text.endswith("\n"):
        raise StartupError(f"{file}: the last line does not end in a newline; the file may be half written")
    return _parse(text, file)


def _read(path: Path, flag: str) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise StartupError(f"{flag}: cannot read {path}: {error.strerror}") from None
    if len(content) > _MAX_FILE_BYTES:
        raise StartupError(f"{flag}: {path} is longer than {_MAX_FILE_BYTES} bytes")
    try:
        return content.decode("ascii")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StartupError(f"{path}:{line}: only ASCII characters can be sent as a key") from None


def _parse(text: str, source: str) -> list[ApiKey]:
    keys = []
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if words and not words[0].startswith("#"):
            keys.append(_parse_line(words, f"{source}:{number}"))
    if not keys:
        raise StartupError(f"{source}: holds no key; each line is NAME KEY [max_concurrent_requests=N]")
    return keys


def _parse_line(words: list[str], source: str) -> ApiKey:
    """A key out of a line's words. Messages quote no word: any may be a key in the wrong place."""
    name, *rest = words
    if _NAME.fullmatch(name) is None:
        raise StartupError(
            f"{source}: the name is not made of letters, digits, '.', '_' and '-', at most 64 of them"
        )
    if not rest:
        raise StartupError(f"{source}: the key is missing behind the name")
    key, *settings = rest
    return ApiKey(name, _digest_of_word(key, source), _parse_limits(settings, source), source)


def _digest_of_word(word: str, source: str) -> bytes:
    if not word.startswith(_HASH_PREFIX):
        return _digest(word)
    hexadecimal = word.removeprefix(_HASH_PREFIX)
    if _HASH.fullmatch(hexadecimal) is None:
        raise StartupError(f"{source}: 'sha256:' is not followed by 64 hexadecimal digits")
    return bytes.fromhex(hexadecimal)


def _parse_limits(settings: list[str], source: str) -> CallerLimits:
    limits: dict[str, int] = {}
    for setting in settings:
        name, _, value = setting.partition("=")
        if name != "max_concurrent_requests":
            raise StartupError(f"{source}: what follows the key is not max_concurrent_requests=N")
        if name in limits:
            raise StartupError(f"{source}: {name} is there twice")
        if not value.isascii() or not value.isdigit() or len(value) > 9 or int(value) < 1:
            raise StartupError(f"{source}: {name} is not a whole number from 1 up")
        limits[name] = int(value)
    return CallerLimits(**limits)


def _check_together(keys: list[ApiKey]) -> None:
    """Raises StartupError where a key is there twice, or a caller's keys disagree on its limits."""
    by_digest: dict[bytes, ApiKey] = {}
    by_caller: dict[str, ApiKey] = {}
    for key in keys:
        same = by_digest.setdefault(key.digest, key)
        if same is not key:
            raise StartupError(f"{key.source}: this key is already there, in {same.source}")
        first = by_caller.setdefault(key.caller, key)
        if first.limits != key.limits:
            raise StartupError(
                f"{key.source}: the limits of {key.caller} differ from those in {first.source}"
            )


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()
