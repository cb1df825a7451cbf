"""What a cluster would say of a resource: Kubernetes' own schemas, and those of what is installed beside."""

import copy
from typing import Any

import jsonschema
import kubernetes_validate
from cloudcoil.models.istio.networking.v1 import DestinationRule, VirtualService
from cloudcoil.models.istio.security.v1 import PeerAuthentication
from cloudcoil.models.keda.v1alpha1 import ScaledObject
from cloudcoil.models.prometheus_operator.v1 import PodMonitor

from tests.packaging import gateway_api

# The oldest version whose preStop can sleep without a feature gate, and the newest that is known.
VERSIONS = ("1.30", "1.37")

_MODELS = {
    "DestinationRule": DestinationRule,
    "PeerAuthentication": PeerAuthentication,
    "PodMonitor": PodMonitor,
    "ScaledObject": ScaledObject,
    "VirtualService": VirtualService,
}

# Fields that are newer than the models, which are of Istio 1.24 and KEDA 2.16, and what they may be.
_NEWER: dict[str, dict[tuple[str, str], dict[str, Any]]] = {
    "DestinationRule": {
        ("trafficPolicy", "retryBudget"): {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "percent": {"type": "number", "minimum": 0, "maximum": 100},
                "minRetryConcurrency": {"type": "integer", "minimum": 0},
            },
        }
    },
    "ScaledObject": {
        ("fallback", "behavior"): {
            "enum": ["static", "currentReplicas", "currentReplicasIfHigher", "currentReplicasIfLower"]
        }
    },
}


def validate(resource: dict[str, Any], version: str = VERSIONS[-1]) -> None:
    """Raises when a cluster of that version would refuse the resource, or drop a field of it."""
    kind = resource["kind"]
    if resource["apiVersion"].startswith("gateway.networking.k8s.io/"):
        gateway_api.validate(resource)
    elif kind in _MODELS:
        resource = copy.deepcopy(resource)
        for (outer, inner), schema in _NEWER.get(kind, {}).items():
            jsonschema.validate(resource["spec"][outer].pop(inner), schema)
        model = _MODELS[kind].model_validate(resource)
        assert model.api_version == resource["apiVersion"], resource["apiVersion"]
        read = model.model_dump(by_alias=True, exclude_none=True, mode="json")
        assert read["spec"] == resource["spec"], f"the model of {kind} has dropped or changed something"
    else:
        kubernetes_validate.validate(resource, version, strict=True)
