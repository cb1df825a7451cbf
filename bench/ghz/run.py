"""Puts load on a running server with ghz, and fails on every answer that is not OK.

    python -m bench.ghz.run [HOST:PORT]        # every configuration beside this file, one after the other

ghz itself exits with 0 even when each call has failed; what counts is its report's statusCodeDistribution.
"""

import argparse
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
CONFIGS = tuple(sorted(path.stem for path in FOLDER.glob("*.json")))
DESCRIPTORS = ("reflection", "proto", "protoset")

HOW_TO_GET_IT = (
    "ghz was not found; install version 0.121 or newer (a binary of github.com/bojand/ghz's releases, or "
    "`go install github.com/bojand/ghz/cmd/ghz@v0.121.0`) into the PATH, or set GHZ to it"
)


@dataclass(frozen=True, slots=True)
class Result:
    """What a run of one configuration gave.

    Attributes:
        name: the configuration's.
        statuses: calls by gRPC status, by the names that ghz gives them, such as OK and Unavailable.
        rate: calls that ended OK in a second, while others were still being sent; None with too few calls.
        sent: calls that were sent in a second; None with too few calls.
        latencies: seconds by percentile; those of failed calls are not among them.
    """

    name: str
    statuses: dict[str, int]
    rate: float | None
    sent: float | None
    latencies: dict[int, float]

    @property
    def passed(self) -> bool:
        """Whether there were calls, and all of them ended OK."""
        return self.statuses.get("OK", 0) > 0 and self.statuses.keys() == {"OK"}


def read_report(name: str, report: dict[str, Any]) -> Result:
    """Reads what ghz prints with --format json."""
    return Result(
        name,
        dict(report.get("statusCodeDistribution") or {}),
        *_rates(report.get("details") or ()),
        {entry["percentage"]: entry["latency"] / 1e9 for entry in report.get("latencyDistribution") or ()},
    )


