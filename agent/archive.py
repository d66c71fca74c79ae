"""What the WAL archive needs of a node beside PostgreSQL's own archiver.

1. A replica may read the archive only when it has not streamed for a long time. The file `fallback` says so to
   restore_command. Otherwise each start and each promotion would ask the store for what it cannot have.
2. A new primary sends what its predecessor had not archived yet. PostgreSQL takes WAL that was streamed to a replica
   for archived, so the segments that waited on a lost primary would be missing for ever.
"""

from __future__ import annotations

import json
import logging
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import psycopg

INTERVAL_S = 1.0
LOOK_S = 5.0
"""Between two looks whether a replica streams."""
RETRY_S = 15.0
"""Between two attempts to learn what is in the archive."""
COMMAND_S = 60.0

SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
STREAMING = "SELECT count(*) FROM pg_stat_wal_receiver WHERE status = 'streaming'"

logger = logging.getLogger(__name__)


class ArchiveKeeper(threading.Thread):
    """Keeps both promises. `command` is pgBackRest with its configuration and stanza."""

    def __init__(
        self,
        is_primary: Callable[[], bool],
        socket: str,
        port: int,
        data_dir: str,
        command: Sequence[str],
        fallback: Path,
        fallback_after_s: float,
    ) -> None:
        super().__init__(name="archive", daemon=True)
        self._is_primary = is_primary
        self._socket, self._port = socket, port
        self._wal = Path(data_dir, "pg_wal")
        self._command = list(command)
        self._fallback, self._fallback_after_s = fallback, fallback_after_s
        self._streamed = self._looked = time.monotonic()
        self._next_attempt: float | None = 0.0
        """When to look for unsent segments again; None when that is done for this time as primary."""

    def run(self) -> None:
        """Never returns; ends with the process."""
        while True:
            try:
                self.turn(time.monotonic())
            except Exception as error:
                # Whatever it is, Patroni's process goes on, and so does this thread.
                logger.warning("archive: %s: %s", type(error).__name__, error)
            time.sleep(INTERVAL_S)

    def turn(self, now: float) -> None:
        """One look at moment `now` (monotonic)."""
        if self._is_primary():
            self._streamed = self._looked = now
            self._fallback.unlink(missing_ok=True)
            if self._next_attempt is not None and now >= self._next_attempt:
                self._next_attempt = None if self._send_what_is_missing() else now + RETRY_S
            return
        self._next_attempt = 0.0
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        if self._streams():
            self._streamed = now
            if self._fallback.exists():
                logger.info("archive: streaming again, the archive is not asked any more")
                self._fallback.unlink(missing_ok=True)
        elif now - self._streamed >= self._fallback_after_s and not self._fallback.exists():
            logger.info(
                "archive: nothing streamed for %.0f s, so the archive may be asked", now - self._streamed
            )
            self._fallback.touch(mode=0o600)

    def _streams(self) -> bool:
        try:
            with psycopg.connect(
                host=self._socket,
                port=self._port,
                dbname="postgres",
                user="postgres",
                application_name="archive",
                connect_timeout=2,
                autocommit=True,
                options="-c statement_timeout=2000",
            ) as connection:
                row = connection.execute(STREAMING).fetchone()
                return bool(row and row[0])
        except psycopg.Error:
            return False  # it starts, or it is not there

    def _send_what_is_missing(self) -> bool:
        """Mark segments of ended timelines that the archive lacks as to be archived; False when it cannot be asked."""
        names = [path.name for path in self._wal.iterdir()]
        wanted = ended(names, self._history(names), self._segment_size(names))
        if not wanted:
            return True
        archived = self._archived({name[:16] for name in wanted})
        if archived is None:
            return False
        for name in wanted:
            if name not in archived:
                mark_ready(self._wal, name)
                logger.info("archive: sending %s, which the last primary had not archived", name)
        return True

    def _history(self, names: Iterable[str]) -> str:
        """The newest timeline's history; empty on the first timeline."""
        newest = max((name for name in names if re.fullmatch(r"[0-9A-F]{8}\.history", name)), default="")
        return (self._wal / newest).read_text() if newest else ""

    def _segment_size(self, names: Iterable[str]) -> int:
        one = next((name for name in names if SEGMENT.match(name)), "")
        return (self._wal / one).stat().st_size if one else 0

    def _archived(self, folders: Iterable[str]) -> set[str] | None:
        """Names of the segments in the archive below `folders` (their first 16 digits); None when nobody tells."""
        found: set[str] = set()
        document = self._ask("info", "--output=json")
        if not document or not document[0]["archive"]:
            return None
        stanza, version = document[0]["name"], document[0]["archive"][-1]["id"]
        for folder in sorted(folders):
            listed = self._ask("repo-ls", "--output=json", f"archive/{stanza}/{version}/{folder}")
            if listed is None:
                return None
            found |= {name[:24] for name in listed if SEGMENT.match(name[:24]) and ".partial" not in name}
        return found

    def _ask(self, command: str, *options: str) -> Any:
        try:
            done = subprocess.run(
                [*self._command, command, *options],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=COMMAND_S,
                check=True,
            )
            return json.loads(done.stdout)
        except (OSError, ValueError, subprocess.SubprocessError):
            return None


def ended(names: Iterable[str], history: str, segment_size: int) -> list[str]:
    """The whole segments among `names` (of pg_wal) that belong to timelines which have ended, in order.

    `history` is the text of the current timeline's history file, with lines of "timeline, position at which it ended,
    reason". The segment in which a timeline ended is not whole; the timeline after it has it.
    """
    ends: dict[int, int] = {}
    for line in history.splitlines():
        parts = line.split()
        if len(parts) >= 2 and parts[0].isdigit():
            upper, _, lower = parts[1].partition("/")
            ends[int(parts[0])] = (int(upper, 16) << 32) + int(lower, 16)
    found = []
    for name in names:
        if SEGMENT.match(name):
            timeline, high, low = (int(name[at : at + 8], 16) for at in (0, 8, 16))
            start = (high << 32) + low * segment_size
            if timeline in ends and start + segment_size <= ends[timeline]:
                found.append(name)
    return sorted(found)


def mark_ready(wal: Path, name: str) -> None:
    """Tell PostgreSQL's archiver to archive a segment that counts as archived.

    Renamed, because between two steps the segment could be recycled. A mark without a segment harms nothing: the
    archiver removes it.
    """
    done, ready = (wal / "archive_status" / f"{name}{suffix}" for suffix in (".done", ".ready"))
    try:
        done.rename(ready)
    except FileNotFoundError:
        ready.touch(mode=0o600)
