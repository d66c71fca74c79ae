"""Input decoded into types; a wrong field becomes a problem that names it and what is allowed there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec

from wms.api.problem import FieldError, Problem, wrong_field

S = TypeVar("S")
MAX_QUERY_FIELDS = 32

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_NAMED = re.compile(r"(?:unknown|missing required) field `([^`]*)`")


def query(raw: bytes, path: Mapping[str, Any], kind: type[S]) -> S:
    """The parameters of a request, from its query string and its path. Raises Problem 400."""
    values: dict[str, Any] = {}
    if raw:
        try:
            pairs = parse_qsl(
                raw.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS
            )
        except ValueError as error:
            raise Problem(400, "invalid-request", f"the query string is malformed: {error}") from error
        for name, value in pairs:
            if name in values:
                raise wrong_field(name[:64], "query", "given more than once", "once")
            if name in path:
                raise wrong_field(name[:64], "query", "unknown field", _names(kind, path))
            values[name] = value
    values.update(path)
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        field, detail = _where(str(error))
        location = "path" if field in path else "query"
        allowed = _names(kind, path) if "unknown field" in detail else describe(kind, field)
        raise wrong_field(field, location, detail, allowed) from error


def body(raw: bytes, kind: Any) -> Any:
    """The JSON body as `kind`. Raises Problem 400."""
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        field, detail = _where(str(error))
        variant = _variant(raw)
        allowed = _names(kind, {}, variant) if "unknown field" in detail else describe(kind, field, variant)
        raise wrong_field(field or "(whole)", "body", detail, allowed) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Problem(
            400,
            "malformed-json",
            f"the body is not JSON: {error}",
            errors=(
                FieldError(
                    field="(whole)", location="body", detail="malformed", allowed="a JSON object in UTF-8"
                ),
            ),
        ) from error


def describe(kind: Any, field: str, variant: str = "") -> str:
    """What `field` of `kind` may be, in words; of a tagged union, in the variant with this tag."""
    schema = _properties(kind, variant).get(field.split(".")[0].split("[")[0], {})
    return " or ".join(filter(None, (_words(part) for part in schema.get("anyOf", [schema]))))


def _words(schema: Mapping[str, Any]) -> str:
    if "enum" in schema:
        return "one of " + ", ".join(str(value) for value in schema["enum"])
    match schema.get("type"):
        case "integer":
            low, high = schema.get("minimum"), schema.get("maximum")
            return "an integer" + (f" from {low} to {high}" if low is not None else "")
        case "string":
            text = "a string"
            if "maxLength" in schema:
                text += f" of {schema.get('minLength', 0)} to {schema['maxLength']} characters"
            return text + (f" matching {schema['pattern']}" if "pattern" in schema else "")
        case "null":
            return "null"
        case other:
            return str(other or "")


def _names(kind: Any, path: Mapping[str, Any], variant: str = "") -> str:
    return ", ".join(name for name in _properties(kind, variant) if name not in path) or "none"


@cache
def _properties(kind: Any, variant: str = "") -> dict[str, Any]:
    """JSON Schema of each field of `kind`; the tag of a union is a field that lists all tags."""
    (schema,), components = msgspec.json.schema_components([kind])
    if "discriminator" not in schema and "$ref" in schema:
        return dict(components[schema["$ref"].rpartition("/")[2]].get("properties", {}))
    mapping = schema.get("discriminator", {}).get("mapping", {})
    tag = schema.get("discriminator", {}).get("propertyName", "")
    found: dict[str, Any] = {}
    if variant in mapping:
        found = dict(components[mapping[variant].rpartition("/")[2]]["properties"])
    if tag:
        found[tag] = {"enum": list(mapping)}
    return found


def _variant(raw: bytes) -> str:
    """The value of `type` in a body that is JSON, on the way to an error message."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return ""
    variant = value.get("type") if isinstance(value, dict) else None
    return variant if isinstance(variant, str) and len(variant) <= 64 else ""


def _where(message: str) -> tuple[str, str]:
    """(field, detail) of msgspec's message, whose field is named either at its end or within."""
    place = _PLACE.search(message)
    field = place[1] if place else ""
    detail = message[: place.start()] if place else message
    named = _NAMED.search(detail)
    if named:
        field = f"{field}.{named[1]}" if field else named[1]
        detail = "unknown field" if "unknown" in detail else "missing"
    return field[:128], detail[:300]
