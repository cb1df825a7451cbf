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
        rps: calls that ended in a second.
        latencies: seconds by percentile; those of failed calls are not among them.
    """

    name: str
    statuses: dict[str, int]
    rps: float
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
        float(report["rps"]),
        {entry["percentage"]: entry["latency"] / 1e9 for entry in report.get("latencyDistribution") or ()},
    )


def configuration(
    name: str, target: str, descriptors: str, *, api_key: str | None = None, ca: Path | None = None
) -> dict[str, Any]:
    """A configuration as ghz gets it: that of the file, and what depends on the server.

    Args:
        name: one of CONFIGS.
        target: HOST:PORT.
        descriptors: where ghz learns the messages from, one of DESCRIPTORS.
        api_key: what calls are to carry.
        ca: PEM file of the authority of the server's certificate; None for a server in plain text.
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
    if ca is not None:
        del config["insecure"]
        config["cacert"] = str(ca)
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
    return f"{result.name:10} {statuses:24} {result.rps:8.2f}/s  {percentiles}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line names; returns the exit status."""
    parser = argparse.ArgumentParser(description="Put load on a running Octet server with ghz.")
    parser.add_argument("target", nargs="?", default="127.0.0.1:50051", metavar="HOST:PORT")
    parser.add_argument("--config", action="append", choices=CONFIGS, help="default: all of them")
    parser.add_argument(
        "--descriptors", choices=DESCRIPTORS, default="reflection", help="default: reflection"
    )
    parser.add_argument("--ca", type=Path, help="PEM file; encrypts the calls")
    options = parser.parse_args(arguments)
    ghz = os.environ.get("GHZ") or shutil.which("ghz")
    if ghz is None:
        print(f"load: {HOW_TO_GET_IT}", file=sys.stderr)
        return 1
    failed = []
    for name in options.config or CONFIGS:
        config = configuration(
            name, options.target, options.descriptors, api_key=os.environ.get("OCTET_API_KEY"), ca=options.ca
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
