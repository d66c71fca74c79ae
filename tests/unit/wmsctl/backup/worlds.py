"""Backups for the tests of schedule and retention: chains as pgBackRest makes them, and random ones."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import strategies as st

from wmsctl.backup.catalogue import Backup, Type
from wmsctl.backup.retention import Held
from wmsctl.backup.simulate import made

KINDS: tuple[Type, ...] = ("full", "diff", "incr")
MONDAY = datetime(2026, 11, 23, tzinfo=UTC)


class Chain:
    """Makes backups one after the other, each based on what pgBackRest would base it on."""

    def __init__(self) -> None:
        self.held: list[Held] = []

    def take(
        self,
        kind: Type,
        at: datetime,
        *,
        repo: int = 1,
        minutes: int = 10,
        proven: bool = True,
        bad: str = "",
        until: datetime | None = None,
    ) -> Backup:
        """One more backup; `until`: how far WAL carries it."""
        mine = [h.backup for h in self.held if h.backup.repo == repo]
        base = [b for b in mine if kind == "incr" or b.type == "full"]
        prior = max(base, key=lambda b: b.started) if kind != "full" else None
        backup = made(repo, kind, at, at + timedelta(minutes=minutes), prior, len(self.held))
        self.held.append(Held(backup, backup.stopped if proven and not bad else None, bad, until))
        return backup

    @property
    def backups(self) -> list[Backup]:
        return [h.backup for h in self.held]

    def spoil(self, backup: Backup, reason: str = "invalid checksum") -> None:
        """A verification has found it damaged."""
        self.held = [
            replace(h, bad=reason, proven=None) if h.backup.key == backup.key else h for h in self.held
        ]


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Held], datetime]:
    """Weeks of backups at odd hours, some bad, some unproven, some beyond WAL, and a moment after them."""
    chain = Chain()
    at = {1: MONDAY, 2: MONDAY}
    for _ in range(draw(st.integers(0, 25))):
        repo = draw(st.sampled_from([1, 1, 1, 2]))
        at[repo] += timedelta(hours=draw(st.sampled_from([1, 6, 6, 18, 30, 24 * 5, 24 * 40])))
        has = any(b.repo == repo for b in chain.backups)
        kind: Type = draw(st.sampled_from(KINDS)) if has else "full"
        chain.take(
            kind,
            at[repo],
            repo=repo,
            proven=draw(st.booleans()),
            bad=draw(st.sampled_from(["", "", "", "", "invalid checksum"])),
        )
    now = max(at.values()) + timedelta(hours=draw(st.sampled_from([1, 20, 24 * 8, 24 * 40, 24 * 400])))
    floor = draw(st.sampled_from([b.started for b in chain.backups] or [now]))
    held = [replace(h, reach=now) if h.backup.started >= floor else h for h in chain.held]
    return draw(st.permutations(held)), now
