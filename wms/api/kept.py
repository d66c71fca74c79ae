"""Whole answers of this process, good for as long as the near cache holds what they were made of.

So a read that the near cache answers is neither decoded nor encoded again: it is checked, counted and sent. What an
answer was made of is forgotten by a write, by an event or by its age (wms/cache/near.py), and the answer with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from time import time
from typing import Any

import msgspec

from wms.api.asgi import Headers, Outgoing
from wms.api.conditional import matches
from wms.cache.near import Held

Asked = tuple[int, frozenset[str], str, bytes]
"""Tenant and roles of the principal, path and query string: two tenants never share an answer."""


class Answered(msgspec.Struct, frozen=True):
    """An answer 200, what caches may do with it, and its ETag."""

    outgoing: Outgoing
    caching: Headers
    tag: bytes

    def to(self, headers: Mapping[bytes, bytes]) -> Outgoing:
        """What a request with these headers is sent: 304 when its client has the answer already."""
        return Outgoing(304, self.caching) if matches(headers, self.tag) else self.outgoing


class Kept:
    """At most `size` answers, 0 for none; the least recently used one goes first."""

    def __init__(self, size: int, clock: Callable[[], float] = time) -> None:
        self._size = size
        self._clock = clock
        self._answers: OrderedDict[Asked, tuple[Answered, Held[Any]]] = OrderedDict()

    def get(self, asked: Asked) -> tuple[Answered, Held[Any]] | None:
        """The answer and what it was made of, while it is good."""
        found = self._answers.get(asked)
        if found is None:
            return None
        if found[1].until <= self._clock():
            del self._answers[asked]
            return None
        self._answers.move_to_end(asked)
        return found

    def put(self, asked: Asked, answered: Answered, made_of: Held[Any]) -> None:
        """Keep an answer."""
        self._answers[asked] = (answered, made_of)
        self._answers.move_to_end(asked)
        if len(self._answers) > self._size:
            self._answers.popitem(last=False)
