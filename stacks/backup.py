"""The backup sections of a spec: where backups go, when they are made, how long they are kept (row R5)."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from stacks.units import Bucket, Megabytes, Natural, Port, Positive, Section

Clock = Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]\Z")]
"""A time of day in UTC, HH:MM."""
Wait = Annotated[int, Meta(ge=1, le=86400)]
"""Seconds, whole as pgBackRest wants them."""


class BackupSchedule(Section, frozen=True):
    """Row R5: when backups are made, in UTC."""

    daily: Clock = "00:00"
    """The first of a day: full on `full_day` and while there is none yet, else differential."""
    full_day: Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"] = "sunday"
    """A full one each week, so that what is older can expire to the day without breaking a chain."""
    incremental: Annotated[tuple[Clock, ...], Meta(max_length=23)] = ("06:00", "12:00", "18:00")


class Retention(Section, frozen=True):
    """Row R5: how long each tier is kept."""

    daily_days: Positive = 7
    weekly_weeks: Natural = 4
    monthly_months: Natural = 12
    archive_years: Natural = 7


class Backup(Section, frozen=True):
    """pgBackRest. The first repository lies in `storage.bucket`, the second in a bucket of its own."""

    stanza: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}\Z")] = "wms"
    port: Port = 8432
    """Of the server on each PostgreSQL node through which the others reach its data, by TLS."""
    long_term_bucket: Bucket = "wms-backup-long-term"
    """Of the second repository: monthly backups and the archive."""
    compress_level: Annotated[int, Meta(ge=1, le=19)] = 3
    """Of zst."""
    processes: Annotated[int, Meta(ge=1, le=64)] = 2
    """That copy at once, in a backup and in a restore."""
    archive_processes: Annotated[int, Meta(ge=1, le=64)] = 2
    """That push or fetch WAL at once when more than one segment waits."""
    bundle: bool = True
    """Pack small files into one object. An aborted backup then begins anew instead of going on; for a database of
    hundreds of gigabytes in few large files that is worth more than what the packing saves."""
    switch_wal_s: Annotated[int, Meta(ge=0, le=3600)] = 60
    """A segment is archived at the latest so long after its first record (archive_timeout): what the loss of the whole
    site can cost, since row R3 allows 300."""
    wal_wait_s: Wait = 60
    """How long a backup waits until the WAL that it needs has arrived in the store."""
    push_wait_s: Annotated[int, Meta(ge=1, le=60)] = 10
    """How long PostgreSQL's archiver waits for one segment before it tries again; also what a stop may wait."""
    io_timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 20
    """A store or a node that is silent for so long is unreachable."""
    database_timeout_s: Wait = 1800
    """For a statement of pgBackRest; the longest is the checkpoint at the beginning."""
    fetch_queue_mb: Megabytes = 64
    """Of WAL that is fetched ahead when a replica or a restore reads the archive."""
    waiting_alert_s: Positive = 300
    """WAL that waits for the store longer than this is an alert; row R3."""
    waiting_bound_mb: Megabytes = 4096
    """More WAL than this waiting for the store needs an operator before the disk is full. None of it is ever dropped:
    see docs/adr/0023."""
    newest_age_alert_s: Positive = 28_800
    """The newest backup may be so old: six hours between two, and two for the backup itself."""
    schedule: BackupSchedule = BackupSchedule()
    retention: Retention = Retention()