def _rates(calls: Sequence[dict[str, Any]]) -> tuple[float | None, float | None]:
    """Calls that ended OK, and calls that were sent, in a second.

    ghz's own rps is all calls by the whole time. At the end of that, for as long as the last answers take,
    nothing is sent; at its beginning nothing has ended yet. What a server does in a second is seen between
    the first end and the last start.

    Args:
        calls: the report's details, each with the time of its end and its latency in nanoseconds.
    """
    ends = [datetime.fromisoformat(call["timestamp"]).timestamp() for call in calls]
    starts = [end - call["latency"] / 1e9 for end, call in zip(ends, calls, strict=True)]
    if len(calls) < 2 or max(starts) <= min(starts):
        return None, None
    sent = (len(starts) - 1) / (max(starts) - min(starts))
    begin, end = min(ends), max(starts)
    if end <= begin:
        return None, sent
    ended = [at for at, call in zip(ends, calls, strict=True) if call["status"] == "OK" and begin < at <= end]
    return len(ended) / (end - begin), sent


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a server is reached that speaks TLS.

    Attributes:
        ca: PEM file of the authority of the server's certificate.
        certificate: PEM file of the client's own certificate, for servers that want one; with its `key`.
        key: PEM file of its private key.
        server_name: the name to look for in the server's certificate; None for the target's.
    """

    ca: Path
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    def options(self) -> dict[str, str]:
        """What ghz calls these."""
        found = {"cacert": self.ca, "cert": self.certificate, "key": self.key, "cname": self.server_name}
        return {name: str(value) for name, value in found.items() if value is not None}


def configuration(
    name: str,
    target: str,
    descriptors: str,
    *,
    api_key: str | None = None,
    encryption: Encryption | None = None,
) -> dict[str, Any]:
    """A configuration as ghz gets it: that of the file, and what depends on the server.

    Args:
        name: one of CONFIGS.
        target: HOST:PORT.
        descriptors: where ghz learns the messages from, one of DESCRIPTORS.
        api_key: what calls are to carry.
        encryption: how the server speaks TLS; None for a server in plain text.
    """
    config: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    config["host"] = target
    if descriptors == "proto":
        config["proto"] = "octet/v1/chat_service.proto"
        config["import-paths"] = [str(ROOT / "protos"), str(_published_protos())]
    elif descriptors == "protoset":
        from octet.v1 import DESCRIPTORS as descriptor_set

        config["protoset"] = str(descriptor_set)
    if api_key is not None:
        header = {"authorization": f"Bearer {api_key}"}
        config["metadata"] = header
        config["reflect-metadata"] = header
    # The files say neither: ghz lets "insecure" win over every certificate, and calls in plain text silently.
    config |= {"insecure": True} if encryption is None else encryption.options()
    return config


def _published_protos() -> Path:
    """Where the package googleapis-common-protos keeps google/api/annotations.proto, which ours import."""
    spec = importlib.util.find_spec("google.api")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(
            "load: google/api/annotations.proto is missing: pip install googleapis-common-protos"
        )
    return Path(spec.submodule_search_locations[0]).parents[1]


def run(ghz: str, config: dict[str, Any]) -> Result:
    """Runs ghz once.

    Raises:
        SystemExit: with ghz's own words, when it made no report.
    """
    name = config["name"]
    with tempfile.TemporaryDirectory() as folder:
        # A file that only its owner reads: a key on the command line could be read by everybody.
        file, output = Path(folder, "config.json"), Path(folder, "report.json")
        file.write_text(json.dumps(config), encoding="utf-8")
        command = [ghz, "--config", str(file), "--format", "json", "--output", str(output)]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        if ended.returncode != 0 or not output.is_file():
            said = (ended.stderr or ended.stdout).strip() or f"exit status {ended.returncode}"
            raise SystemExit(f"load: ghz failed on {name}: {said}")
        return read_report(name, json.loads(output.read_text(encoding="utf-8")))


def line(result: Result) -> str:
    """A result as a line of the table."""
    percentiles = "  ".join(
        f"p{p} {result.latencies[p]:.3f} s" for p in (50, 95, 99) if p in result.latencies
    )
    statuses = (
        ", ".join(f"{count} {status}" for status, count in sorted(result.statuses.items())) or "no calls"
    )
    return f"{result.name:10} {statuses:24} {_rate(result.rate)} of {_rate(result.sent)} sent  {percentiles}"


def _rate(rate: float | None) -> str:
    return "too few" if rate is None else f"{rate:5.2f}/s"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description="Put load on a running Octet server with ghz.")
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--config", action="append", choices=CONFIGS, help="default: all of them")
    parser.add_argument(
        "--descriptors", choices=DESCRIPTORS, default="reflection", help="default: reflection"
    )
    parser.add_argument("--ca", type=Path, help="PEM file of the server's authority; encrypts the calls")
    parser.add_argument("--cert", type=Path, help="PEM file of a client certificate, with --key and --ca")
    parser.add_argument("--key", type=Path, help="PEM file of the certificate's private key")
    parser.add_argument(
        "--server-name", help="name in the server's certificate, where it is not the target's"
    )
    options = parser.parse_args(arguments)
    if options.ca is None and (options.cert or options.key or options.server_name):
        parser.error("--cert, --key and --server-name are for encrypted calls: they need --ca")
    if (options.cert is None) != (options.key is None):
        parser.error("a client certificate is --cert and --key together")
    encryption = None
    if options.ca is not None:
        encryption = Encryption(options.ca, options.cert, options.key, options.server_name)
    ghz = os.environ.get("GHZ") or shutil.which("ghz")
    if ghz is None:
        print(f"load: {HOW_TO_GET_IT}", file=sys.stderr)
        return 1
    failed = []
    for name in options.config or CONFIGS:
        config = configuration(
            name,
            options.target,
            options.descriptors,
            api_key=os.environ.get("OCTET_API_KEY"),
            encryption=encryption,
        )
        result = run(ghz, config)
        print(line(result), flush=True)
        if not result.passed:
            failed.append(name)
    if failed:
        print(f"load: not every call ended OK: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
