"""Errors as application/problem+json (RFC 9457)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

import msgspec

MEDIA_TYPE = b"application/problem+json"


class FieldError(msgspec.Struct, omit_defaults=True, frozen=True):
    """One wrong field: where it is (`in` body, query, path or header), what is wrong and what is allowed."""

    field: str
    location: str = msgspec.field(name="in")
    detail: str
    allowed: str = ""


class ProblemDetails(msgspec.Struct, omit_defaults=True, frozen=True, rename={"kind": "type"}):
    """The body of every error answer."""

    kind: str
    title: str
    status: int
    detail: str = ""
    request_id: str = ""
    errors: tuple[FieldError, ...] = ()


class Problem(Exception):
    """An error answer: `kind` becomes the last part of its type, a URN that programs compare."""

    def __init__(
        self,
        status: int,
        kind: str,
        detail: str = "",
        *,
        errors: tuple[FieldError, ...] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{status} {kind}: {detail}")
        self.status = status
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = dict(headers or {})

    def body(self, request_id: str) -> bytes:
        """The JSON text."""
        return msgspec.json.encode(
            ProblemDetails(
                kind=f"urn:wms:problem:{self.kind}",
                title=HTTPStatus(self.status).phrase,
                status=self.status,
                detail=self.detail,
                request_id=request_id,
                errors=self.errors,
            )
        )


def wrong_field(field: str, location: str, detail: str, allowed: str, *, status: int = 400) -> Problem:
    """A problem about one field: 400 when its form is wrong, 422 when its value names nothing."""
    kind = "invalid-request" if status == 400 else "unprocessable"
    errors = (FieldError(field=field, location=location, detail=detail, allowed=allowed),)
    return Problem(status, kind, f"{location} field {field}: {detail}", errors=errors)
