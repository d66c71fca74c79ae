"""Holds the stand-in of the API to the service's own declaration: it refuses what the service refuses, it answers in
the service's shapes, and with those fields of an item that were asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.convertors import Convertor
from starlette.routing import compile_path

from wms.api import commands, fields
from wms.api.app import OPERATIONS
from wms.api.operation import Nothing, Operation
from wms.api.problem import Problem
from wms.api.selection import Selection

_ROUTES = [(operation, *compile_path(operation.path)[::2]) for operation in OPERATIONS]


@dataclass(frozen=True)
class Asked:
    """A request that the service would take."""

    operation: Operation[Any, Any]
    selection: Selection | None

    def answer(self, status: int, content: Any) -> Any:
        """`content` as the service would send it. Raises msgspec.ValidationError when it is none of its answers."""
        msgspec.json.decode(json.dumps(content), type=self.operation.answers[status].kind)
        if self.selection is None:
            return content
        if "pagination" in content:
            return {**content, "data": [self._chosen(item) for item in content["data"]]}
        return self._chosen(content)

    def _chosen(self, item: Mapping[str, Any]) -> dict[str, Any]:
        assert self.selection is not None and self.operation.selection is not None
        left_out = set(self.operation.selection.includes) - self.selection.include
        if self.selection.fields is None:
            return {name: value for name, value in item.items() if name not in left_out}
        return {name: item[name] for _, name in self.selection.fields}


def asked(method: str, path: str, query: str, headers: Mapping[str, str], body: bytes) -> Asked | None:
    """What a request means to the service; None when it has no such resource. Raises Problem as the service does."""
    for operation, pattern, convertors in _ROUTES:
        match = pattern.fullmatch(path)
        if match is None or operation.method != method:
            continue
        values = {name: _plain(convertors[name], text) for name, text in match.groupdict().items()}
        params = fields.query(query.encode(), values, operation.params)
        if operation.body is not Nothing:
            fields.body(body, operation.body)
        if "Idempotency-Key" in operation.header_params:
            commands.idempotency_key({name.encode(): value.encode() for name, value in headers.items()})
        return Asked(operation, operation.selection.chosen(params) if operation.selection else None)
    return None


def _plain(convertor: Convertor[Any], text: str) -> Any:
    return convertor.convert(text)


def refusal(problem: Problem) -> tuple[int, Any]:
    """(status, content) of a problem."""
    return problem.status, json.loads(problem.body("r1"))
