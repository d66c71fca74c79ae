"""Scratch instances: a restored server of its own, beside the one of a node, by its socket only.

One is a folder `scratch/<name>` of a PostgreSQL node: data, configuration, log and `state.json`, the operator's word on
what it is. Its processes belong to the node and die with it.
"""

from __future__ import annotations

import json
import re
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wmsctl.backup import recovery
from wmsctl.backup.catalogue import printable
from wmsctl.clients.pgbackrest import Ended, Shell
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unknown, Usage
from wmsctl.inventory import Backup

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}\Z")
SOCKET_BYTES = 107
"""Longest path of a socket that Linux takes."""
COMMAND_S = 30.0
STOP_S = 60.0
LIST = """
for folder in "$0"/*/; do
    [ -e "$folder/state.json" ] || continue
    running=stopped
    if read -r pid < "$folder/data/postmaster.pid" && kill -0 "$pid"; then running=running; fi 2> /dev/null
    set -- $(du -sxB1 "$folder" 2> /dev/null)
    echo "$running ${1:-0} $(tr -d '\\n' < "$folder/state.json")"
done
"""
HBA = "local all all peer map=operator\nlocal replication all reject\n"
IDENT = "operator /^.*$ postgres\n"
"""The folder is open to the servers' user and root alone: either may act as postgres."""


@dataclass(frozen=True)
class Scratch:
    """One instance, as documented for `-o json` (wmsctl.backup.scratch.list/v1)."""

    name: str
    node: str
    state: str
    """restoring (or interrupted in it), ready, or failed."""
    running: bool
    size: int
    """Of its folder, in bytes."""
    target: str
    backup: str
    created: str
    operator: str
    socket: str
    """Folder of its socket."""


