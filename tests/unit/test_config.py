import dataclasses
from typing import Any

import pytest

from octet.config import ServerConfig, is_loopback


def test_the_defaults_are_sound_and_local() -> None:
    config = ServerConfig()
    assert is_loopback(config.host)
    assert config.api_key is None


def test_a_config_cannot_change() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ServerConfig().port = 1  # type: ignore[misc]


def test_the_key_is_not_printed() -> None:
    assert "secret" not in repr(ServerConfig(api_key="secret", api_keys="name secret"))


@pytest.mark.parametrize(
    ("settings", "flag", "problem"),
    [
        ({"port": -1}, "--port", "-1 is not between 0 and 65535"),
        ({"port": 65536}, "--port", "65536 is not between 0 and 65535"),
        ({"api_key": ""}, "--api-key", "the key is empty"),
        ({"api_key": "  "}, "--api-key", "the key is empty"),
        ({"api_key": "clé"}, "--api-key", "only ASCII characters"),
        ({"max_message_bytes": 0}, "--max-message-bytes", "0 is not at least 1"),
        ({"max_metadata_bytes": 0}, "--max-metadata-bytes", "0 is not at least 1024"),
        ({"max_concurrent_streams": 0}, "--max-concurrent-streams", "0 is not at least 1"),
        ({"window_bytes": 1023}, "--window-bytes", "1023 is neither 0 nor between 1024 and 2147483647"),
        ({"window_bytes": 2**31}, "--window-bytes", "is neither 0 nor"),
        ({"keepalive_seconds": 0}, "--keepalive-seconds", "0 is not between 0.001 and 2000000"),
        ({"keepalive_timeout_seconds": float("nan")}, "--keepalive-timeout-seconds", "nan is not between"),
        ({"min_ping_interval_seconds": -1}, "--min-ping-interval-seconds", "-1 is not between 0 and"),
        ({"max_connection_age_seconds": 3e6}, "--max-connection-age-seconds", "is not between 0 and"),
        (
            {"max_connection_age_grace_seconds": 0},
            "--max-connection-age-grace-seconds",
            "is not between 0.001",
        ),
        ({"write_timeout_seconds": 0}, "--write-timeout-seconds", "is not between 0.001"),
        ({"uds": ""}, "--uds", "the path is empty"),
        ({"uds_mode": 0o1777}, "--uds-mode", "1777 is not between 0 and 777"),
        ({"tcp": False}, "--no-tcp", "leaves nothing to listen on without --uds"),
        ({"tls_certificate": "c"}, "--tls-certificate", "needs --tls-key, too"),
        ({"tls_key": "k"}, "--tls-key", "needs --tls-certificate, too"),
        ({"tls_client_ca": "ca"}, "--tls-client-ca", "needs --tls-certificate and --tls-key, too"),
        (
            {"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k"},
            "--host",
            "can be reached from other machines, and there is no --api-key",
        ),
        ({"max_image_bytes": 0}, "--max-image-bytes", "0 is not at least 1"),
        ({"max_image_pixels": -5}, "--max-image-pixels", "-5 is not at least 1"),
        ({"image_threads": 0}, "--image-threads", "0 is not at least 1"),
        ({"image_decode_seconds": 0}, "--image-decode-seconds", "0 is not above 0"),
        ({"max_image_memory": 0}, "--max-image-memory", "0 is not at least 1"),
        ({"max_image_memory_per_key": -1}, "--max-image-memory-per-key", "-1 is not at least 1"),
        ({"max_image_memory_per_request": 0}, "--max-image-memory-per-request", "0 is not at least 1"),
        ({"image_hosts": ("a.test", "https://b.test")}, "--image-host", "'https://b.test' is not a host's"),
        ({"image_hosts": ("*.test",)}, "--image-host", "'*.test' is not a host's"),
        ({"image_hosts": ("",)}, "--image-host", "'' is not a host's"),
        ({"image_hosts": ("a.test:70000",)}, "--image-host", "'a.test:70000' is not a host's"),
        ({"image_fetch_seconds": 0}, "--image-fetch-seconds", "0 is not above 0"),
        ({"image_fetch_seconds": float("nan")}, "--image-fetch-seconds", "nan is not above 0"),
        ({"max_running_requests": 0}, "--max-running-requests", "0 is not at least 1"),
        ({"max_waiting_requests": -1}, "--max-waiting-requests", "-1 is not at least 0"),
        ({"max_waiting_tokens": 0}, "--max-waiting-tokens", "0 is not at least 1"),
        ({"max_waiting_images": 0}, "--max-waiting-images", "0 is not at least 1"),
        ({"max_token_calls": 0}, "--max-token-calls", "0 is not at least 1"),
        ({"drain_seconds": -0.1}, "--drain-seconds", "-0.1 is not at least 0"),
        ({"grace_seconds": -1}, "--grace-seconds", "-1 is not at least 0"),
        ({"grace_seconds": float("nan")}, "--grace-seconds", "nan is not at least 0"),
        (
            {"host": "0.0.0.0"},
            "--host",
            "can be reached from other machines, and there is no --api-key",
        ),
    ],
)
def test_settings_that_make_no_sense_name_their_flag(
    settings: dict[str, Any], flag: str, problem: str
) -> None:
    with pytest.raises(ValueError, match=flag) as caught:
        ServerConfig(**settings)
    assert str(caught.value).startswith(f"{flag}: ")
    assert problem in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"port": 0},
        {"port": 65535},
        {"drain_seconds": 0},
        {
            "image_hosts": (
                "images.example.com",
                "a",
                "a.test:8443",
                "[2001:db8::1]:443",
                "xn--bcher-kva.test",
            )
        },
        {"host": "0.0.0.0", "api_key": "k"},
        {"host": "0.0.0.0", "api_keys": "name k"},
        {"host": "0.0.0.0", "api_keys_file": "keys"},
        {"host": "0.0.0.0", "allow_insecure": True},
        {"host": "0.0.0.0", "tls_certificate": "c", "tls_key": "k", "tls_client_ca": "ca"},
        {"host": "0.0.0.0", "uds": "socket", "tcp": False},
        {"window_bytes": 1024},
        {"max_connection_age_seconds": 0, "min_ping_interval_seconds": 0},
        {"host": "::1"},
    ],
)
def test_settings_that_do(settings: dict[str, Any]) -> None:
    config = ServerConfig(**settings)
    assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "[::]", "10.0.0.1", "", "localhost.example.com"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)
