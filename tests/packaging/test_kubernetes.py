"""The Kubernetes manifests: they render, Kubernetes takes them, and they fit each other and Octet."""

import re
from functools import cache
from typing import Any

import dockerfile
import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

from octet.cli.health import health
from octet.cli.serve import serve
from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import SHUTDOWN_SECONDS
from octet.server.server import STOP_GRACE_SECONDS
from octet.telemetry.metrics import Metrics
from tests.packaging.kubernetes import KUBERNETES, OVERLAYS, ROOT, Resource, of_kind, only, render

# The oldest version whose preStop can sleep without a feature gate, and the newest that is known.
VERSIONS = ("1.30", "1.37")
RENDERED = cache(render)
# Parameters of `octet serve` that are no settings of the server.
SERVE_ONLY = ("engine_args", "headless", "help_engine")


@pytest.fixture(params=OVERLAYS)
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return RENDERED(request.param)


@pytest.fixture
def pod(resources: list[Resource]) -> Resource:
    template: Resource = only(resources, "Deployment")["spec"]["template"]
    return template


@pytest.fixture
def container(pod: Resource) -> Resource:
    (container,) = pod["spec"]["containers"]
    return dict(container)


@pytest.fixture
def settings(container: Resource) -> ServerConfig:
    """What `octet serve` makes of the container's arguments."""
    command, *arguments = container["args"]
    assert command == "serve"
    parameters = serve.make_context("serve", arguments).params
    return ServerConfig(**{k: v for k, v in parameters.items() if k not in SERVE_ONLY})


def test_there_is_an_overlay_for_each_kind_of_machine() -> None:
    assert OVERLAYS == ["cpu", "gpu"]


def test_every_file_belongs_to_an_overlay() -> None:
    for folder in ("base", *(f"components/{path.name}" for path in (KUBERNETES / "components").iterdir())):
        files = {path.name for path in (KUBERNETES / folder).glob("*.yaml")} - {"kustomization.yaml"}
        kustomization = yaml.safe_load((KUBERNETES / folder / "kustomization.yaml").read_text())
        assert files == set(kustomization.get("resources", [])), folder
        used = [(KUBERNETES / "overlays" / name / "kustomization.yaml").read_text() for name in OVERLAYS]
        assert any(f"../../{folder}\n" in text for text in used), folder


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_them(resources: list[Resource], version: str) -> None:
    for resource in resources:
        if resource["kind"] != "PodMonitor":
            kubernetes_validate.validate(resource, version, strict=True)


def test_the_prometheus_operator_takes_them() -> None:
    monitor = only(RENDERED("gpu"), "PodMonitor")
    read = PodMonitor.model_validate(monitor).model_dump(by_alias=True, exclude_none=True)
    assert read["spec"] == monitor["spec"], "the operator's model has dropped or changed something"


def test_serve_takes_the_arguments(container: Resource, settings: ServerConfig) -> None:
    from octet.engine.vllm.launch.args import _parser

    assert settings.has_keys
    assert settings.host == "0.0.0.0"
    assert not settings.allow_insecure
    _, *arguments = container["args"]
    engine_args = list(serve.make_context("serve", arguments).params["engine_args"])
    assert _parser().parse_args(engine_args)


def test_ports_and_probes_are_those_of_the_server(
    pod: Resource, container: Resource, settings: ServerConfig
) -> None:
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "grpc": settings.port,
        "metrics": settings.metrics_port,
    }
    annotations = pod["metadata"]["annotations"]
    assert annotations["prometheus.io/port"] == str(settings.metrics_port)
    probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
    if settings.tls_certificate is None:
        assert [probe["grpc"]["port"] for probe in probes] == [settings.port] * 3
        # The whole server: what a model is for may be any service.
        assert all("service" not in probe["grpc"] for probe in probes)
        return
    known = {name for option in health.params for name in option.opts}
    for probe in probes:
        octet, command, *options = probe["exec"]["command"]
        assert (octet, command) == ("octet", "health")
        assert {option.partition("=")[0] for option in options} <= known


def test_a_pod_may_live_as_long_as_its_drain(
    pod: Resource, container: Resource, settings: ServerConfig
) -> None:
    ending = (
        container["lifecycle"]["preStop"]["sleep"]["seconds"]
        + settings.grace_seconds
        + settings.drain_seconds
        + STOP_GRACE_SECONDS
        + SHUTDOWN_SECONDS
    )
    assert ending <= pod["spec"]["terminationGracePeriodSeconds"] <= ending + 30


