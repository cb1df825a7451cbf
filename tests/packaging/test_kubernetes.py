"""The Kubernetes manifests: they render, Kubernetes takes them, and they fit each other and Octet.

Every overlay is looked at, and mixtures of all components that go together.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

import dockerfile
import kubernetes_validate
import pytest
import yaml

from octet.cli.serve import serve
from octet.config import ServerConfig
from octet.engine.vllm.serving.engine import SHUTDOWN_SECONDS
from octet.server.server import STOP_GRACE_SECONDS
from octet.telemetry.endpoint import HEALTH_PATH
from octet.telemetry.metrics import Metrics
from tests.autoscaler import quantity
from tests.packaging.kubernetes import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    ROOT,
    Mixture,
    Resource,
    mix,
    mixtures,
    of_kind,
    only,
    render,
)
from tests.packaging.schemas import VERSIONS, validate
from tests.promql import selectors

# Parameters of `octet serve` that are no settings of the server.
SERVE_ONLY = ("engine_args", "headless", "help_engine")
NAME = {"app.kubernetes.io/name": "octet"}
ALL: list[str | Mixture] = [*OVERLAYS, *mixtures()]


def resources_of(what: str | Mixture) -> list[Resource]:
    return render(what) if isinstance(what, str) else mix(what)


@pytest.fixture(params=ALL, ids=lambda what: what if isinstance(what, str) else "+".join(what) or "base")
def resources(request: pytest.FixtureRequest) -> list[Resource]:
    return resources_of(request.param)


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


def test_there_is_an_overlay_for_each_kind_of_cluster() -> None:
    assert OVERLAYS == ["cpu", "gpu", "gpu-istio", "gpu-operator"]


def test_every_component_is_mixed_and_every_file_used() -> None:
    taken_in = {"istio-routes"}
    assert {name for mixture in mixtures() for name in mixture} | taken_in == set(COMPONENTS)
    for folder in (KUBERNETES / "base", *(KUBERNETES / "components").iterdir()):
        files = {path.name for path in folder.glob("*.yaml")} - {"kustomization.yaml"}
        kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
        assert files == set(kustomization.get("resources", [])), folder


def test_an_overlay_needs_what_it_names_and_nothing_else() -> None:
    """The plain ones run on a cluster in which nothing is installed but what hands out GPUs."""
    for overlay in ("cpu", "gpu"):
        groups = {resource["apiVersion"].rpartition("/")[0] for resource in render(overlay)}
        assert groups == {"", "apps", "policy", "networking.k8s.io"}, overlay
    kinds = {resource["kind"] for resource in render("gpu-istio")}
    assert {"PeerAuthentication", "ScaledObject", "GRPCRoute"} <= kinds
    assert not any("--tls" in argument for argument in _arguments("gpu-istio"))
    assert any("--tls" in argument for argument in _arguments("gpu-operator"))


def _arguments(overlay: str) -> list[str]:
    arguments: list[str] = only(render(overlay), "Deployment")["spec"]["template"]["spec"]["containers"][0][
        "args"
    ]
    return arguments


@pytest.mark.parametrize("version", VERSIONS)
def test_a_cluster_takes_them(version: str) -> None:
    """Each resource in each form that it has somewhere."""
    forms = {json.dumps(resource): resource for what in ALL for resource in resources_of(what)}
    for resource in forms.values():
        validate(resource, version)


def test_no_two_are_the_same(resources: list[Resource]) -> None:
    names = [(resource["kind"], resource["metadata"]["name"]) for resource in resources]
    assert len(names) == len(set(names))
    assert {resource["metadata"]["namespace"] for resource in resources} == {"octet"}


def test_serve_takes_the_arguments(container: Resource, settings: ServerConfig) -> None:
    from octet.engine.vllm.launch.args import _parser

    assert settings.has_keys
    assert settings.host == "0.0.0.0"
    assert not settings.allow_insecure
    _, *arguments = container["args"]
    engine_args = list(serve.make_context("serve", arguments).params["engine_args"])
    assert _parser().parse_args(engine_args)


def test_ports_and_probes_are_those_of_the_server(container: Resource, settings: ServerConfig) -> None:
    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "grpc": settings.port,
        "metrics": settings.metrics_port,
    }
    # The whole server: what a model is for may be any service. Kubernetes' gRPC probes speak plain text only.
    expected: dict[str, Any] = {"grpc": {"port": settings.port}}
    if settings.tls_certificate is not None:
        expected = {"httpGet": {"path": HEALTH_PATH, "port": "metrics"}}
    for kind in ("startup", "readiness", "liveness"):
        probe = container[f"{kind}Probe"]
        asked = {how: probe[how] for how in ("grpc", "httpGet", "exec", "tcpSocket") if how in probe}
        assert asked == expected, kind


def test_a_rollout_waits_for_what_loads(resources: list[Resource], container: Resource) -> None:
    probe = container["startupProbe"]
    loading = probe["periodSeconds"] * probe["failureThreshold"]
    assert only(resources, "Deployment")["spec"]["progressDeadlineSeconds"] >= loading + 300


def test_scraped_once(resources: list[Resource], pod: Resource, settings: ServerConfig) -> None:
    annotations = pod["metadata"].get("annotations", {})
    scraped = {name: value for name, value in annotations.items() if name.startswith("prometheus.io/")}
    if of_kind(resources, "PodMonitor"):
        assert not scraped, "what is scraped twice counts twice in sums"
    else:
        assert scraped == {
            "prometheus.io/scrape": "true",
            "prometheus.io/port": str(settings.metrics_port),
            "prometheus.io/path": "/metrics",
        }


def test_a_pod_and_its_proxy_may_live_as_long_as_its_drain(
    pod: Resource, container: Resource, settings: ServerConfig
) -> None:
    drained = (
        container["lifecycle"]["preStop"]["sleep"]["seconds"]
        + settings.grace_seconds
        + settings.drain_seconds
    )
    ended = drained + STOP_GRACE_SECONDS + SHUTDOWN_SECONDS
    grace = pod["spec"]["terminationGracePeriodSeconds"]
    assert ended <= grace <= ended + 30
    annotations = pod["metadata"].get("annotations", {})
    if "proxy.istio.io/config" in annotations:
        config = yaml.safe_load(annotations["proxy.istio.io/config"])
        assert config["holdApplicationUntilProxyStarts"] is True
        assert drained < int(config["terminationDrainDuration"].removesuffix("s")) < grace
    if "linkerd.io/inject" in annotations:
        assert drained < int(annotations["config.alpha.linkerd.io/proxy-wait-before-exit-seconds"]) < grace


def test_selectors_find_the_pods_and_nothing_else(resources: list[Resource], pod: Resource) -> None:
    labels = pod["metadata"]["labels"]
    found = [service["spec"]["selector"] for service in of_kind(resources, "Service")]
    for kind in ("Deployment", "PodDisruptionBudget", "PodMonitor", "PeerAuthentication"):
        found += [resource["spec"]["selector"]["matchLabels"] for resource in of_kind(resources, kind)]
    found += [policy["spec"]["podSelector"]["matchLabels"] for policy in of_kind(resources, "NetworkPolicy")]
    assert len(found) >= 5
    for selector in found:
        assert selector == NAME
        assert selector.items() <= labels.items()


def ingress(resources: list[Resource]) -> Iterator[tuple[str | int, Resource]]:
    """What may connect: port and peer."""
    for policy in of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"]["ingress"]:
            for port in rule["ports"]:
                for peer in rule["from"]:
                    yield port["port"], peer


def test_policies_open_nothing_to_everybody(resources: list[Resource]) -> None:
    for port, peer in ingress(resources):
        assert peer, port
        if "ipBlock" in peer:
            assert peer["ipBlock"]["cidr"].endswith(("/32", "/128"))
        for selector in ("podSelector", "namespaceSelector"):
            assert peer.get(selector, {"matchLabels": "any"}).get("matchLabels"), (port, peer)
        if port in ("grpc", 15008, 4143) and "ipBlock" not in peer:
            monitoring = {"kubernetes.io/metadata.name": "monitoring"}
            of_prometheus = peer.get("namespaceSelector", {}).get("matchLabels") == monitoring
            assert "podSelector" in peer or (port == 15008 and of_prometheus), "a whole namespace"


def test_calls_come_through_the_mesh_from_all_who_may_call(resources: list[Resource], pod: Resource) -> None:
    """In ambient mode and in Linkerd they come to a proxy's port, and a policy sees only that."""
    meta = pod["metadata"]
    opened: dict[str | int, list[Resource]] = {}
    for port, peer in ingress(resources):
        opened.setdefault(port, []).append(peer)
    callers = [peer for peer in opened["grpc"] if "ipBlock" not in peer]
    assert {"podSelector": {"matchLabels": {"octet-client": "true"}}} in callers
    ports: list[int] = []
    if meta["labels"].get("istio.io/dataplane-mode") == "ambient":
        ports = [15008]
        assert {"ipBlock": {"cidr": "169.254.7.127/32"}} in opened["grpc"], "kubelet's probes"
    elif meta["labels"].get("sidecar.istio.io/inject") == "true":
        ports = [15008]
        assert opened[15020] == [peer for peer in opened["metrics"] if "ipBlock" not in peer]
    elif "linkerd.io/inject" in meta.get("annotations", {}):
        ports = [4143]
        assert opened[4191] == opened["metrics"]
    for port in ports:
        assert all(peer in opened[port] for peer in callers), port


