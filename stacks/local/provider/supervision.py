"""supervisord: the files it reads, starting it, and speaking to it over its unix socket.

Everything that produces text is pure; `Client` and `start` do the rest.
"""

from __future__ import annotations

import http.client
import os
import resource
import shlex
import signal
import socket
import subprocess
import xmlrpc.client
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from stacks.local.provider.accounts import Account
from stacks.local.provider.errors import ProviderError, Unreachable, explained
from stacks.local.provider.homes import node_folder, supervisor_socket
from stacks.local.provider.procfs import Task, end, folder_of, task
from stacks.local.provider.waiting import until

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OPEN_FILES = 65536
"""Wanted limit of open files of every server: poolers and proxies hold two sockets per client."""
LOG_BYTES = 10 * 1024 * 1024
ANSWER_SECONDS = 3.0
"""A supervisord that is silent for so long is taken for dead: it answers within milliseconds."""
ROTATION = "supervisor.rotate"
"""The program that keeps logs small."""
RETRIES = 20
"""Restarts of a crashing program before supervisor gives up (with its growing pauses: about 3.5 minutes)."""

# Fault codes of supervisor's XML-RPC (supervisor/xmlrpc.py, class Faults).
BAD_NAME, ABNORMAL, SPAWN_ERROR, ALREADY_STARTED, NOT_RUNNING, ALREADY_ADDED, STILL_RUNNING = (
    10,
    40,
    50,
    60,
    70,
    90,
    91,
)


def program_name(node: str, name: str) -> str:
    """The program (and group) of one process."""
    return f"{node}.{name}"


def daemon_text(home: str, open_files: int) -> str:
    """supervisord.conf. Its socket is the only way in, and its folder is closed to others, so it needs no
    password.
    """
    return f"""\
; Written by the Pulumi provider wms; changes are lost.
[unix_http_server]
file={supervisor_socket(home)}
chmod=0700

[supervisord]
identifier=wms
directory={home}/supervisor
logfile={home}/supervisor/log/supervisord.log
logfile_maxbytes={LOG_BYTES}
logfile_backups=2
pidfile={home}/supervisor/supervisord.pid
childlogdir={home}/supervisor/log
nodaemon=true
silent=true
umask=077
minfds={open_files}

[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface

[program:{ROTATION}]
command=/bin/sh {home}/supervisor/rotate
directory={home}/supervisor
stopasgroup=true
killasgroup=true
stdout_logfile=NONE
stderr_logfile=NONE

[include]
files={home}/supervisor/conf.d/*.conf
"""


def rotation_text(home: str) -> str:
    """The script that keeps logs small: beyond LOG_BYTES a log is copied away and emptied, two old ones are
    kept.

    Servers append to their logs themselves, for a pipe to supervisord would break with it and take them
    along. Emptied in place, because they keep them open. It ends with its supervisord.
    """
    return f"""\
#!/bin/sh
# Written by the Pulumi provider wms; changes are lost.
supervisord=$PPID
while kill -0 "$supervisord" 2>/dev/null; do
    for log in {home}/supervisor/log/*.*.log; do
        [ -f "$log" ] || continue
        [ "$(stat -c %s "$log")" -gt {LOG_BYTES} ] || continue
        [ ! -f "$log.1" ] || mv -f "$log.1" "$log.2"
        cp "$log" "$log.1" && : > "$log"
    done
    sleep 30
done
"""


def program_text(
    home: str,
    node: str,
    name: str,
    *,
    stop_signal: str,
    stop_seconds: int,
    start_seconds: int,
    autorestart: bool,
) -> str:
    """conf.d/<node>.<name>.conf. Nothing secret: supervisor shows its configuration to whoever asks.

    Programs are not started by supervisord itself, because after its death orphans may still serve: the
    provider ends those first.
    """
    folder = f"{node_folder(home, node)}/{name}"
    program = program_name(node, name)
    return f"""\
; Written by the Pulumi provider wms; changes are lost.
[program:{program}]
command={folder}/run
directory={folder}
environment=WMS_NODE="{node}",WMS_PROCESS="{node}/{name}",HOME="{folder}"
autostart=false
autorestart={"true" if autorestart else "false"}
startsecs={start_seconds}
startretries={RETRIES}
stopsignal={stop_signal}
stopwaitsecs={stop_seconds}
killasgroup=true
stdout_logfile=NONE
stderr_logfile=NONE
"""


