"""Requests for every operation of the API's description, made of the description and a word for each field.

Nothing is listed by operation: an operation that is added is walked, and a field that nobody has given a meaning stops
the walk.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

Words = Mapping[str, Any]
"""Name of a field → its value, or a function that makes one for each request; OMIT leaves the field out."""
OMIT = object()


class Unknown(AssertionError):
    """A field that nobody has said the meaning of."""


@dataclass(frozen=True)
class Request:
    """One request, and the identifiers that are in it: field → value."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: Any
    identifiers: Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """One operation of the description."""

    name: str
    method: str
    path: str
    raw: Mapping[str, Any]
    components: Mapping[str, Any] = field(repr=False)

    @property
    def public(self) -> bool:
        """Whether it asks for no credential."""
        return not self.raw["security"]

    def requests(self, identifiers: Words, others: Words) -> Iterator[Request]:
        """A request for each variant of the body. Raises Unknown."""
        for body in self._bodies():
            yield self._request(body, identifiers, others)

    def identifiers(self, identifiers: Words, others: Words) -> list[str]:
        """Which of `identifiers` occur in its requests, in any variant. Raises Unknown."""
        return sorted({name for made in self.requests(identifiers, others) for name in made.identifiers})

    def _bodies(self) -> list[Any]:
        if "requestBody" not in self.raw:
            return [None]
        schema = self.raw["requestBody"]["content"]["application/json"]["schema"]
        return self._variants(schema)

    def _variants(self, schema: Any) -> list[Any]:
        schema = self._resolved(schema)
        kinds = schema.get("anyOf") or schema.get("oneOf")
        return [self._resolved(kind) for kind in kinds] if kinds else [schema]

    def _resolved(self, schema: Any) -> Any:
        while "$ref" in schema:
            schema = self.components[schema["$ref"].rpartition("/")[2]]
        return schema

    def _request(self, body: Any, identifiers: Words, others: Words) -> Request:
        used: dict[str, Any] = {}

        def word(name: str, schema: Any) -> Any:
            if name in identifiers:
                value = _made(identifiers[name])
                if value is not OMIT:
                    used[name] = value
                return value
            if name in others:
                return _made(others[name])
            schema = self._resolved(schema)
            if "const" in schema:
                return schema["const"]
            if "enum" in schema:
                return schema["enum"][0]
            if schema.get("type") == "array" and "enum" in schema["items"]:
                return schema["items"]["enum"]
            raise Unknown(
                f"{self.name}: the field {name} has no meaning yet: say in the test whether it identifies something "
                "of a tenant, and what to send"
            )

        def filled(name: str, schema: Any) -> Any:
            inner = next(
                (kind for kind in self._variants(schema) if kind.get("type") != "null"),
                self._resolved(schema),
            )
            if name not in identifiers and name not in others:
                if "properties" in inner:
                    return structure(inner)
                if inner.get("type") == "array" and "properties" in self._resolved(inner["items"]):
                    return [structure(self._resolved(inner["items"]))]
            return word(name, inner)

        def structure(schema: Any) -> dict[str, Any]:
            values = {name: filled(name, inner) for name, inner in schema["properties"].items()}
            return {name: value for name, value in values.items() if value is not OMIT}

        places: dict[str, dict[str, Any]] = {"path": {}, "query": {}, "header": {}}
        for parameter in self.raw["parameters"]:
            value = word(parameter["name"], parameter["schema"])
            if value is not OMIT:
                text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
                places[parameter["in"]][parameter["name"]] = text
        target = re.sub(r"{(\w+)}", lambda found: quote(places["path"][found[1]], safe=""), self.path)
        if places["query"]:
            target += "?" + urlencode(places["query"])
        content = None if body is None else structure(body)
        return Request(self.method, target, places["header"], content, used)


def operations(document: Mapping[str, Any]) -> list[Operation]:
    """All operations of a description (OpenAPI 3.1 as wms/api/openapi.py writes it)."""
    return [
        Operation(raw["operationId"], method.upper(), path, raw, document["components"]["schemas"])
        for path, methods in document["paths"].items()
        for method, raw in methods.items()
    ]


def _made(value: Any) -> Any:
    made: Callable[[], Any] | None = value if callable(value) else None
    return made() if made else value
