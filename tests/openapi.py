"""What docs/openapi.json says of JSON."""

from typing import Any

import jsonschema


def check(document: dict[str, Any], name: str, value: Any) -> None:
    """Raises ValidationError where a value is not what the document's schema `name` describes."""
    schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(value)