def run_text(home: str, node: str, name: str, command: Sequence[str], fingerprint: str) -> str:
    """The script that supervisor runs: it refuses on a fenced node, reads the secrets, and becomes the
    server.
    """
    folder = f"{node_folder(home, node)}/{name}"
    return f"""\
#!/bin/sh
# Written by the Pulumi provider wms; changes are lost.
# configuration {fingerprint}
set -eu
exec >> {log_path(home, node, name)} 2>&1
if [ -e {node_folder(home, node)}/power-off ]; then
    echo "node {node} is powered off" >&2
    exit 78
fi
# Workers that outlive their killed master hold its port, and the next master would fail for ever. They are told by
# two witnesses: this folder and this program.
program=$(readlink -f "$(command -v {shlex.quote(command[0])})")
for left in $(find /proc/[0-9]*/cwd -maxdepth 0 -lname {folder} 2>/dev/null); do
    left=${{left%/cwd}}
    if [ "${{left#/proc/}}" != $$ ] && [ "$(readlink "$left/exe")" = "$program" ]; then
        echo "ending process ${{left#/proc/}}, which a killed predecessor left"
        kill -KILL "${{left#/proc/}}" || true
    fi
done
cd {folder}
if [ -f env ]; then
    set -a
    . ./env
    set +a
fi
export WMS_NODE={node} WMS_PROCESS={node}/{name} HOME={folder}
echo $$ > pid
exec {shlex.join(command)}
"""


def environment_text(environment: Mapping[str, str]) -> str:
    """The file `env` of a process, as shell assignments in the order of their names."""
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in sorted(environment.items()))


def log_path(home: str, node: str, name: str) -> str:
    """Where the output of a process goes."""
    return f"{home}/supervisor/log/{program_name(node, name)}.log"


