"""The near cache: the entries that a process used last, for seconds, at the price of a dictionary."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

ENTRIES = 10_000


@dataclass(frozen=True, slots=True)
class Held:
    """A value as it was loaded; immutable, because every reader gets this one object."""

    value: Any
    lsn: int
    """It shows at least what was committed up to here; 0 when nobody knows."""
    until: float


class Near:
    """At most `size` entries, 0 for none; the least recently used one goes first."""

    def __init__(self, size: int = ENTRIES) -> None:
        self._size = size
        self._held: OrderedDict[str, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str, now: float) -> Held | None:
        """The entry, if it is still believed."""
        found = self._held.get(key)
        if found is None:
            return None
        if found.until <= now:
            del self._held[key]
            return None
        self._held.move_to_end(key)
        return found

    def put(self, key: str, held: Held) -> None:
        """Keep an entry."""
        self._held[key] = held
        self._held.move_to_end(key)
        if len(self._held) > self._size:
            self._held.popitem(last=False)

    def drop(self, key: str) -> None:
        """Forget an entry."""
        self._held.pop(key, None)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()
