"""The near cache: the entries that a process used last, for seconds, at the price of a dictionary."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Generic, TypeVar

import msgspec

T = TypeVar("T")
ENTRIES = 10_000
GONE = 0.0


class Held(msgspec.Struct, Generic[T]):
    """A value as it was loaded. Every reader gets this one object, and none of them changes it."""

    value: T
    lsn: int
    """It shows at least what was committed up to here; 0 when nobody knows."""
    until: float
    """When it is believed no more; GONE from the moment that it is dropped, for whoever still has it."""
    kind: str = ""
    """Of its key, for metrics."""


class Near:
    """At most `size` entries, 0 for none; the least recently used one goes first."""

    def __init__(self, size: int = ENTRIES) -> None:
        self._size = size
        self._held: OrderedDict[str, Held[Any]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str, now: float) -> Held[Any] | None:
        """The entry, if it is still believed."""
        found = self._held.get(key)
        if found is None:
            return None
        if found.until <= now:
            self.drop(key)
            return None
        self._held.move_to_end(key)
        return found

    def put(self, key: str, held: Held[Any]) -> None:
        """Keep an entry."""
        self.drop(key)
        self._held[key] = held
        if len(self._held) > self._size:
            self.drop(next(iter(self._held)))

    def drop(self, key: str) -> None:
        """Forget an entry."""
        held = self._held.pop(key, None)
        if held is not None:
            held.until = GONE

    def clear(self) -> None:
        """Forget everything."""
        for key in list(self._held):
            self.drop(key)