def test_meshes_control_planes_are_reached(resources: list[Resource], pod: Resource) -> None:
    reached = set()
    for policy in of_kind(resources, "NetworkPolicy"):
        for rule in policy["spec"].get("egress", []):
            (peer,) = rule["to"]
            namespace = peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
            reached |= {(namespace, port["port"]) for port in rule["ports"]}
    expected = {("kube-system", 53)}
    if pod["metadata"]["labels"].get("sidecar.istio.io/inject"):
        expected |= {("istio-system", 15012)}
    if pod["metadata"].get("annotations", {}).get("linkerd.io/inject"):
        expected |= {("linkerd", port) for port in (8080, 8086, 8090)}
    assert reached == expected


def test_meshes_and_octets_own_tls_do_not_meet(resources: list[Resource], settings: ServerConfig) -> None:
    if of_kind(resources, "PeerAuthentication"):
        assert settings.tls_certificate is None
        (authentication,) = of_kind(resources, "PeerAuthentication")
        assert authentication["spec"]["mtls"] == {"mode": "STRICT"}
        assert authentication["spec"]["portLevelMtls"] == {str(settings.metrics_port): {"mode": "PERMISSIVE"}}


def test_named_ports_exist(resources: list[Resource], container: Resource) -> None:
    names = {port["name"] for port in container["ports"]}
    used = [
        port["targetPort"] for service in of_kind(resources, "Service") for port in service["spec"]["ports"]
    ]
    used += [port for port, _ in ingress(resources) if isinstance(port, str)]
    for monitor in of_kind(resources, "PodMonitor"):
        used += [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert set(used) == names


def test_there_is_a_headless_service(resources: list[Resource]) -> None:
    headless = [
        s["metadata"]["name"] for s in of_kind(resources, "Service") if s["spec"].get("clusterIP") == "None"
    ]
    assert headless == ["octet-headless"]


def test_routes_lead_to_the_service(resources: list[Resource], settings: ServerConfig) -> None:
    services = {
        (service["metadata"]["name"], port["port"])
        for service in of_kind(resources, "Service")
        for port in service["spec"]["ports"]
    }
    gateways = {gateway["metadata"]["name"]: gateway for gateway in of_kind(resources, "Gateway")}
    for route in of_kind(resources, "GRPCRoute"):
        for rule in route["spec"]["rules"]:
            assert {(backend["name"], backend["port"]) for backend in rule["backendRefs"]} <= services
        for parent in route["spec"]["parentRefs"]:
            if parent.get("kind") == "Service":
                assert (parent["name"], parent["port"]) in services
            else:
                listeners = gateways[parent["name"]]["spec"]["listeners"]
                (listener,) = [one for one in listeners if one["name"] == parent["sectionName"]]
                assert route["spec"]["hostnames"] == [listener["hostname"]]
    for service in of_kind(resources, "VirtualService"):
        assert service["spec"]["hosts"] == ["octet"]
        for route in service["spec"]["http"]:
            assert route["timeout"] == "0s"
            (to,) = (one["destination"] for one in route["route"])
            assert (to["host"], to["port"]["number"]) in services
    for policy in of_kind(resources, "BackendTLSPolicy"):
        assert settings.tls_certificate is not None
        assert {target["name"] for target in policy["spec"]["targetRefs"]} == {"octet"}
    waypoint = of_kind(resources, "Service")[0]["metadata"]["labels"].get("istio.io/use-waypoint")
    assert waypoint is None or gateways[waypoint]["spec"]["gatewayClassName"] == "istio-waypoint"


def test_every_proxy_repeats_the_same() -> None:
    """What a call is tried again for, in Envoy alone, in Istio and in Linkerd."""
    listener = yaml.safe_load((ROOT / "deploy/envoy/grpc.yaml").read_text())["static_resources"]["listeners"][
        0
    ]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    envoy = manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]
    istio = only(mix(("istio-sidecar",)), "VirtualService")["spec"]["http"][0]["retries"]
    assert (istio["retryOn"], istio["attempts"]) == (envoy["retry_on"], envoy["num_retries"])
    route = only(mix(("linkerd",)), "GRPCRoute")["metadata"]["annotations"]
    statuses = set(envoy["retry_on"].split(",")) - {"connect-failure", "refused-stream", "reset"}
    assert set(route["retry.linkerd.io/grpc"].split(",")) == statuses
    assert route["retry.linkerd.io/limit"] == str(envoy["num_retries"])
    assert "cancelled" in statuses


