"""A recovery: what the server is started with, what its log tells, and whether the target was reached. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from wmsctl.backup import wal
from wmsctl.backup.catalogue import printable
from wmsctl.backup.restore_plan import RestorePlan
from wmsctl.clients.postgres import lsn_text
from wmsctl.errors import Failed

CONTROL = {
    "max_connections setting": "max_connections",
    "max_worker_processes setting": "max_worker_processes",
    "max_wal_senders setting": "max_wal_senders",
    "max_prepared_xacts setting": "max_prepared_transactions",
    "max_locks_per_xact setting": "max_locks_per_transaction",
}
"""pg_controldata's name → the setting that recovery needs at least as high as the primary had it."""

MEANINGS: tuple[tuple[str, str, str], ...] = (
    (
        r"recovery ended before configured recovery target was reached",
        "WAL ended before {target} was reached: nothing was committed after it",
        "to restore as far as there is WAL: --to latest",
    ),
    (
        r"requested recovery stop point is before consistent recovery point",
        "{target} is before the end of {backup}",
        "name an older backup (--set); see: wmsctl backup list",
    ),
    (
        r"requested timeline \d+ (is not a child of this server's history|does not contain minimum recovery point)",
        "{backup} is not on the way to timeline {timeline}",
        "name another backup (--set) or timeline (--timeline)",
    ),
    (
        r"could not locate (required checkpoint record|a valid checkpoint record)|invalid checkpoint record",
        "the WAL at the beginning of {backup} could not be fetched",
        "prove the backup: wmsctl backup verify",
    ),
    (r"No space left", "no space is left where it is restored", "free some, then run it again"),
)
"""(what the server's log says, message, next step); the first that fits."""


@dataclass
class Log:
    """The server's log, read as it grows."""

    restored: int = 0
    """Segments fetched from the archive."""
    segment: str = ""
    """The last of them."""
    redo: bool = False
    ready: bool = False
    fatal: list[str] = field(default_factory=list)
    _rest: str = ""

    def read(self, text: str) -> None:
        """Take in what was added."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            if found := re.search(r'restored log file "([0-9A-F]{24})" from archive', line):
                self.restored, self.segment = self.restored + 1, found[1]
            elif "redo starts at" in line:
                self.redo = True
            elif "database system is ready to accept connections" in line:
                self.ready = True
            # A client that came too early is no trouble of the server's.
            elif found := re.search(r"(?:FATAL|PANIC):(?! *the database system is) *(.*)", line):
                self.fatal.append(printable(found[1], 300))


@dataclass(frozen=True)
class Reached:
    """Where recovery ended, by the server's own word."""

    lsn: str
    """End of the last record that was replayed."""
    time: datetime | None
    """Of the last commit that was replayed; None when there was none."""
    timeline: int
    """The one that was followed."""
    new_timeline: int
    """The one that the server writes now."""
    reason: str
    """Why recovery ended there, from the history of the new timeline."""


def settings(control: str) -> dict[str, int]:
    """What recovery needs, from the output of pg_controldata. Raises Failed when it is none."""
    values = dict(line.partition(":")[::2] for line in control.splitlines())
    try:
        return {setting: int(values[name]) for name, setting in CONTROL.items()}
    except (KeyError, ValueError) as error:
        raise Failed(f"pg_controldata does not tell of {error}") from error


def configuration(folder: str, data: str, name: str, needed: Mapping[str, int]) -> str:
    """postgresql.conf of a scratch instance: reached by its socket only, it archives nothing and waits for nobody.

    What it is to recover to stands in postgresql.auto.conf, from pgBackRest.
    """
    values = {
        **{setting: str(value) for setting, value in needed.items()},
        "data_directory": f"'{data}'",
        "hba_file": f"'{folder}/pg_hba.conf'",
        "ident_file": f"'{folder}/pg_ident.conf'",
        "listen_addresses": "''",
        "unix_socket_directories": f"'{folder}'",
        "unix_socket_permissions": "0700",
        "cluster_name": f"'scratch {name}'",
        "hot_standby": "off",
        "wal_level": "replica",
        "shared_buffers": "'32MB'",
        "max_wal_size": "'512MB'",
        "autovacuum": "off",
        "jit": "off",
        "logging_collector": "off",
        "log_line_prefix": "'%m [%p] '",
        "timezone": "'UTC'",
        "lc_messages": "'C'",
    }
    return "".join(f"{setting} = {value}\n" for setting, value in values.items())


ISOLATION = {
    "archive_mode": "off",
    "archive_command": "",
    "archive_library": "",
    "listen_addresses": "",
    "primary_conninfo": "",
    "synchronous_standby_names": "",
    "shared_preload_libraries": "",
}
"""Given on the command line, where no file of what was restored can change it."""


def meaning(log: Log, plan: RestorePlan) -> Failed:
    """The error behind a server that ended in recovery."""
    said = " ".join(log.fatal) or "its log says nothing"
    for pattern, message, hint in MEANINGS:
        if re.search(pattern, said):
            text = message.format(target=plan.target, backup=plan.backup.name, timeline=plan.timeline)
            return Failed(f"{text}: {said}", hint=hint)
    return Failed(f"the restored server ended in recovery: {said}", hint="wmsctl backup verify")


def reached(history: str, replayed: str, committed: datetime | None, timeline: int) -> Reached:
    """From the history file of the timeline that is written now, and from where replay ended.

    Raises Failed when the history names no parent: then recovery did not end with a promotion.
    """
    lines = [line.split(None, 2) for line in history.splitlines() if line.strip()]
    if not lines or len(lines[-1]) < 2 or not lines[-1][0].isdigit():
        raise Failed("the restored server has no history of its timeline: recovery was not ended properly")
    last = lines[-1]
    return Reached(replayed, committed, int(last[0]), timeline, last[2].strip() if len(last) > 2 else "")


def prove(plan: RestorePlan, found: Reached, segment_bytes: int = wal.SEGMENT_BYTES) -> None:
    """Raises Failed when what was restored is not what was asked for."""
    wanted, backup = plan.target, plan.backup
    lsn = wal.position(found.lsn) if found.lsn else 0
    wrong = ""
    if found.timeline != plan.timeline:
        wrong = f"timeline {found.timeline} was followed, and not {plan.timeline}"
    elif lsn < backup.lsn_stop:
        wrong = f"replay ended at {found.lsn or 'nothing'}, before the backup's end at {lsn_text(backup.lsn_stop)}"
    elif wanted.at is not None and found.time is not None and found.time > wanted.at:
        wrong = f"a commit of {found.time:%Y-%m-%d %H:%M:%S.%f} UTC is in it"
    elif wanted.lsn is not None and lsn < wanted.lsn:
        wrong = f"replay ended at {found.lsn}"
    elif wanted.kind in ("xid", "name") and wanted.text not in found.reason:
        wrong = f"recovery ended {found.reason}"
    elif wanted.kind == "latest" and plan.wal_last:
        last = wal.segment(plan.wal_last, segment_bytes)
        if (lsn - 1) // segment_bytes < last.number - 1:
            wrong = f"replay ended at {found.lsn}, before segment {plan.wal_last}"
    if wrong:
        raise Failed(
            f"the restored server is not at {wanted}: {wrong}",
            hint="nothing was changed but the scratch instance; prove the backups: wmsctl backup verify",
        )
