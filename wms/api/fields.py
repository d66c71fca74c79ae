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
MAX_QUERY_BYTES = 4096
"""Far above a cursor with every filter beside it."""
MAX_BODY_DEPTH = 16
"""Objects and lists within each other: the deepest body that is declared has four."""

_PLACE = re.compile(r" - at `\$\.?([^`]*)`$")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = re.compile(r"\[[^\]]*\]|[^.\[\]]+")
_NAMED = re.compile(r"(?:unknown|missing required) field `([^`]*)`")


def query(raw: bytes, path: Mapping[str, Any], kind: type[S]) -> S:
    """The parameters of a request, from its query string and its path. Raises Problem 400."""
    values: dict[str, Any] = {}
    if len(raw) > MAX_QUERY_BYTES:
        raise Problem(
            400, "invalid-request", f"the query string is too long; allowed: {MAX_QUERY_BYTES} bytes"
        )
    if raw:
        try:
            pairs = _pairs(raw.decode("ascii"))
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


def _pairs(text: str) -> list[tuple[str, str]]:
    """Names and values of a query string. Raises ValueError."""
    if "%" in text or "+" in text or text.count("&") >= MAX_QUERY_FIELDS:
        return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)
    # Nothing is escaped, as in most requests, and splitting takes a third of the time.
    split = (field.partition("=") for field in text.split("&") if field)
    return [(name, value) for name, _, value in split]


def body(raw: bytes, kind: Any) -> Any:
    """The JSON body as `kind`. Raises Problem 400."""
    if deeper(raw, MAX_BODY_DEPTH):
        raise wrong_field("(whole)", "body", "nested too deeply", f"{MAX_BODY_DEPTH} objects and lists deep")
    try:
        return msgspec.json.decode(raw, type=kind)
    except msgspec.ValidationError as error:
        field, detail = _where(str(error))
        variant = _variant(raw)
        if "unknown field" in detail:
            allowed = _names(kind, {}, variant, within=field.rpartition(".")[0])
        else:
            allowed = describe(kind, field, variant)
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


def deeper(raw: bytes, limit: int) -> bool:
    """Whether JSON text nests objects and lists more than `limit` deep.

    Without decoding it and without a loop over characters: innermost pairs are removed `limit` times, and of what is
    not deeper nothing is left.
    """
    if raw.count(b"[") + raw.count(b"{") <= limit:
        return False
    brackets = _STRING.sub(b"", raw).translate(None, _NO_BRACKETS)
    # As one kind: whether they match is the decoder's business.
    brackets = brackets.translate(bytes.maketrans(b"{}", b"[]"))
    for _ in range(limit):
        brackets = brackets.replace(b"[]", b"")
        if not brackets:
            return False
    # A pair that is left is one level too deep; openings that are never closed are malformed, and may be deep.
    return b"[]" in brackets or brackets.count(b"[") > limit


def describe(kind: Any, field: str, variant: str = "") -> str:
    """What `field` of `kind` may be, in words; of a tagged union, in the variant with this tag."""
    schema = _at(kind, field, variant)
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


def _names(kind: Any, path: Mapping[str, Any], variant: str = "", within: str = "") -> str:
    """The fields of `kind`, or of what is at `within`, that are not in the path."""
    properties = _at(kind, within, variant).get("properties", {})
    return ", ".join(name for name in properties if name not in path) or "none"


def _at(kind: Any, field: str, variant: str = "") -> dict[str, Any]:
    """JSON Schema of what is at `field` (lines[0].sku) of `kind`; empty when nothing is declared there."""
    components = _components(kind)
    found: dict[str, Any] = {"properties": _properties(kind, variant)}
    for step in _STEP.findall(field):
        found = found.get("items", {}) if step[0] == "[" else found.get("properties", {}).get(step, {})
        if "$ref" in found:
            found = components[found["$ref"].rpartition("/")[2]]
    return found


@cache
def _components(kind: Any) -> dict[str, Any]:
    return msgspec.json.schema_components([kind])[1]


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