def test_autoscalers_follow_a_metric_that_exists_and_agree() -> None:
    adapter = only(mix(("autoscaling",)), "HorizontalPodAutoscaler")["spec"]
    keda = only(mix(("keda",)), "ScaledObject")["spec"]
    (metric,), (trigger,) = adapter["metrics"], keda["triggers"]
    known = {family.name for family in Metrics().registry.collect()}
    name = metric["pods"]["metric"]["name"]
    assert name in known
    ((asked, labels),) = selectors(trigger["metadata"]["query"])
    assert (asked, labels) == (name, {"namespace"})
    target = quantity(metric["pods"]["target"]["averageValue"])
    assert 0.5 <= target < 1, "1 is a full replica, and one takes a minute to load"
    assert float(trigger["metadata"]["threshold"]) == target
    assert trigger["metricType"] == "AverageValue"
    assert (keda["minReplicaCount"], keda["maxReplicaCount"]) == (
        adapter["minReplicas"],
        adapter["maxReplicas"],
    )
    assert keda["advanced"]["horizontalPodAutoscalerConfig"]["behavior"] == adapter["behavior"]
    assert keda["minReplicaCount"] > 0


def test_what_is_scaled_names_no_replicas(resources: list[Resource]) -> None:
    deployment = only(resources, "Deployment")
    scaled = of_kind(resources, "HorizontalPodAutoscaler") + of_kind(resources, "ScaledObject")
    assert len(scaled) <= 1
    assert ("replicas" in deployment["spec"]) == (not scaled), "each apply would undo what the autoscaler did"
    for scaler in scaled:
        assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]


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


@pytest.mark.parametrize(
    "kind", ["DestinationRule", "Gateway", "GRPCRoute", "ScaledObject", "VirtualService"]
)
def test_a_misspelt_field_would_be_found(kind: str) -> None:
    resource = of_kind(render("gpu-istio"), kind)[0]
    resource["spec"]["hostz"] = ["octet"]
    with pytest.raises(Exception, match=r"hostz|dropped"):
        validate(resource)


def test_a_misspelt_field_of_kubernetes_would_be_found() -> None:
    deployment = only(render("cpu"), "Deployment")
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 5
    with pytest.raises(kubernetes_validate.ValidationError):
        validate(deployment)
