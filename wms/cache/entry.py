"""What stands in Redis under a key: one line that says what it is, then the value as JSON. Pure.

    V <expires ms> <created ms> <took us> <lsn> <nonce>\\n<JSON>     a value
    N <the same>\\n                                                  there is none (negative)
    W <expires ms> <created ms> 0 <lsn> <xid>-<commit>\\n<JSON>      a value that a write left (write-through)
    X 0 <created ms> 0 <lsn> <nonce>\\n                              invalidated by a write that committed at <lsn>

Times are of the Unix clock. V and N show at least what was committed up to <lsn>. W shows at least what was committed
up to <lsn>, when its transaction <xid> held the row, and that transaction's own commit, which is not after <commit>;
not more, for others may have committed to the row between that commit and the moment its LSN was asked for. The line
is also what a writer compares before it replaces an entry: the nonce makes it unique. `wmsctl cache explain` reads it
too, so it is text.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

import msgspec

State = Literal["V", "N", "W", "X"]
_LINES: dict[bytes, State] = {b"V": "V", b"N": "N", b"W": "W", b"X": "X"}

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

# Leaves a tombstone, unless the entry is known to show the write already: by its LSN, or because it is the write's own.
# Numbers up to 2^53 are exact in Lua: 8 PiB of WAL. ARGV: the tombstone, its lifetime in ms, its LSN, the transaction
# that was committed ('' when that is not known).
INVALIDATE = """
local head = redis.call('GETRANGE', KEYS[1], 0, 127)
local state, lsn, nonce = string.match(head, '^(%u) %d+ %d+ %d+ (%d+) (%S+)')
if state == 'W' and ARGV[4] ~= '' and string.match(nonce, '^(%d+)-') == ARGV[4] then return 0 end
if state and tonumber(ARGV[3]) > 0 and tonumber(lsn) >= tonumber(ARGV[3]) then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

# Leaves what a write has made of an entry, in place of everything that was there before the write had its row. Of what
# came after that nobody knows whether it shows this write or is even newer: it gives way to a tombstone, unless it is
# surely newer. ARGV: the entry, its lifetime in ms, its LSN; the tombstone, its lifetime in ms, its LSN.
WRITE = """
local head = redis.call('GETRANGE', KEYS[1], 0, 127)
local state, found = string.match(head, '^(%u) %d+ %d+ %d+ (%d+) ')
local lsn = tonumber(found or 0)
if not state or lsn <= tonumber(ARGV[3]) then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
if state ~= 'W' and lsn < tonumber(ARGV[6]) then redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[5]) end
return 0
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
    xid: int = 0
    """Of W: the transaction that left it."""
    commit: int = 0
    """Of W: an LSN not before its commit."""

    @property
    def least(self) -> int:
        """A server must have replayed so far for a load that is to take the place of this entry."""
        return max(self.lsn, self.commit)


def encode(state: State, expires: float, created: float, took_s: float, lsn: int, value: Any = None) -> bytes:
    """An entry; `value` only for V."""
    line = _line(state, expires, created, took_s, lsn, secrets.token_hex(6))
    return line + msgspec.json.encode(value) if state == "V" else line


def written(expires: float, created: float, lsn: int, xid: int, commit: int, value: Any) -> bytes:
    """The entry that the transaction `xid` leaves, committed not after `commit`; it held the row at `lsn`."""
    return _line("W", expires, created, 0.0, lsn, f"{xid}-{commit}") + msgspec.json.encode(value)


def tombstone(created: float, lsn: int) -> bytes:
    """What stands for "invalidated by a write that committed at `lsn`"."""
    return _line("X", 0.0, created, 0.0, lsn, secrets.token_hex(6))


def decode(raw: bytes) -> Entry | None:
    """The entry that `raw` is, or None for something else: it counts as nothing, and is overwritten."""
    line, separator, body = raw.partition(b"\n")
    parts = line.split(b" ")
    if len(parts) != 6 or parts[0] not in _LINES or not all(part.isdigit() for part in parts[1:5]):
        return None
    state = _LINES[parts[0]]
    expires, created, took, lsn = (int(part) for part in parts[1:5])
    xid = commit = b"0"
    if state == "W":
        xid, _, commit = parts[5].partition(b"-")
        if not xid.isdigit() or not commit.isdigit():
            return None
    return Entry(
        state, expires / 1000, created / 1000, took / 1e6, lsn, line + separator, body, int(xid), int(commit)
    )


def lsn_of(text: str | None) -> int:
    """PostgreSQL's X/Y as a number; 0 for none. Raises ValueError for anything else."""
    if not text:
        return 0
    high, _, low = text.partition("/")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    """The opposite of `lsn_of`."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


def _line(state: State, expires: float, created: float, took_s: float, lsn: int, nonce: str) -> bytes:
    return f"{state} {_ms(expires)} {_ms(created)} {round(took_s * 1e6)} {lsn} {nonce}\n".encode()


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
