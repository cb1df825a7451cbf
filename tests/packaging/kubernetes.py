"""Renders deploy/kubernetes with the kustomize that is part of kubectl."""

import subprocess
import sysconfig
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = sorted(path.name for path in (KUBERNETES / "overlays").iterdir())

Resource = dict[str, Any]


def render(overlay: str) -> list[Resource]:
    """The resources of an overlay."""
    kubectl = Path(sysconfig.get_path("scripts")) / "kubectl"
    rendered = subprocess.run(
        [kubectl, "kustomize", KUBERNETES / "overlays" / overlay], capture_output=True, text=True, check=False
    )
    assert rendered.returncode == 0, rendered.stderr
    return list(yaml.safe_load_all(rendered.stdout))


def of_kind(resources: list[Resource], kind: str) -> list[Resource]:
    """Those of one kind."""
    return [resource for resource in resources if resource["kind"] == kind]


def only(resources: list[Resource], kind: str) -> Resource:
    """The only one of its kind."""
    (found,) = of_kind(resources, kind)
    return found
