"""What the cache's keys, entries and metrics say. Pure; the format is the service's (docs/wmsctl-json.md)."""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from wmsctl.clients.redis import SLOTS
from wmsctl.errors import Usage

NEAR_S = 2.0
"""How long a process may go on answering from its own copy when it hears of no event."""
TOMBSTONE_MS = 60_000
OBJECTIVE = 0.90
"""Row O4."""
WHAT = ("configuration", "layouts", "skus", "all")
REQUEST = "wms:warm:{request}:1"
RESULT = "wms:warm:{request}-result:1"

_KEY = re.compile(
    r"[a-z][a-z-]{0,31}:(?:[a-z][a-z-]{0,31}:)?t[1-9][0-9]{0,18}\.[A-Za-z0-9._-]{1,128}:[1-9][0-9]{0,5}"
)
_SAMPLE = re.compile(r'wms_cache_reads_total\{entity="([^"]*)",layer="([^"]*)"\} (\S+)')
_STATES = {"V": "value", "N": "negative", "X": "invalidated"}


def checked(key: str) -> str:
    """`key` if it is one. Raises Usage with the form."""
    if not _KEY.fullmatch(key):
        raise Usage(
            f"no cache key: {key[:200]!r}",
            hint="the form is service:[entity:]t<tenant>.<identifier>:<version>, such as inventory:sku:t1.SKU-1:1",
        )
    return key


def slot(key: str) -> int:
    """The hash slot of a key: CRC16 (XMODEM) of what stands in its first braces, if something does, else of all of it
    (Redis Cluster specification, "Hash tags").
    """
    start = key.find("{")
    end = key.find("}", start + 1)
    tag = key[start + 1 : end] if start >= 0 and end > start + 1 else key
    return binascii.crc_hqx(tag.encode(), 0) % SLOTS


@dataclass(frozen=True)
class Explained:
    """Where a key is and since when; `lsn`: it shows at least what was committed up to there."""

    key: str
    slot: int
    node: str
    state: str
    """value, negative (there is none), invalidated, absent, or unknown (not an entry of this release)."""
    layer: str
    """Where a read finds it: redis, or database; a near cache may answer for `near_at_most_s` before."""
    age_s: float | None = None
    ttl_s: float | None = None
    loaded_in_ms: float | None = None
    lsn: str = ""
    bytes: int = 0
    near_at_most_s: float = NEAR_S


def explain(key: str, node: str, head: str, size: int, pttl: int, now: float) -> Explained:
    """What the first bytes of an entry, its size, and its rest of life in ms say at the Unix time `now`."""
    if pttl == -2 or not head:
        return Explained(key, slot(key), node, "absent", "database")
    ttl_s = round(pttl / 1000, 3) if pttl >= 0 else None
    parts = head.partition("\n")[0].split(" ")
    if len(parts) != 6 or parts[0] not in _STATES or not all(part.isdigit() for part in parts[1:5]):
        return Explained(key, slot(key), node, "unknown", "database", ttl_s=ttl_s, bytes=size)
    created, took_us, lsn = int(parts[2]), int(parts[3]), int(parts[4])
    return Explained(
        key,
        slot(key),
        node,
        _STATES[parts[0]],
        "database" if parts[0] == "X" else "redis",
        age_s=round(now - created / 1000, 3),
        ttl_s=ttl_s,
        loaded_in_ms=None if parts[0] == "X" else took_us / 1000,
        lsn=f"{lsn >> 32:X}/{lsn & 0xFFFFFFFF:X}" if lsn else "",
        bytes=size,
    )


def tombstone(now: float, nonce: str) -> str:
    """The entry that makes every reader load the key anew; it knows of no LSN."""
    return f"X 0 {round(now * 1000)} 0 0 {nonce}\n"


@dataclass
class Kind:
    """Reads of one kind of key since the processes started, by what answered."""

    entity: str
    near: int = 0
    redis: int = 0
    database: int = 0

    @property
    def hit_rate(self) -> float | None:
        """The share that no database answered; None without reads."""
        total = self.near + self.redis + self.database
        return round((self.near + self.redis) / total, 4) if total else None


@dataclass(frozen=True)
class CacheNode:
    """A Redis node: bytes, keys, and keys that had to go before their time."""

    node: str
    role: str = ""
    used_bytes: int | None = None
    max_bytes: int | None = None
    evicted: int | None = None
    expired: int | None = None
    trouble: str = ""


@dataclass
class Stats:
    """The sum over the services that answered."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    near_entries: int = 0

    def add(self, metrics: str) -> None:
        """Count the metrics of one service, in the Prometheus text format."""
        for line in metrics.splitlines():
            found = _SAMPLE.fullmatch(line)
            if found:
                kind = self.kinds.setdefault(found[1], Kind(found[1]))
                if found[2] in ("near", "redis", "database"):
                    setattr(kind, found[2], getattr(kind, found[2]) + int(float(found[3])))
            elif line.startswith("wms_cache_near_entries "):
                self.near_entries += int(float(line.rpartition(" ")[2]))

    def total(self) -> Kind:
        """All kinds together."""
        every: Iterable[Kind] = self.kinds.values()
        whole = Kind("all")
        for kind in every:
            whole.near += kind.near
            whole.redis += kind.redis
            whole.database += kind.database
        return whole


def node_of_info(node: str, text: str) -> CacheNode:
    """A node by its INFO."""
    info = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    return CacheNode(
        node,
        info.get("role", ""),
        int(info.get("used_memory", 0)),
        int(info.get("maxmemory", 0)),
        int(info.get("evicted_keys", 0)),
        int(info.get("expired_keys", 0)),
    )
