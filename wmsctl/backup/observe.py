"""What there is: the catalogue, the WAL in the archives, what is remembered of verifications."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from wmsctl.backup import verification
from wmsctl.backup.catalogue import Backup, Catalogue
from wmsctl.backup.engine import Engine
from wmsctl.backup.retention import Held, Key
from wmsctl.backup.wal import SEGMENT_BYTES, Archive, Chain, Follower, segment


@dataclass(frozen=True)
class Seen:
    """One look at the repositories. What could not be read is in `troubles`, and has nothing in the rest."""

    catalogue: Catalogue
    archives: Mapping[tuple[int, str], Follower]
    """By repository and archive."""
    chains: Mapping[Key, Chain]
    """By backup; those of stopped servers have none."""
    held: tuple[Held, ...]
    troubles: tuple[str, ...]

    def follower(self, backup: Backup) -> Follower | None:
        return self.archives.get((backup.repo, backup.archive))


def look(engine: Engine, *, segment_bytes: int = SEGMENT_BYTES) -> Seen:
    """Read the catalogue and list the archives. Raises what the engine raises when nothing can be read at all."""
    found = engine.catalogue()
    archives = {
        (archive.repo, archive.id): Follower(engine.archive(archive.repo, archive.id, segment_bytes))
        for archive in found.archives
    }
    chains = {
        backup.key: chain
        for backup in found.backups
        if (chain := _chain(engine, backup, archives, segment_bytes)) is not None
    }
    return Seen(
        catalogue=found,
        archives=archives,
        chains=chains,
        held=tuple(known(backup, chains.get(backup.key)) for backup in found.backups),
        troubles=tuple(f"repo{r.key}: {r.trouble}" for r in found.repositories if r.trouble),
    )


def known(backup: Backup, chain: Chain | None) -> Held:
    """A backup with what is remembered of it, and what its WAL says."""
    proof = verification.recall(backup.annotations)
    bad = proof.detail if proof is not None and not proof.whole else ""
    if chain is not None and not chain.consistent:
        bad = bad or f"it cannot be made consistent: {chain.gaps[0]}"
    return Held(
        backup=backup,
        proven=proof.at if proof is not None and proof.whole else None,
        bad=bad,
        reach=chain.until if chain is not None and chain.consistent else None,
    )


def chain_of(
    backup: Backup,
    archives: Mapping[tuple[int, str], Follower],
    segment_bytes: int,
    copies: Callable[[], int],
) -> Chain | None:
    """The WAL behind one backup; None for one of a stopped server, which needs none.

    `copies` tells how many segments the backup holds itself; it is asked only when its archive lacks some.
    """
    if not backup.wal_start:
        return None
    start, stop = segment(backup.wal_start, segment_bytes), segment(backup.wal_stop, segment_bytes)
    follower = archives.get((backup.repo, backup.archive))
    if follower is None:
        follower = Follower(Archive(backup.archive, {}, {}, segment_bytes))
    chain = follower.follow(start, stop, backup.lsn_stop)
    if not chain.consistent and copies() > stop.number - start.number:
        return follower.follow(start, stop, backup.lsn_stop, own=True)
    return chain


def _chain(
    engine: Engine, backup: Backup, archives: Mapping[tuple[int, str], Follower], segment_bytes: int
) -> Chain | None:
    return chain_of(
        backup, archives, segment_bytes, lambda: engine.manifest(backup.repo, backup.label).wal_copies
    )
