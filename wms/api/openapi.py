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
    401: "No credential, or one that is not good; the detail of its one error is the class of the reason.",
    503: "The database did not answer in time; try again after Retry-After seconds.",
}
_COUNTED = {429: "Too many requests; the next one may come after Retry-After seconds."}
_PERMITTED = {403: "The credential is good, and lacks the permission that the detail names."}
_WITH_BODY = {
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not application/json.",
}
_CHOICES = {
    "fields": "The fields of an item to answer; without it all of them.",
    "include": "What to answer beside the item's fields.",
}
_READ_HEADERS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("If-None-Match", "ETags of answers at hand: 304 when one of them is still right.", {"type": "string"}),
    (
        "WMS-Min-LSN",
        "The WMS-Commit-LSN of an earlier answer: what it told of is seen.",
        {"type": "string", "pattern": "^[0-9A-F]{1,8}/[0-9A-F]{1,8}$"},
    ),
)
_HEADER_SCHEMAS = {
    "Idempotency-Key": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
    "If-Match": {"type": "string", "pattern": '^"[0-9]{1,15}"$'},
}
_ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {"description": "Names this very answer.", "schema": {"type": "string"}},
    "Cache-Control": {"description": "How long it may be kept.", "schema": {"type": "string"}},
    "WMS-Commit-LSN": {
        "description": "For WMS-Min-LSN of reads that are to see the change.",
        "schema": {"type": "string"},
    },
    "Idempotency-Replayed": {
        "description": "true when an earlier request with the same key did it.",
        "schema": {"type": "string", "enum": ["true"]},
    },
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
                _parameter(operation, name, found, name in required) for name, found in fields.items()
            ]
            + _read_headers(operation)
            + [
                {
                    "name": name,
                    "in": "header",
                    "required": True,
                    "description": text,
                    "schema": _HEADER_SCHEMAS.get(name, {"type": "string"}),
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
    for operation in operations:
        if operation.selection is not None:
            # With `fields`, whatever was not named is left out.
            components[operation.selection.item.__name__].pop("required", None)
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
                    "description": "An API key or an access token; it decides the tenant.",
                }
            },
        },
    }


def _parameter(
    operation: Operation[Any, Any], name: str, schema: dict[str, Any], required: bool
) -> dict[str, Any]:
    found = {
        "name": name,
        "in": "path" if f"{{{name}}}" in operation.path else "query",
        "required": required,
        "schema": schema,
    }
    chosen = operation.selection
    if chosen is not None and name in ("fields", "include"):
        # Written a,b: a list without repeated names.
        allowed = list(chosen.names if name == "fields" else chosen.includes)
        items = {"type": "string", "enum": allowed}
        found |= {
            "style": "form",
            "explode": False,
            "description": _CHOICES[name],
            "schema": {"type": "array", "items": items, "minItems": 1, "uniqueItems": True},
        }
    elif not required and "anyOf" in schema:
        # A query cannot say null: what is not given is left out.
        kinds = [kind for kind in schema["anyOf"] if kind != {"type": "null"}]
        rest = {key: value for key, value in schema.items() if key not in ("anyOf", "default")}
        found["schema"] = rest | (kinds[0] if len(kinds) == 1 else {"anyOf": kinds})
    return found


def _read_headers(operation: Operation[Any, Any]) -> list[dict[str, Any]]:
    if operation.method != "GET" or operation.public:
        return []
    return [
        {"name": name, "in": "header", "required": False, "description": text, "schema": schema}
        for name, text, schema in _READ_HEADERS
    ]


def _responses(operation: Operation[Any, Any], schema: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    problems = dict(_ALWAYS)
    if not operation.public:
        problems |= _TENANT
    if operation.permission:
        problems |= _PERMITTED
    if operation.counted:
        problems |= _COUNTED
    if operation.body is not Nothing:
        problems |= _WITH_BODY
    for status, text in sorted((problems | dict(operation.problems)).items()):
        content = {"application/problem+json": {"schema": schema(ProblemDetails)}}
        found[str(status)] = {"description": text, "content": content}
    if operation.method == "GET" and (operation.cache is not None or not operation.public):
        found["304"] = {
            "description": "What If-None-Match names is still so.",
            "headers": {name: _ANSWER_HEADERS[name] for name in ("ETag", "Cache-Control")},
        }
    for status, answer in operation.answers.items():
        media = "text/plain" if answer.kind is str else "application/json"
        described = {"description": answer.text, "content": {media: {"schema": schema(answer.kind)}}}
        names = _headers_of(operation, status)
        if names:
            described["headers"] = {name: _ANSWER_HEADERS[name] for name in names}
        found[str(status)] = described
    return dict(sorted(found.items()))


def _headers_of(operation: Operation[Any, Any], status: int) -> list[str]:
    if "Idempotency-Key" in operation.header_params:
        return ["WMS-Commit-LSN", "Idempotency-Replayed"]
    if operation.method == "GET" and status == 200 and (operation.cache is not None or not operation.public):
        return ["ETag", "Cache-Control"]
    return []


def _tag(path: str) -> str:
    return path.removeprefix("/api/v1/").strip("/").split("/")[0]
