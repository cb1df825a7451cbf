"""Protocols as what can be compared."""

from typing import Any


def described(files: list[Any]) -> dict[str, Any]:
    """Messages by name, with each field's number, type and label; and a service's methods."""
    found: dict[str, Any] = {}

    def add(message: Any) -> None:
        found[message.full_name] = {
            field.name: [
                field.number,
                field.type,
                field.is_repeated,
                getattr(field.message_type or field.enum_type, "full_name", None),
            ]
            for field in message.fields
        }
        for inner in message.nested_types:
            add(inner)

    for file in files:
        for message in file.message_types_by_name.values():
            add(message)
        for enum in file.enum_types_by_name.values():
            found[enum.full_name] = {value.name: value.number for value in enum.values}
        for service in file.services_by_name.values():
            found[service.full_name] = {
                method.name: [
                    method.input_type.full_name,
                    method.output_type.full_name,
                    method.client_streaming,
                    method.server_streaming,
                ]
                for method in service.methods
            }
    return found
