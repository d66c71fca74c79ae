"""What differs between two sets of plain values, key by key, so that a preview shows exactly the changed
setting.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["add", "delete", "update"]

BARE = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")


@dataclass(frozen=True)
class Change:
    """One difference. `replace`: the resource must be made anew. `by_input`: the program asked for it (else
    drift).
    """

    kind: Kind
    replace: bool = False
    by_input: bool = True


@dataclass(frozen=True)
class Difference:
    """All changes by property path ("config.postgresql.parameters.shared_buffers",
    "nodes[2]", `env["a.b"]`).
    """

    changes: Mapping[str, Change] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.changes)

    @property
    def replaces(self) -> list[str]:
        """Paths whose change needs a replacement."""
        return [path for path, change in self.changes.items() if change.replace]


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Kind]:
    """Paths that differ from `old` to `new`, with how. An unknown value counts as
    different from everything.
    """
    return dict(walk(old, new, ""))


def walk(old: Any, new: Any, path: str) -> Iterator[tuple[str, Kind]]:
    """Yield (path, kind) for each innermost difference below `path`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in [*old, *(key for key in new if key not in old)]:
            inner = join(path, key)
            if key not in new:
                yield inner, "delete"
            elif key not in old:
                yield inner, "add"
            else:
                yield from walk(old[key], new[key], inner)
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            inner = f"{path}[{index}]"
            if index >= len(new):
                yield inner, "delete"
            elif index >= len(old):
                yield inner, "add"
            else:
                yield from walk(old[index], new[index], inner)
    elif old != new or (type(old) is not type(new) and not (is_number(old) and is_number(new))):
        yield path, "update"


def is_number(value: Any) -> bool:
    """Whether `value` is a number: Pulumi knows only one kind of them."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def join(path: str, key: str) -> str:
    """`path` extended by `key`, in Pulumi's property path syntax."""
    if BARE.match(key):
        return f"{path}.{key}" if path else key
    escaped = key.replace("\\", "\\\\").replace('"', '\\"')
    return f'{path}["{escaped}"]'
