"""The OpenAPI 3.1 description, made from the operations and their types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from wms import VERSION
from wms.api.operation import Nothing, Operation
from wms.api.problem import ProblemDetails

_ALWAYS = {400: "A malformed or unknown field.", 500: "A fault of the service."}
_TENANT = {
    401: "No API key, or one that is unknown or revoked.",
    503: "The database did not answer in time; try again after Retry-After seconds.",
}
_WITH_BODY = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
}


def document(operations: Sequence[Operation[Any, Any]]) -> dict[str, Any]:
    """The whole description as JSON values."""
    kinds: list[Any] = [ProblemDetails]
    for operation in operations:
        kinds += [operation.params, operation.body, *(answer.kind for answer in operation.answers.values())]
    schemas, components = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    # A list, since not every type can be hashed.
    known = list(zip(kinds, schemas, strict=True))

    def schema(kind: Any) -> dict[str, Any]:
        return next(found for candidate, found in known if candidate is kind)

    def properties(kind: Any) -> tuple[dict[str, Any], list[str]]:
        found = components[schema(kind)["$ref"].rpartition("/")[2]]
        return found.get("properties", {}), found.get("required", [])

    paths: dict[str, Any] = {}
    for operation in operations:
        fields, required = properties(operation.params)
        described: dict[str, Any] = {
            "operationId": operation.name,
            "summary": operation.summary,
            "tags": [_tag(operation.path)],
            "parameters": [
                {
                    "name": name,
                    "in": "path" if f"{{{name}}}" in operation.path else "query",
                    "required": name in required,
                    "schema": found,
                }
                for name, found in fields.items()
            ]
            + [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": text,
                    "schema": {"type": "string"},
                }
                for name, text in operation.header_params.items()
            ],
            "responses": _responses(operation, schema),
            "security": [] if operation.public else [{"apiKey": []}],
        }
        if operation.description:
            described["description"] = operation.description
        if operation.body is not Nothing:
            described["requestBody"] = {
                "required": True,
                "content": {"application/json": {"schema": schema(operation.body)}},
            }
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    # Parameters are written out where they are used.
    for operation in operations:
        components.pop(schema(operation.params)["$ref"].rpartition("/")[2], None)
    return {
        "openapi": "3.1.0",
        "info": {"title": "WMS", "version": VERSION, "description": "Warehouse stock and its movements."},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "apiKey": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "An API key; it decides the tenant.",
                }
            },
        },
    }


def _responses(operation: Operation[Any, Any], schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    problems = dict(_ALWAYS)
    if not operation.public:
        problems |= _TENANT
    if operation.body is not Nothing:
        problems |= _WITH_BODY
    for status, text in sorted((problems | dict(operation.problems)).items()):
        content = {"application/problem+json": {"schema": schema(ProblemDetails)}}
        found[str(status)] = {"description": text, "content": content}
    for status, answer in operation.answers.items():
        media = "text/plain" if answer.kind is str else "application/json"
        found[str(status)] = {"description": answer.text, "content": {media: {"schema": schema(answer.kind)}}}
    return dict(sorted(found.items()))


def _tag(path: str) -> str:
    return path.removeprefix("/api/v1/").strip("/").split("/")[0]
