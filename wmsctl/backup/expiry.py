"""Removes what a plan lets go: one backup after the other, and looks after each that nothing else went with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wmsctl.backup import wal
from wmsctl.backup.catalogue import Backup, Catalogue, dependents, index
from wmsctl.backup.engine import Engine
from wmsctl.backup.observe import Seen, look
from wmsctl.backup.retention import Floor, Key, Plan
from wmsctl.backup.wal import Segment
from wmsctl.errors import Failed, Refused
from wmsctl.steps import Steps

Place = tuple[int, str]
"""Repository and archive."""


@dataclass
class Outcome:
    """What is gone."""

    backups: list[Backup] = field(default_factory=list)
    segments: dict[int, int] = field(default_factory=dict)
    """Repository → WAL segments."""
    warnings: list[str] = field(default_factory=list)


def foretell(seen: Seen, plan: Plan) -> dict[Place, frozenset[Segment]]:
    """The WAL segments that pgBackRest will remove when it is told the plan's floors.

    It keeps the WAL from the floor on, and of older backups what makes each consistent. An archive of an earlier
    database (after a stanza-upgrade) keeps it from its own newest backup on, and goes when it has none.
    """
    going = {backup.key for backup in plan.expire}
    found: dict[Place, frozenset[Segment]] = {}
    for floor in plan.floors:
        kept = [b for b in seen.catalogue.of(floor.repo) if b.key not in going]
        for (repo, name), follower in seen.archives.items():
            if repo != floor.repo:
                continue
            local = sorted((b for b in kept if b.archive == name), key=lambda b: b.label)
            if not local:
                current = max(int(a.split("-")[1]) for r, a in seen.archives if r == repo)
                gone = follower.archive.segments if int(name.split("-")[1]) < current else ()
                found[repo, name] = frozenset(gone)
                continue
            first = next((b for b in local if b.label >= floor.label), local[-1])
            backups = [(b.label, b.wal_start, b.wal_stop) for b in local]
            found[repo, name] = (
                wal.expired(follower.archive, backups, first.label, first.wal_start)
                if first.wal_start
                else frozenset()
            )
    return found


def counted(segments: Mapping[Place, frozenset[Segment]]) -> dict[int, int]:
    """Repository → how many."""
    found: dict[int, int] = {}
    for (repo, _), each in segments.items():
        found[repo] = found.get(repo, 0) + len(each)
    return found


def apply(engine: Engine, plan: Plan, steps: Steps, *, segment_bytes: int = wal.SEGMENT_BYTES) -> Outcome:
    """Carry out a plan that was confirmed. The caller holds the locks.

    Raises Refused before the first removal when the catalogue is no longer the one that was planned for, Failed when
    more went than was to go. What a run that died has not removed, the next plan finds again.
    """
    outcome = Outcome()
    present = index(engine.catalogue().backups)
    _unchanged(plan, present)
    for backup in plan.expire:
        lost = dependents(backup, present)
        if lost:
            labels = ", ".join(other.label for other in lost)
            raise Refused(f"{backup.name} is needed by {labels}, made since: nothing more is removed")
        with steps.step(f"expire:repo{backup.repo}:{backup.label}", f"removing {backup.name}"):
            engine.expire(backup.repo, backup.label)
            after = index(engine.catalogue().backups)
        _only(backup, present, after)
        present = after
        outcome.backups.append(backup)
    for floor in plan.floors:
        _wal(engine, plan, floor, steps, outcome, segment_bytes)
    return outcome


def _unchanged(plan: Plan, present: Mapping[Key, Backup]) -> None:
    """What was decided on is there; what came since depends on nothing that goes."""
    planned = {decision.backup.key for decision in plan.decisions}
    gone = planned - set(present)
    going = {backup.key for backup in plan.expire}
    fresh = [b for key, b in present.items() if key not in planned and (b.repo, b.prior) in going]
    if gone or fresh:
        what = f"repo{min(gone)[0]} {min(gone)[1]} is gone" if gone else f"{fresh[0].name} was made"
        raise Refused(
            f"the repositories have changed since this was planned: {what}; nothing was removed",
            hint="plan again: wmsctl backup expire --dry-run",
        )


def _only(backup: Backup, before: Mapping[Key, Backup], after: Mapping[Key, Backup]) -> None:
    vanished = set(before) - set(after)
    if vanished == {backup.key}:
        return
    others = ", ".join(sorted(label for repo, label in vanished if (repo, label) != backup.key))
    if backup.key not in vanished:
        raise Failed(f"{backup.name} is still there after it was removed", hint="wmsctl backup list")
    raise Failed(
        f"with {backup.name} went {others}, which was not planned; nothing more is removed",
        hint="something else works on the repository: wmsctl backup list",
    )


def _wal(
    engine: Engine, plan: Plan, floor: Floor, steps: Steps, outcome: Outcome, segment_bytes: int
) -> None:
    """Remove the WAL below one floor, if there is any, and compare what went with what was foretold."""
    before = look(engine, segment_bytes=segment_bytes)
    foretold = {p: s for p, s in foretell(before, plan).items() if p[0] == floor.repo and s}
    if not foretold:
        return
    count = sum(map(len, foretold.values()))
    # pgBackRest is told a number of backups, so it is counted now, under its own names.
    kept = sum(backup.label >= floor.label for backup in before.catalogue.of(floor.repo))
    message = f"removing {count} WAL segments of repo{floor.repo} from before {floor.label}"
    with steps.step(f"expire-wal:repo{floor.repo}", message, kept=kept, segments=count):
        engine.expire_wal(floor.repo, kept)
        after = look(engine, segment_bytes=segment_bytes)
    for place, planned in foretold.items():
        old = before.archives[place].archive
        left = after.archives[place].archive.segments if place in after.archives else {}
        vanished = set(old.segments) - set(left)
        outcome.segments[floor.repo] = outcome.segments.get(floor.repo, 0) + len(vanished)
        if vanished - planned:
            names = ", ".join(old.name(each) for each in sorted(vanished - planned)[:3])
            raise Failed(
                f"repo{floor.repo} lost WAL that was not to go: {len(vanished - planned)} segments, {names} …",
                hint="see what can still be restored: wmsctl backup verify",
            )
        if planned - vanished:
            outcome.warnings.append(
                f"{len(planned - vanished)} WAL segments of repo{floor.repo} are still there"
            )
    _windows(before.catalogue, after, floor)


def _windows(before: Catalogue, after: Seen, floor: Floor) -> None:
    """Every backup from the floor on is as restorable as it was."""
    for backup in before.of(floor.repo):
        chain = after.chains.get(backup.key)
        if backup.label >= floor.label and chain is not None and not chain.consistent:
            raise Failed(
                f"{backup.name} can no longer be made consistent: {chain.gaps[0]}",
                hint="wmsctl backup verify",
            )
