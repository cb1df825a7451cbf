"""The Gateway API's schemas, as far as our manifests go.

No package at hand carries the present definitions, so the fields that we use are written down here
with the limits that the definitions set (kubernetes-sigs/gateway-api, config/crd/standard, v1.4). Any other
field is an error: look it up there and add it.
"""

from typing import Any

import jsonschema

_NAME = {"type": "string", "minLength": 1, "maxLength": 253}
_SECTION = {
    "type": "string",
    "minLength": 1,
    "maxLength": 253,
    "pattern": r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
_GROUP = {
    "type": "string",
    "maxLength": 253,
    "pattern": r"^$|^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
_KIND = {
    "type": "string",
    "minLength": 1,
    "maxLength": 63,
    "pattern": "^[a-zA-Z]([-a-zA-Z0-9]*[a-zA-Z0-9])?$",
}
_HOST = {
    "type": "string",
    "minLength": 1,
    "maxLength": 253,
    "pattern": r"^(\*\.)?[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$",
}
_PORT = {"type": "integer", "minimum": 1, "maximum": 65535}


def _object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "required": required,
        "properties": properties,
        "additionalProperties": False,
    }


def _array(items: dict[str, Any], *, least: int = 0, most: int = 16) -> dict[str, Any]:
    return {"type": "array", "items": items, "minItems": least, "maxItems": most}


_PARENT = _object(["name"], group=_GROUP, kind=_KIND, name=_NAME, port=_PORT, sectionName=_SECTION)
_BACKEND = _object(
    ["name"],
    group=_GROUP,
    kind=_KIND,
    name=_NAME,
    port=_PORT,
    weight={"type": "integer", "minimum": 0, "maximum": 1000000},
)
_LISTENER = _object(
    ["name", "port", "protocol"],
    name=_SECTION,
    hostname=_HOST,
    port=_PORT,
    protocol={
        "type": "string",
        "minLength": 1,
        "maxLength": 255,
        "pattern": r"^[a-zA-Z0-9]([-a-zA-Z0-9]*[a-zA-Z0-9])?$|[a-z0-9]([-a-z0-9]*[a-z0-9])?"
        r"(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*\/[A-Za-z0-9]+$",
    },
    tls=_object(
        [],
        mode={"enum": ["Terminate", "Passthrough"]},
        certificateRefs=_array(_object(["name"], group=_GROUP, kind=_KIND, name=_NAME), most=64),
    ),
    allowedRoutes=_object(
        [],
        namespaces=_object([], **{"from": {"enum": ["All", "Selector", "Same"]}}),
        kinds=_array(_object(["kind"], group=_GROUP, kind=_KIND), most=8),
    ),
)
# What the definition says in rules: TLS is for HTTPS and TLS alone, which have to end it for HTTPS.
_LISTENER["allOf"] = [
    {
        "if": {"properties": {"protocol": {"enum": ["HTTP", "TCP", "UDP"]}}},
        "then": {"not": {"required": ["tls"]}},
    },
    {
        "if": {"properties": {"protocol": {"const": "HTTPS"}}},
        "then": {"properties": {"tls": {"properties": {"mode": {"const": "Terminate"}}}}},
    },
]

_SPECS = {
    "Gateway": _object(
        ["gatewayClassName", "listeners"],
        gatewayClassName=_NAME,
        listeners=_array(_LISTENER, least=1, most=64),
    ),
    "GRPCRoute": _object(
        [],
        parentRefs=_array(_PARENT, most=32),
        hostnames=_array(_HOST),
        rules=_array(_object([], backendRefs=_array(_BACKEND))),
    ),
    "BackendTLSPolicy": _object(
        ["targetRefs", "validation"],
        targetRefs=_array(
            _object(["group", "kind", "name"], group=_GROUP, kind=_KIND, name=_NAME, sectionName=_SECTION),
            least=1,
        ),
        validation=_object(
            ["hostname"],
            hostname=_SECTION,
            caCertificateRefs=_array(
                _object(["group", "kind", "name"], group=_GROUP, kind=_KIND, name=_NAME), most=8
            ),
            wellKnownCACertificates={"enum": ["System"]},
        ),
    ),
}

# Who vouches for the backend: one or the other.
_SPECS["BackendTLSPolicy"]["properties"]["validation"]["oneOf"] = [
    {"required": ["caCertificateRefs"]},
    {"required": ["wellKnownCACertificates"]},
]


def validate(resource: dict[str, Any]) -> None:
    """Raises jsonschema's ValidationError for what a cluster would not take."""
    schema = _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "gateway.networking.k8s.io/v1"},
        kind={"enum": [resource["kind"]]},
        metadata={"type": "object"},
        spec=_SPECS[resource["kind"]],
    )
    jsonschema.validate(resource, schema)