class Place:
    """The folder of one scratch instance, and what is done there."""

    def __init__(
        self, shell: Shell, settings: Backup, version: int, node: str, name: str, *, data: str = ""
    ) -> None:
        """`data`: a data folder elsewhere. Raises Usage for a name that will not do, or too long for a socket."""
        if not NAME.match(name):
            raise Usage(
                f"{name!r} is no name of a scratch instance",
                hint="small letters, digits, hyphens; at most 40",
            )
        self._shell, self._process, self.node, self.name = shell, settings.process, node, name
        self.root = f"{shell.folder(node, settings.process).rsplit('/', 1)[0]}/scratch"
        self.folder = f"{self.root}/{name}"
        self.data = data or f"{self.folder}/data"
        self.binaries = f"/usr/lib/postgresql/{version}/bin"
        if len(f"{self.folder}/.s.PGSQL.5432") > SOCKET_BYTES:
            raise Usage(f"the path {self.folder} is too long for a socket", hint="give a shorter --name")

    def state(self, deadline: Deadline) -> dict[str, Any] | None:
        """What state.json says; None when there is no such instance."""
        ended = self.run(["/bin/cat", f"{self.folder}/state.json"], deadline, codes=(0, 1))
        if ended.code != 0:
            return None
        try:
            found: dict[str, Any] = json.loads(ended.output)
        except ValueError:  # torn: it was being made
            return {"state": "restoring"}
        return found

    def free(self, deadline: Deadline) -> int:
        """Bytes that are free where it would be."""
        script = 'd=$0; while [ ! -d "$d" ]; do d=${d%/*}; done; df --output=avail -B1 "$d" | tail -n 1'
        return int(self.run(["/bin/sh", "-c", script, self.folder], deadline).output)

    def used(self, deadline: Deadline) -> int:
        """Bytes that it has already."""
        ended = self.run(["/usr/bin/du", "-sxB1", self.folder], deadline, codes=(0, 1))
        return int(ended.output.split()[0]) if ended.output else 0

    def prepare(self, state: Mapping[str, Any], deadline: Deadline) -> None:
        """Make its folders, whole or what is missing of them."""
        self.folders(deadline)
        self.write("state.json", json.dumps(state), deadline)

    def folders(self, deadline: Deadline) -> None:
        """Make what is missing of its folders."""
        script = 'umask 077; mkdir -p "$0/lock" "$0/spool" "$1"'
        self.run(["/bin/sh", "-c", script, self.folder, self.data], deadline)

    def discard(self, deadline: Deadline) -> None:
        """Remove the folder; data that are elsewhere stay."""
        self.run(["/bin/sh", "-c", 'rm -rf "$0"; rmdir "${0%/*}" 2> /dev/null; :', self.folder], deadline)

    def unarchived(self, deadline: Deadline) -> list[str]:
        """WAL that its server has written and nobody has archived."""
        script = (
            'cd "$0/pg_wal/archive_status" && for f in *.ready; do [ -e "$f" ] && echo "${f%.ready}"; done; :'
        )
        return self.run(["/bin/sh", "-c", script, self.data], deadline).output.decode().split()

    def write(self, name: str, text: str, deadline: Deadline) -> None:
        """Write a file that holds no secret; whole or not at all."""
        script = 'umask 077; printf %s "$1" > "$0.new" && sync "$0.new" && mv "$0.new" "$0"'
        self.run(["/bin/sh", "-c", script, f"{self.folder}/{name}", text], deadline)

    def usable(self, deadline: Deadline) -> bool:
        """Whether pgBackRest will take the data folder for one that it may complete."""
        script = '[ -e "$0/PG_VERSION" ] || [ -e "$0/backup.manifest" ] || [ -z "$(ls -A "$0")" ]'
        return self.run(["/bin/sh", "-c", script, self.data], deadline, codes=(0, 1)).code == 0

    def empty(self, deadline: Deadline) -> None:
        """Remove the data."""
        self.run(["/bin/sh", "-c", 'rm -rf "$0" && mkdir -m 700 "$0"', self.data], deadline)

    def configure(self, deadline: Deadline) -> int:
        """Write the server's files; bytes of a WAL segment."""
        ended = self.run([f"{self.binaries}/pg_controldata", self.data], deadline)
        control = ended.output.decode(errors="replace")
        text = recovery.configuration(self.folder, self.data, self.name, recovery.settings(control))
        self.write("postgresql.conf", text, deadline)
        self.write("pg_hba.conf", HBA, deadline)
        self.write("pg_ident.conf", IDENT, deadline)
        found = re.search(r"Bytes per WAL segment: +(\d+)", control)
        return int(found[1]) if found else 1 << 24

    def start(self, deadline: Deadline, overrides: Mapping[str, str] = recovery.ISOLATION) -> None:
        """Start the server without waiting. It does not end with wmsctl."""
        self.run(["/bin/sh", "-c", ': > "$0"', f"{self.folder}/log"], deadline)
        options = " ".join(
            f"-c {name}='{value}'"
            for name, value in {"config_file": f"{self.folder}/postgresql.conf", **overrides}.items()
        )
        self.run(
            [f"{self.binaries}/pg_ctl", "-D", self.data, "-l", f"{self.folder}/log", "-o", options, "-W", "start"],
            deadline,
        )  # fmt: skip

    def log(self, offset: int, deadline: Deadline) -> bytes:
        """What the server's log has from `offset` on."""
        command = ["/usr/bin/tail", "-c", f"+{offset + 1}", f"{self.folder}/log"]
        return self.run(command, deadline, codes=(0, 1)).output

    def running(self, deadline: Deadline) -> bool:
        ended = self.run([f"{self.binaries}/pg_ctl", "-D", self.data, "status"], deadline, codes=(0, 3, 4))
        return ended.code == 0

    def stop(self, deadline: Deadline, mode: str = "immediate") -> None:
        """End the server, and wait for it. Nothing when it does not run."""
        if not self.running(deadline):
            return
        self.run([f"{self.binaries}/pg_ctl", "-D", self.data, "-m", mode, "-W", "stop"], deadline)
        waiting = deadline.within(STOP_S)
        wait_until(lambda: not self.running(deadline), waiting, 0.2, f"the end of the server of {self.name}")

    def drop(self, deadline: Deadline) -> None:
        """End the server and remove the folder. state.json goes last: what was cut short is still listed."""
        self.stop(deadline)
        script = 'rm -rf "$0/data" && rm -rf "$0" && rmdir "${0%/*}" 2> /dev/null || [ ! -e "$0" ]'
        self.run(["/bin/sh", "-c", script, self.folder], deadline)

    def query(self, sql: str, *, database: str = "postgres", timeout: float = 30.0) -> list[tuple[Any, ...]]:
        """Rows of one statement, as the superuser."""
        from wmsctl.clients.postgres import rows

        with self.connect(database, timeout) as connection:
            return rows(connection, sql)

    @contextmanager
    def connect(self, database: str, timeout: float) -> Iterator[Any]:
        """An autocommit connection during the body, by the socket. Raises Failed with the driver's reason."""
        import psycopg

        try:
            with psycopg.connect(
                host=self.folder,
                port=5432,
                dbname=database,
                user="postgres",
                connect_timeout=10,
                autocommit=True,
                prepare_threshold=None,
                application_name="wmsctl",
                options=f"-c statement_timeout={int(timeout * 1000)}",
            ) as connection:
                yield connection
        except psycopg.Error as error:
            raise Failed(
                f"the scratch instance {self.name} on {self.node}: {printable(str(error))}"
            ) from error

    def run(self, command: Sequence[str], deadline: Deadline, *, codes: Sequence[int] = (0,)) -> Ended:
        """Run a command as the servers' user. Raises Failed for another exit code, Unknown at the deadline."""
        what = f"{command[0].rsplit('/', 1)[-1]} on {self.node}"
        child = self._shell.start(self.node, self._process, command)
        late = threading.Event()

        def end() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(deadline.timeout(7 * 86_400, what), end)
        timer.daemon = True
        timer.start()
        try:
            output, log = child.communicate()
        finally:
            timer.cancel()
            if child.poll() is None:
                child.kill()
                child.wait()
        if late.is_set():
            raise Unknown(
                f"{what} did not end in time and was stopped", hint="run it again with a longer --deadline"
            )
        ended = Ended(child.returncode, output, log.decode(errors="replace"))
        if ended.code not in codes:
            reason = printable(ended.log or ended.output.decode(errors="replace"), 300)
            raise Failed(f"{what} ended with {ended.code}: {reason or 'it said nothing'}")
        return ended


def instances(shell: Shell, settings: Backup, nodes: Sequence[str], deadline: Deadline) -> list[Scratch]:
    """Every scratch instance on nodes that are on."""
    found: list[Scratch] = []
    for node in nodes:
        if not shell.available(node):
            continue
        root = f"{shell.folder(node, settings.process).rsplit('/', 1)[0]}/scratch"
        child = shell.start(node, settings.process, ["/bin/sh", "-c", LIST, root])
        try:
            output, _ = child.communicate(timeout=deadline.timeout(COMMAND_S, f"the list of {node}"))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
            raise Unknown(f"the scratch instances of {node} could not be listed in time") from None
        found += [each for line in output.decode().splitlines() if (each := _parsed(line, node, root))]
    return found


def _parsed(line: str, node: str, root: str) -> Scratch | None:
    running, size, text = line.split(" ", 2)
    try:
        state = json.loads(text)
        return Scratch(
            name=state["name"],
            node=node,
            state=state["state"],
            running=running == "running",
            size=int(size),
            target=state["target"],
            backup=state["backup"],
            created=state["created"],
            operator=state["operator"],
            socket=f"{root}/{state['name']}",
        )
    except (ValueError, KeyError, TypeError):
        return None
