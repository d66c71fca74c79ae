"""The stream: one key, entries with the events' sequences as their ids. Pure but for the script's text."""

from __future__ import annotations

import msgspec

from wms.store.events import Event

STREAM = "wms:events:{stream}:1"
"""In the form of row K2; the braces keep what belongs to the stream in its slot."""
MAXLEN = 100_000
"""About so many entries stay: minutes at full load. Who is further behind drops its copies and begins at the end."""

# Appends entries that the stream does not have yet. ARGV: the most entries it keeps, then id, lsn, event by turns.
PUBLISH = """
local added = 0
for i = 2, #ARGV, 3 do
  local done = redis.pcall('XADD', KEYS[1], 'MAXLEN', '~', ARGV[1], ARGV[i], 'lsn', ARGV[i + 1], 'event', ARGV[i + 2])
  if type(done) == 'table' and done.err then
    if not string.find(done.err, 'equal or smaller', 1, true) then return done end
  else
    added = added + 1
  end
end
return added
"""

BUSY_S, IDLE_S, BUSY_FOR_S = 0.01, 0.04, 5.0


def pause_s(since_last_event_s: float) -> float:
    """Seconds between two looks for events: short while they come, longer after a while without any. The mean wait is
    half of it, at the relay and at the consumer each: together far below the objective of 100 ms (row O3).
    """
    return BUSY_S if since_last_event_s < BUSY_FOR_S else IDLE_S


class Delivery(msgspec.Struct, frozen=True):
    """An event as it arrives; `lsn` is not before its commit."""

    event: Event
    lsn: int


def number(entry_id: str) -> int:
    """The sequence in an entry's id, `<sequence>-0`."""
    return int(entry_id.partition("-")[0])


def lsn_in(fields: dict[bytes, bytes]) -> int:
    """The LSN of an entry; 0 for an entry that the relay did not write, or none."""
    try:
        return int(fields[b"lsn"])
    except (KeyError, ValueError):
        return 0


def delivery(fields: dict[bytes, bytes]) -> Delivery | None:
    """The event of an entry, None for an entry that the relay did not write."""
    try:
        return Delivery(msgspec.json.decode(fields[b"event"], type=Event), int(fields[b"lsn"]))
    except (KeyError, ValueError, msgspec.MsgspecError):
        return None
