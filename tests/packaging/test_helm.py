"""The Helm chart: Helm itself renders it, and what comes is what kustomize makes of deploy/kubernetes."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest
import yaml

import octet
from tests.packaging.kubernetes import OVERLAYS, ROOT, Mixture, Resource, mix, mixtures, of_kind, only, render
from tests.packaging.schemas import validate

helm_python = pytest.importorskip("helm_python", reason="Helm as a library is there for x86-64 alone")

CHART = ROOT / "deploy" / "helm" / "octet"
Values = dict[str, Any]

GPU = {
    "gpus": 1,
    "shmSize": "8Gi",
    "resources": {"requests": {"cpu": "4", "memory": "24Gi"}, "limits": {"memory": "24Gi"}},
}
MODEL = {
    "model": {
        "claim": "octet-models",
        "path": "gemma-3-12b-it-FP8-Dynamic",
        "name": "gemma-3-12b-it",
    },
    "args": ["--max-model-len=8192"],
}
# What says in values what a component says in kustomize.
COMPONENTS: dict[str, Values] = {
    "gpu": GPU,
    "model": MODEL,
    "autoscaling": {"autoscaling": {"by": "adapter"}},
    "keda": {"autoscaling": {"by": "keda"}},
    "pod-monitor": {"podMonitor": True},
    "tls": {"tls": {"enabled": True}},
    "istio-sidecar": {"mesh": "istio-sidecar"},
    "istio-ambient": {"mesh": "istio-ambient"},
    "linkerd": {"mesh": "linkerd"},
    "clients-elsewhere": {"networkPolicy": {"clientsElsewhere": True}},
    "gateway": {"gateway": {"enabled": True}},
    # Comes of itself where there are both a Gateway and Octet's own TLS.
    "gateway-tls": {},
}
GPU_OVERLAY: Values = {
    "image": {"tag": "0.1.0-cuda"},
    **GPU,
    **MODEL,
    "args": ["--max-model-len=8192", "--gpu-memory-utilization=0.9"],
}
CPU_RESOURCES = {"cpu": "4", "memory": "8Gi"}
OVERLAY_VALUES: dict[str, Values] = {
    "cpu": {"resources": {"requests": CPU_RESOURCES, "limits": CPU_RESOURCES}},
    "gpu": GPU_OVERLAY,
    "gpu-operator": {
        **GPU_OVERLAY,
        "autoscaling": {"by": "adapter"},
        "podMonitor": True,
        "tls": {"enabled": True},
    },
    "gpu-istio": {
        **GPU_OVERLAY,
        "autoscaling": {"by": "keda"},
        "mesh": "istio-sidecar",
        "gateway": {"enabled": True},
    },
}
ADDED = ("app.kubernetes.io/managed-by", "app.kubernetes.io/name", "helm.sh/chart")
"""Labels of resources on which nothing depends."""


def helm(values: Values, name: str = "octet", namespace: str = "octet") -> list[Resource]:
    """What `helm install NAME deploy/helm/octet` would create.

    Raises:
        helm_python.HelmError: when Helm refuses the values.
    """
    with helm_python.Chart.load(str(CHART)) as chart:
        rendered = chart.render(values, name=name, namespace=namespace)
    texts = [text for path, text in sorted(rendered.items()) if path.endswith(".yaml")]
    return [found for text in texts for found in yaml.load_all(text, yaml.CSafeLoader) if found]


def named(resources: list[Resource]) -> dict[tuple[str, str], Resource]:
    """The resources by kind and name, without what says nothing: labels of theirs, the namespace, orders."""
    found = {}
    for resource in copy.deepcopy(resources):
        meta = resource["metadata"]
        meta.pop("namespace", None)
        labels = {name: value for name, value in meta.pop("labels", {}).items() if name not in ADDED}
        if labels:
            meta["labels"] = labels
        if resource["kind"] == "Deployment":
            template = resource["spec"]["template"]
            template["spec"]["volumes"].sort(key=lambda volume: volume["name"])
            template["metadata"] = {key: value for key, value in template["metadata"].items() if value}
        key = (resource["kind"], meta["name"])
        assert key not in found
        found[key] = resource
    return found


def values_of(mixture: Mixture) -> Values:
    values: Values = {"image": {"repository": "octet", "tag": ""}}
    for component in mixture:
        values |= copy.deepcopy(COMPONENTS[component])
    return values


@pytest.mark.parametrize("mixture", mixtures(), ids=lambda mixture: "+".join(mixture) or "base")
def test_components_are_the_same(mixture: Mixture) -> None:
    assert named(helm(values_of(mixture))) == named(mix(mixture))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_are_the_same(overlay: str) -> None:
    assert named(helm(OVERLAY_VALUES[overlay])) == named(render(overlay))


def leaves(values: Values, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def nested(path: str, value: Any) -> Values:
    for name in reversed(path.split(".")):
        value = {name: value}
    found: Values = value
    return found


def merged(one: Values, other: Values) -> Values:
    result = copy.deepcopy(one)
    for name, value in other.items():
        both = isinstance(value, dict) and isinstance(result.get(name), dict)
        result[name] = merged(result[name], value) if both else value
    return result


DEFAULTS: Values = yaml.safe_load((CHART / "values.yaml").read_text())
KEDA, GATEWAY = {"autoscaling": {"by": "keda"}}, {"gateway": {"enabled": True}}
# For each value another one, and with which others it says something.
OTHERS: dict[str, tuple[Any, Values]] = {
    "image.repository": ("elsewhere/octet", {}),
    "image.tag": ("1.2.3", {}),
    "model.claim": ("models", {}),
    "model.path": ("gemma", {"model": {"claim": "models"}}),
    "model.name": ("gemma", {}),
    "args": (["--max-model-len=4096"], {}),
    "replicas": (3, {}),
    "resources": ({"limits": {"memory": "1Gi"}}, {}),
    "gpus": (2, {}),
    "shmSize": ("1Gi", {}),
    "cacheSize": ("1Gi", {}),
    "apiKeysSecret": ("keys", {}),
    "tls.enabled": (True, {}),
    "tls.secret": ("certificate", {"tls": {"enabled": True}}),
    "startupMinutes": (60, {}),
    "graceSeconds": (20, {}),
    "drainSeconds": (300, {}),
    "autoscaling.by": ("keda", {}),
    "autoscaling.minReplicas": (3, KEDA),
    "autoscaling.maxReplicas": (30, KEDA),
    "autoscaling.target": (0.9, KEDA),
    "autoscaling.prometheus": ("http://prometheus:9090", KEDA),
    "podMonitor": (True, {}),
    "networkPolicy.enabled": (False, {}),
    "networkPolicy.monitoringNamespace": ("observability", {}),
    "networkPolicy.clientsElsewhere": (True, {}),
    "mesh": ("linkerd", {}),
    "gateway.enabled": (True, {}),
    "gateway.className": ("envoy", GATEWAY),
    "gateway.host": ("llm.example", GATEWAY),
    "gateway.tlsSecret": ("certificate", GATEWAY),
    "gateway.backendCa": ("authority", {**GATEWAY, "tls": {"enabled": True}}),
}


def test_every_value_is_known() -> None:
    paths = [path for path, _ in leaves(DEFAULTS)]
    assert paths == list(OTHERS)
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(_properties(schema)) == paths


def _properties(schema: Values, prefix: str = "") -> Iterator[str]:
    for name, inner in schema["properties"].items():
        path = f"{prefix}{name}"
        if path == "global":
            continue
        if "properties" in inner and path != "resources":
            assert inner["additionalProperties"] is False, path
            yield from _properties(inner, f"{path}.")
        else:
            yield path


@pytest.mark.parametrize("path", OTHERS)
def test_every_value_says_something(path: str) -> None:
    value, beside = OTHERS[path]
    before = named(helm(beside))
    after = named(helm(merged(beside, nested(path, value))))
    assert before != after
    for key, resource in after.items():
        if before.get(key) != resource:
            validate(resource)


def test_the_page_lists_the_values() -> None:
    rows = re.findall(
        r"^\| `([\w.]+)` \| (?:`([^`]*)`)? ?\| ", (CHART / "README.md").read_text(), re.MULTILINE
    )
    said: dict[str, str] = dict(rows)
    assert list(said) == list(OTHERS)
    for path, value in leaves(DEFAULTS):
        assert said[path] == (value if isinstance(value, str) else json.dumps(value)), path


@pytest.mark.parametrize(
    "values",
    [
        {"replica": 3},
        {"image": {"tagg": "1"}},
        {"mesh": "istio"},
        {"mesh": "linkerd", "tls": {"enabled": True}},
        {"mesh": "istio-ambient", "tls": {"enabled": True}},
        {"model": {"path": "gemma"}},
        {"model": {"claim": "models", "path": "/gemma"}},
        {"args": ["max-model-len=4096"]},
        {"args": "--max-model-len=4096"},
        {"autoscaling": {"by": "hpa"}},
        {"autoscaling": {"minReplicas": 0}},
        {"autoscaling": {"target": 75}},
        {"gpus": -1},
        {"shmSize": 2},
        {"replicas": "2"},
        {"resources": {"request": {"cpu": 1}}},
        {"gateway": {"host": "https://octet.example"}},
        {"tls": {"secret": ""}},
    ],
    ids=json.dumps,
)
def test_values_that_cannot_be_are_refused(values: Values) -> None:
    with pytest.raises(helm_python.HelmValuesError, match="don't meet the specifications of the schema"):
        helm(values)


def test_the_schema_is_one() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(DEFAULTS, schema)


def test_releases_keep_apart() -> None:
    """Nothing of one has a name, or finds a pod, of another in the same namespace."""
    values = merged(values_of(("istio-ambient", "gateway", "autoscaling")), {"podMonitor": True})
    one, other = (helm(values, name) for name in ("one", "other"))
    names = [{(r["kind"], r["metadata"]["name"]) for r in found} for found in (one, other)]
    assert not names[0] & names[1]
    assert len(names[0]) == len(one)
    for resource in one:
        if resource["kind"] == "Deployment":
            # The container's name, the image's, and paths in it are every release's.
            del resource["spec"]["template"]["spec"]["containers"]
            del resource["spec"]["template"]["spec"]["volumes"]
    names_in_use = set(re.findall(r'"(octet[-\w]*)"', json.dumps(one)))
    assert names_in_use == {"octet-client", "octet-gateway-tls", "octet_demand_ratio"}


def test_keda_asks_about_the_releases_namespace() -> None:
    scaled = only(helm({"autoscaling": {"by": "keda"}}, namespace="llm"), "ScaledObject")["spec"]
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["query"] == 'sum(octet_demand_ratio{namespace="llm"})'


def test_times_follow_each_other() -> None:
    """Who raises one raises what has to be longer."""
    values = {"startupMinutes": 90, "graceSeconds": 30, "drainSeconds": 600, "mesh": "istio-sidecar"}
    deployment = only(helm(values), "Deployment")["spec"]
    pod = deployment["template"]
    (container,) = pod["spec"]["containers"]
    probe = container["startupProbe"]
    assert probe["periodSeconds"] * probe["failureThreshold"] == 90 * 60
    assert deployment["progressDeadlineSeconds"] == 90 * 60 + 600
    drained = 5 + 30 + 600
    proxy = yaml.safe_load(pod["metadata"]["annotations"]["proxy.istio.io/config"])
    assert drained < int(proxy["terminationDrainDuration"].removesuffix("s"))
    assert pod["spec"]["terminationGracePeriodSeconds"] > drained + 20
    assert {"--grace-seconds=30", "--drain-seconds=600"} <= set(container["args"])


def test_helm_finds_nothing_to_mend() -> None:
    report = helm_python.lint(str(CHART), strict=True)
    assert not report["errors"]
    assert {message["error"] for message in report["messages"]} == {"icon is recommended"}


def test_the_chart_is_of_this_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["version"] == chart["appVersion"] == octet.__version__
    assert DEFAULTS["image"]["tag"].startswith(f"{octet.__version__}-")
    assert of_kind(helm({}), "Deployment")