def test_selectors_find_the_pods_and_nothing_else(resources: list[Resource], pod: Resource) -> None:
    labels = pod["metadata"]["labels"]
    selectors = [service["spec"]["selector"] for service in of_kind(resources, "Service")]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor"):
        selectors += [found["spec"]["selector"]["matchLabels"] for found in of_kind(resources, kind)]
    policy = only(resources, "NetworkPolicy")["spec"]
    selectors.append(policy["podSelector"]["matchLabels"])
    assert len(selectors) >= 5
    for selector in selectors:
        assert selector
        assert selector.items() <= labels.items()
    others = [
        peer["podSelector"]["matchLabels"]
        for rule in policy["ingress"]
        for peer in rule["from"]
        if "podSelector" in peer
    ]
    assert others == [{"octet-client": "true"}]


def test_named_ports_exist(resources: list[Resource], container: Resource) -> None:
    names = {port["name"] for port in container["ports"]}
    used = [
        port["targetPort"] for service in of_kind(resources, "Service") for port in service["spec"]["ports"]
    ]
    policy = only(resources, "NetworkPolicy")["spec"]
    used += [port["port"] for rule in policy["ingress"] for port in rule["ports"]]
    for monitor in of_kind(resources, "PodMonitor"):
        used += [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert set(used) == names


def test_there_is_a_headless_service(resources: list[Resource]) -> None:
    headless = [
        s["metadata"]["name"] for s in of_kind(resources, "Service") if s["spec"].get("clusterIP") == "None"
    ]
    assert headless == ["octet-headless"]


def test_the_autoscaler_follows_a_metric_that_exists() -> None:
    resources = RENDERED("gpu")
    autoscaler = only(resources, "HorizontalPodAutoscaler")["spec"]
    (metric,) = autoscaler["metrics"]
    known = {family.name for family in Metrics().registry.collect()}
    assert metric["pods"]["metric"]["name"] in known
    deployment = only(resources, "Deployment")
    assert autoscaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    assert "replicas" not in deployment["spec"], "each apply would undo what the autoscaler did"


def image_user_and_home() -> tuple[str, str]:
    commands = dockerfile.parse_file(str(ROOT / "Dockerfile"))
    users = {command.value[0] for command in commands if command.cmd.lower() == "user"}
    homes = re.findall(r"HOME=(\S+)", (ROOT / "Dockerfile").read_text())
    (user,), (home,) = users, homes
    return user, home


def test_pods_are_confined(resources: list[Resource], pod: Resource, container: Resource) -> None:
    spec, security = pod["spec"], container["securityContext"]
    user, _ = image_user_and_home()
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert f"{spec['securityContext']['runAsUser']}:{spec['securityContext']['runAsGroup']}" == user
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["readOnlyRootFilesystem"] is True
    assert security["allowPrivilegeEscalation"] is False
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert spec["automountServiceAccountToken"] is False
    assert only(resources, "ServiceAccount")["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()


def test_what_is_written_to_is_mounted(pod: Resource, container: Resource) -> None:
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    mounts: dict[str, Any] = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
    assert {mount["name"] for mount in mounts.values()} == volumes.keys()
    writable = {path for path, mount in mounts.items() if not mount.get("readOnly")}
    _, home = image_user_and_home()
    assert writable == {home, "/tmp", "/dev/shm"}
    for path in writable:
        assert "sizeLimit" in volumes[mounts[path]["name"]]["emptyDir"]
    assert volumes[mounts["/dev/shm"]["name"]]["emptyDir"]["medium"] == "Memory"


def test_secrets_are_files(settings: ServerConfig, pod: Resource, container: Resource) -> None:
    """Each file that the flags name lies in a Secret's mount."""
    assert not container.get("env")
    secrets = {volume["name"] for volume in pod["spec"]["volumes"] if "secret" in volume}
    folders = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] in secrets]
    files = [settings.api_keys_file, settings.tls_certificate, settings.tls_key]
    for file in filter(None, files):
        assert any(file.startswith(f"{folder}/") for folder in folders), file


def test_a_misspelt_field_would_be_found() -> None:
    deployment = only(render("cpu"), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, VERSIONS[-1], strict=True)
