"""What stands in Redis under a key: one line that says what it is, then the value as JSON. Pure.

    V <expires ms> <created ms> <took us> <lsn> <nonce>\\n<JSON>     a value
    N <the same>\\n                                                  there is none (negative)
    X 0 <created ms> 0 <lsn> <nonce>\\n                              invalidated by a write that committed at <lsn>

Times are of the Unix clock. The line is also what a writer compares before it replaces an entry: the nonce makes it
unique. `wmsctl cache explain` reads it too, so it is text.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

State = Literal["V", "N", "X"]

# Fills an entry only if it is as the reader found it: whoever has written or invalidated it meanwhile knows better.
# This is the lease of Nishtala et al., Scaling Memcache at Facebook (NSDI 2013), without a second key.
# ARGV: the line found ('' for nothing), the new entry, its lifetime in ms.
FILL = """
local seen = ARGV[1]
if seen == '' then
  if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
elseif redis.call('GETRANGE', KEYS[1], 0, #seen - 1) ~= seen then
  return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
"""

# Leaves a tombstone, unless the entry is known to show the write already. Numbers up to 2^53 are exact in Lua: 8 PiB
# of WAL. ARGV: the tombstone, its lifetime in ms, its LSN.
INVALIDATE = """
local head = redis.call('GETRANGE', KEYS[1], 0, 127)
local state, lsn = string.match(head, '^(%u) %d+ %d+ %d+ (%d+) ')
if state and tonumber(ARGV[3]) > 0 and tonumber(lsn) >= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A decoded entry; times in seconds."""

    state: State
    expires: float
    created: float
    took_s: float
    lsn: int
    line: bytes
    """For the comparison in FILL."""
    body: bytes


def encode(state: State, expires: float, created: float, took_s: float, lsn: int, value: Any = None) -> bytes:
    """An entry; `value` only for V."""
    line = (
        f"{state} {_ms(expires)} {_ms(created)} {round(took_s * 1e6)} {lsn} {secrets.token_hex(6)}\n".encode()
    )
    return line + msgspec.json.encode(value) if state == "V" else line


def decode(raw: bytes) -> Entry | None:
    """The entry that `raw` is, or None for something else: it counts as nothing, and is overwritten."""
    line, separator, body = raw.partition(b"\n")
    parts = line.split(b" ")
    if (
        len(parts) != 6
        or parts[0] not in (b"V", b"N", b"X")
        or not all(part.isdigit() for part in parts[1:5])
    ):
        return None
    state: State = "V" if parts[0] == b"V" else "N" if parts[0] == b"N" else "X"
    expires, created, took, lsn = (int(part) for part in parts[1:5])
    return Entry(state, expires / 1000, created / 1000, took / 1e6, lsn, line + separator, body)


def lsn_of(text: str | None) -> int:
    """PostgreSQL's X/Y as a number; 0 for none. Raises ValueError for anything else."""
    if not text:
        return 0
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    """The opposite of `lsn_of`."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
