"""The PromQL that we publish."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def alerts() -> Iterator[dict[str, Any]]:
    """The alerts."""
    for group in yaml.safe_load((DEPLOY / "prometheus" / "octet.rules.yaml").read_text())["groups"]:
        yield from group["rules"]


def panels() -> Iterator[dict[str, Any]]:
    """The dashboard's graphs."""
    dashboard = json.loads((DEPLOY / "grafana" / "octet.json").read_text())
    yield from (panel for panel in dashboard["panels"] if panel["type"] != "row")


def queries() -> Iterator[str]:
    """Every query, with Grafana's variables filled in."""
    for rule in alerts():
        yield rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
