"""Renders deploy/kubernetes with the kustomize that is part of kubectl."""

import copy
import itertools
import os
import subprocess
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())
COMPONENTS = sorted(path.name for path in (KUBERNETES / "components").iterdir())

Resource = dict[str, Any]
Mixture = tuple[str, ...]
"""Components that go together."""

_TRANSPORTS: list[Mixture] = [(), ("tls",), ("istio-sidecar",), ("istio-ambient",), ("linkerd",)]
_ENTRIES: list[Mixture] = [(), ("clients-elsewhere",), ("gateway",)]
_SCALING: list[Mixture] = [(), ("autoscaling",), ("keda",)]


def mixtures() -> list[Mixture]:
    """Every way in which calls come with every way in, among them each other choice with each of these."""
    found = []
    for number, (transport, entry) in enumerate(itertools.product(_TRANSPORTS, _ENTRIES)):
        mixture: Mixture = ("gpu", "model") if number % 2 else ()
        mixture += transport + entry + _SCALING[(number + number // 3) % 3]
        if number // 2 % 2:
            mixture += ("pod-monitor",)
        if "tls" in mixture and "gateway" in mixture:
            mixture += ("gateway-tls",)
        found.append(mixture)
    return found


def _rendered(folder: Path) -> list[Resource]:
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    rendered = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.load_all(rendered.stdout, yaml.CSafeLoader))


@cache
def _overlay(name: str) -> list[Resource]:
    return _rendered(KUBERNETES / "overlays" / name)


@cache
def _mixed(mixture: Mixture) -> list[Resource]:
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder).resolve()
        to = Path(os.path.relpath(KUBERNETES, here))
        kustomization = {
            "namespace": "octet",
            "resources": [str(to / "base")],
            "components": [str(to / "components" / name) for name in mixture],
        }
        (here / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
        return _rendered(here)


def render(overlay: str) -> list[Resource]:
    """The resources of an overlay."""
    return copy.deepcopy(_overlay(overlay))


def mix(mixture: Mixture) -> list[Resource]:
    """The resources of the base with these components, as an overlay with nothing else would have them."""
    return copy.deepcopy(_mixed(mixture))


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    """Those of one kind."""
    return [resource for resource in resources if resource["kind"] == kind]


def only(resources: list[Resource], kind: str) -> Resource:
    """The only one of its kind."""
    (found,) = of_kind(resources, kind)
    return found