def last_lines(path: str, count: int = 15) -> str:
    """The last lines of a log, indented; says so when there are none."""
    try:
        with open(path, "rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 16384))
            lines = file.read().decode(errors="replace").splitlines()[-count:]
    except OSError:
        lines = []
    return "\n".join(f"    {line}" for line in lines) if lines else "    (nothing)"


class Connection(http.client.HTTPConnection):
    """HTTP over a unix socket, with a timeout: a frozen supervisord must not freeze us."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)


class Transport(xmlrpc.client.Transport):
    """XML-RPC over a unix socket."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__()
        self.path = path
        self.timeout = timeout

    def make_connection(self, host: Any) -> Connection:
        return Connection(self.path, self.timeout)


@dataclass(frozen=True)
class Info:
    """What supervisor knows of a program. `state` is its statename: RUNNING, STARTING, BACKOFF, STOPPED, …"""

    state: str
    pid: int
    started: int
    exit_status: int
    reason: str


class Client:
    """One supervisord. Every call raises Unreachable when it does not answer."""

    def __init__(self, home: str, timeout: float = 10.0) -> None:
        self.home = home
        self.socket = supervisor_socket(home)
        self.timeout = timeout

    def call(self, method: str, *args: Any) -> Any:
        """One request. Raises xmlrpc.client.Fault for what supervisor refuses."""
        try:
            with xmlrpc.client.ServerProxy(
                "http://localhost", transport=Transport(self.socket, self.timeout)
            ) as proxy:
                return getattr(proxy.supervisor, method)(*args)
        except (OSError, http.client.HTTPException, xmlrpc.client.ProtocolError) as error:
            raise Unreachable(
                f"the supervisor at {self.socket} does not answer ({type(error).__name__})",
                f"Run pulumi up --refresh; its log is {self.home}/supervisor/log/supervisord.log",
            ) from error

    def answers(self) -> bool:
        """Whether it is up and not shutting down."""
        try:
            impatient = Client(self.home, min(self.timeout, ANSWER_SECONDS))
            return bool(impatient.call("getState")["statename"] == "RUNNING")
        except (Unreachable, xmlrpc.client.Fault):
            return False

    def info(self, program: str) -> Info | None:
        """The program's state, or None when supervisor does not know it."""
        try:
            found = cast(dict[str, Any], self.call("getProcessInfo", program))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == BAD_NAME:
                return None
            raise
        return Info(
            found["statename"],
            found["pid"],
            found["start"],
            found["exitstatus"],
            found["spawnerr"] or found["description"],
        )

    def tolerate(self, codes: Sequence[int], method: str, *args: Any) -> None:
        """`call`, taking the faults `codes` as success."""
        try:
            self.call(method, *args)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in codes:
                raise ProviderError(
                    f"supervisor refuses {method}({', '.join(map(repr, args))}): {fault.faultString}",
                    f"Its log is {self.home}/supervisor/log/supervisord.log",
                ) from fault

    def adopt(self, program: str) -> None:
        """Make supervisor read its files again and know `program` (not started)."""
        self.tolerate((), "reloadConfig")
        self.tolerate((ALREADY_ADDED,), "addProcessGroup", program)

    def forget(self, program: str) -> None:
        """Make supervisor forget a stopped program."""
        self.tolerate((BAD_NAME,), "removeProcessGroup", program)

    def start(self, program: str) -> None:
        """Begin to start it; does not wait."""
        self.tolerate((ALREADY_STARTED,), "startProcess", program, False)

    def signal(self, program: str, name: str) -> None:
        """Send it a signal ("HUP")."""
        self.tolerate((), "signalProcess", program, name)

    def stop(self, program: str, seconds: float) -> None:
        """Stop it and wait; supervisor itself kills it after the program's own patience. Unknown ones are
        fine.
        """
        if self.info(program) is None:
            return
        self.tolerate((NOT_RUNNING, BAD_NAME), "stopProcess", program, False)

        def gone() -> bool:
            found = self.info(program)
            return found is None or found.state in ("STOPPED", "EXITED", "FATAL", "UNKNOWN")

        until(gone, seconds=seconds + 15, what=f"the end of {program}", do=f"See {self.home}/supervisor/log")


def environment(home: str) -> dict[str, str]:
    """What supervisord and so every server inherits: nothing of the operator's own environment."""
    return {
        "PATH": PATH,
        "LANG": "C.UTF-8",
        "HOME": f"{home}/supervisor",
        "WMS_HOME": home,
        "PYTHONUNBUFFERED": "1",
    }


def open_files_limit() -> int:
    """The limit of open files that supervisord asks for: OPEN_FILES, or what this machine grants."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def daemon(home: str) -> Task | None:
    """The living supervisord of `home`, or None. Its working directory is the witness
    against a reused pid.
    """
    try:
        with open(f"{home}/supervisor/supervisord.pid", encoding="ascii") as file:
            found = task(int(file.read().strip() or 0))
    except (OSError, ValueError):
        return None
    if found and found.alive and folder_of(found.pid) == f"{home}/supervisor":
        return found
    return None


def start(home: str, python: str, account: Account, seconds: float = 20.0) -> None:
    """Start supervisord, detached from this process, and wait until it answers; one that answers already is
    kept.

    One that is there but silent is replaced; its children live on as orphans.
    Raises ProviderError with the end of its output when it does not come up.
    """
    client = Client(home)
    if client.answers():
        return
    silent = daemon(home)
    if silent:
        # SIGKILL, not SIGTERM: a supervisord that obeys would take every server down with it.
        end([silent], 10.0, signal.SIGKILL)
    log = f"{home}/supervisor/log/start.log"
    with explained(f"cannot start supervisord with {python}"):
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o640)
        try:
            child = subprocess.Popen(
                [
                    *become(account),
                    python,
                    "-m",
                    "supervisor.supervisord",
                    "-c",
                    f"{home}/supervisor/supervisord.conf",
                ],
                stdin=subprocess.DEVNULL,
                stdout=handle,
                stderr=handle,
                cwd=f"{home}/supervisor",
                env=environment(home),
                start_new_session=True,
                umask=0o077,
            )
        finally:
            os.close(handle)

    def ready() -> bool:
        if child.poll() is not None:
            raise ProviderError(
                f"supervisord ended at once (status {child.returncode}); its output ({log}):"
                f"\n{last_lines(log)}"
            )
        return client.answers()

    until(ready, seconds=seconds, what=f"supervisord answering at {client.socket}", do=f"See {log}")


def become(account: Account) -> list[str]:
    """Command prefix that runs the rest as `account`; empty when that is the current user (only root may
    change it).

    util-linux's setpriv rather than Popen's `user`: with the latter Python forks, which gRPC's threads do not
    survive; without it Python uses vfork.
    """
    if account.is_current:
        return []
    groups = ",".join(str(group) for group in sorted(account.groups))
    listed = [f"--groups={groups}"] if groups else ["--clear-groups"]
    return ["/usr/bin/setpriv", f"--reuid={account.uid}", f"--regid={account.gid}", *listed, "--"]
