"""The dashboard and the alerts against the metrics that the server has."""

import re

from prometheus_client import REGISTRY

from octet.telemetry.metrics import Metrics
from tests.deploy_metrics import DEPLOY, alerts, panels, queries
from tests.promql import selectors

SCRAPED = {"instance", "job"}
"""Labels that Prometheus adds."""

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_count", "_sum")}


def own_metrics() -> dict[str, set[str]]:
    """Octet's metrics with their labels."""
    found = {}
    for registry in (Metrics().registry, REGISTRY):
        for collector in list(registry._collector_to_names):
            for family in collector.describe() if hasattr(collector, "describe") else ():
                if family.name.startswith("octet_"):
                    labels = set(getattr(collector, "_labelnames", ()))
                    for suffix in SUFFIXES[family.type]:
                        found[family.name + suffix] = labels | ({"le"} if suffix == "_bucket" else set())
    return found


def test_every_query_reads_what_the_server_has() -> None:
    metrics = own_metrics()
    read = [selector for query in queries() for selector in selectors(query)]
    assert len(read) > 40
    for name, labels in read:
        if name.startswith("octet_"):
            assert labels <= metrics[name] | SCRAPED, (name, labels)
        else:
            assert name.startswith(("vllm:", "process_")), name


def test_every_own_metric_is_shown() -> None:
    described = {re.sub("_(bucket|count|sum)$", "", name) for name in own_metrics()}
    shown = {re.sub("_(bucket|count|sum)$", "", name) for query in queries() for name, _ in selectors(query)}
    assert described - shown == {"octet_build_info", "octet_model_info"}


def test_alerts_say_what_to_do() -> None:
    for rule in alerts():
        assert rule["alert"].startswith("Octet")
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert rule["annotations"].keys() == {"summary", "description"}


def test_graphs_do_not_overlap() -> None:
    taken = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in cells) < 24
        assert not cells & taken
        taken |= cells


def test_the_page_lists_every_metric() -> None:
    page = (DEPLOY.parent / "docs" / "observability.md").read_text()
    rows = {
        match[1]: set(re.findall(r"`(\w+)`", match[2]))
        for match in re.finditer(r"^\| `(octet_\w+)` \| \w+ \| ([^|]*) \|", page, re.MULTILINE)
    }
    families: dict[str, set[str]] = {}
    for name, labels in own_metrics().items():
        families[re.sub("_(bucket|count|sum)$", "", name)] = labels - {"le"}
    assert rows == families
