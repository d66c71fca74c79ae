"""Which endpoint answers a request.

Most requests are for a path without parameters, which is found in one look. Of the templates with parameters those with
as many segments, and the same first ones, are compared: a handful, whatever the number of routes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from wms.api.problem import Problem

FIXED = 4
"""So many segments of a template are never parameters: /api/v1/orders has them, the first one being empty."""


class Routed(Protocol):
    """What answers a method and a path template, /api/v1/orders/{order_id}."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str: ...


E = TypeVar("E", bound=Routed)


class NoRoute(Problem):
    """404 when there is no such path, 405 when it has other methods."""


class Routes(Generic[E]):
    """Finds endpoints; of several for one path and method the first one."""

    def __init__(self, endpoints: Iterable[E]) -> None:
        self._paths: dict[str, dict[str, E]] = {}
        self._templates: dict[tuple[int, str], list[tuple[list[str], dict[str, E]]]] = {}
        """By number of segments and the fixed ones; each template with the endpoints of its methods."""
        for endpoint in endpoints:
            self._methods(endpoint.path).setdefault(endpoint.method, endpoint)
            if endpoint.method == "GET":
                # The server leaves the body out.
                self._methods(endpoint.path).setdefault("HEAD", endpoint)

    def _methods(self, path: str) -> dict[str, E]:
        """The endpoints of a template so far."""
        if "{" not in path:
            return self._paths.setdefault(path, {})
        segments = path.split("/")
        if any("{" in segment for segment in segments[:FIXED]):
            raise ValueError(f"{path}: a parameter among the first {FIXED} segments would never be found")
        templates = self._templates.setdefault(_shape(segments), [])
        for known, methods in templates:
            if known == segments:
                return methods
        templates.append((segments, {}))
        return templates[-1][1]

    def find(self, method: str, path: str) -> tuple[E, Mapping[str, str]]:
        """The endpoint and the parameters in the path. Raises NoRoute."""
        fixed = self._paths.get(path)
        methods, params = (fixed, _NONE) if fixed is not None else self._match(path)
        endpoint = methods.get(method)
        if endpoint is None:
            raise NoRoute(405, "method-not-allowed", headers={"Allow": ", ".join(sorted(methods))})
        return endpoint, params

    def _match(self, path: str) -> tuple[Mapping[str, E], Mapping[str, str]]:
        segments = path.split("/")
        for template, methods in self._templates.get(_shape(segments), ()):
            params = {}
            for wanted, found in zip(template, segments, strict=True):
                if wanted[:1] == "{" and found:
                    params[wanted[1:-1]] = found
                elif wanted != found:
                    break
            else:
                return methods, params
        raise NoRoute(404, "not-found", "no such resource; see /api/v1/openapi.json")


_NONE: Mapping[str, str] = {}


def _shape(segments: list[str]) -> tuple[int, str]:
    return len(segments), "/".join(segments[:FIXED])
