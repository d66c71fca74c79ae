"""Power over nodes, with real processes in real folders.

The nodes have names that no platform uses, so that not even a broken matcher reaches one that runs on this
machine.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tests.support import builders
from wmsctl import hosts
from wmsctl import inventory as inv
from wmsctl.clients import procfs
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable, Usage
from wmsctl.inventory import LocalHosts

NODE, NEIGHBOUR = "testnode-1", "testnode-10"
SLEEP = [sys.executable, "-S", "-c", "import time; print(1, flush=True); time.sleep(60)"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "nodes" / NODE / "patroni").mkdir(parents=True)
    (tmp_path / "nodes" / NEIGHBOUR / "patroni").mkdir(parents=True)
    return tmp_path


@pytest.fixture
def power(home: Path) -> hosts.LocalPower:
    return hosts.LocalPower(platform(home))


def platform(home: Path, **changes: object) -> inv.Inventory:
    """An inventory of two PostgreSQL nodes below `home`, with addresses where nothing listens."""
    local = LocalHosts(home=str(home), supervisor=str(home / "supervisor.sock"))
    nodes = tuple(
        inv.Node(name=name, role="postgres", zone="a", address="127.99.2.1", processes=("patroni",))
        for name in (NODE, NEIGHBOUR, "testnode-2")
    )
    return builders.inventory(**{"hosts": local, "nodes": nodes, **changes})


@pytest.fixture
def spawn() -> Iterator[object]:
    """Start a process, wait until it runs, and end it after the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(
        cwd: Path | str = "/", command: list[str] | None = None, **environ: str
    ) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            command or SLEEP, cwd=cwd, env={**os.environ, **environ}, stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        assert process.stdout.readline()
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_a_process_belongs_by_its_folder_its_environment_or_its_parent(power, home, spawn) -> None:  # type: ignore[no-untyped-def]
    by_folder = spawn(home / "nodes" / NODE / "patroni")
    folder = home / "nodes" / NODE / "pgbouncer"
    by_environ = spawn("/", WMS_NODE=NODE, WMS_PROCESS=f"{NODE}/pgbouncer", HOME=str(folder))
    # The parent's folder counts, the child has gone elsewhere with an empty environment.
    script = (
        "import subprocess, time\n"
        f"child = subprocess.Popen({SLEEP!r}, cwd='/', env={{}}, stdout=subprocess.PIPE)\n"
        "child.stdout.readline(); print(child.pid, flush=True); time.sleep(60)"
    )
    parent = spawn(home / "nodes" / NODE, [sys.executable, "-S", "-c", script])
    stranger = spawn(home / "nodes" / NEIGHBOUR / "patroni")
    namesake = spawn("/", WMS_NODE=NODE, HOME=f"/other/stack/nodes/{NODE}/patroni")  # of another platform
    nameless = spawn("/", WMS_NODE=NODE)
    found = {process.pid: process.process for process in power.processes(NODE)}
    assert found[by_folder.pid] == "patroni"
    assert found[by_environ.pid] == "pgbouncer"
    assert parent.pid in found
    assert len(found) == 4
    assert not {stranger.pid, namesake.pid, nameless.pid, os.getpid()} & set(found)


def test_kill_fences_kills_everything_and_proves_it(power, home, spawn) -> None:  # type: ignore[no-untyped-def]
    processes = [spawn(home / "nodes" / NODE / "patroni") for _ in range(3)]
    neighbour = spawn(home / "nodes" / NEIGHBOUR / "patroni")
    os.kill(processes[0].pid, signal.SIGSTOP)  # a frozen one dies, too
    evidence = power.kill(NODE, reason="drill", deadline=Deadline.after(5))
    assert evidence.dead
    assert evidence.powered_off
    assert evidence.pids == ()
    assert [p.wait(5) for p in processes] == [-signal.SIGKILL] * 3
    assert neighbour.poll() is None
    file = json.loads((home / "nodes" / NODE / "power-off").read_text())
    assert file["reason"] == "drill"
    assert {"at", "operator", "host"} <= set(file)
    assert power.kill(NODE, reason="again", deadline=Deadline.after(5)).reason.startswith("drill")


def test_kill_spares_the_node_of_that_name_on_another_platform(power, home, spawn, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    elsewhere = tmp_path_factory.mktemp("other") / "nodes" / NODE / "patroni"
    elsewhere.mkdir(parents=True)
    twin = spawn(elsewhere, WMS_NODE=NODE, WMS_PROCESS=f"{NODE}/patroni", HOME=str(elsewhere))
    mine = spawn(home / "nodes" / NODE / "patroni", WMS_NODE=NODE)
    assert power.kill(NODE, reason="x", deadline=Deadline.after(5)).dead
    assert mine.wait(5) == -signal.SIGKILL
    assert twin.poll() is None


def test_who_asks_from_within_the_folder_is_no_part_of_the_node(power, home, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.chdir(home / "nodes" / NODE)
    assert power.processes(NODE) == ()


def test_kill_catches_what_starts_while_it_kills(power, home) -> None:  # type: ignore[no-untyped-def]
    # A supervisor that starts the process again at once, until it sees the fence.
    folder = home / "nodes" / NODE / "patroni"
    keeper = subprocess.Popen(
        [
            "/bin/sh",
            "-c",
            f"while [ ! -e {home}/nodes/{NODE}/power-off ]; do (cd {folder} && exec sleep 60); done; exit 78",
        ],
        cwd="/",
    )
    while not power.processes(NODE):
        time.sleep(0.01)
    assert power.kill(NODE, reason="x", deadline=Deadline.after(5)).dead
    assert keeper.wait(5) == 78
    assert power.prove_dead(NODE).dead


def test_a_living_node_is_not_proven_dead(power, home, spawn) -> None:  # type: ignore[no-untyped-def]
    assert "its power is on" in power.prove_dead(NODE).doubts[0]
    (home / "nodes" / NODE / "power-off").touch()
    assert power.prove_dead(NODE).dead
    process = spawn(home / "nodes" / NODE)
    evidence = power.prove_dead(NODE)
    assert not evidence.dead
    assert evidence.pids == (process.pid,)


def test_an_open_port_is_a_doubt(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        whole = platform(home)
        member = inv.Member(node=NODE, address="127.0.0.1", port=port, api_port=port)
        postgres = msgspec.structs.replace(whole.postgres, members=(member,))
        power = hosts.LocalPower(platform(home, postgres=postgres))
        (home / "nodes" / NODE / "power-off").touch()
        assert power.prove_dead(NODE).doubts == (f"127.0.0.1:{port} is open",)
    assert power.prove_dead(NODE).dead


def test_kill_that_cannot_be_proven_fails_with_the_doubt(power, home, monkeypatch, spawn) -> None:  # type: ignore[no-untyped-def]
    process = spawn(home / "nodes" / NODE)
    monkeypatch.setattr(procfs, "send", lambda processes, number: 0)  # a process that no signal reaches
    with pytest.raises(Failed, match=f"not proven dead: processes live: {process.pid}"):
        power.kill(NODE, reason="x", deadline=Deadline.after(0.1))


def test_freeze_and_thaw(power, home, spawn) -> None:  # type: ignore[no-untyped-def]
    processes = [spawn(home / "nodes" / NODE / "patroni") for _ in range(2)]
    assert power.freeze(NODE, deadline=Deadline.after(2)) == 2
    assert all(process.stopped for process in power.processes(NODE))
    assert power.thaw(NODE, deadline=Deadline.after(2)) == 2
    assert not any(process.stopped for process in power.processes(NODE))
    assert all(process.poll() is None for process in processes)
    with pytest.raises(Refused, match=f"no process of {NEIGHBOUR}"):
        power.freeze(NEIGHBOUR, deadline=Deadline.after(1))


def test_one_process_of_a_node_can_be_killed(power, home, spawn) -> None:  # type: ignore[no-untyped-def]
    (home / "nodes" / NODE / "exporter").mkdir()
    victim, other = spawn(home / "nodes" / NODE / "patroni"), spawn(home / "nodes" / NODE / "exporter")
    assert power.kill_process(NODE, "patroni") == 1
    assert victim.wait(5) == -signal.SIGKILL
    assert other.poll() is None
    with pytest.raises(Usage, match="it runs: exporter"):
        power.kill_process(NODE, "patroni")


def test_a_signal_never_hits_a_successor_of_the_pid(spawn) -> None:  # type: ignore[no-untyped-def]
    process = spawn()
    now = next(p for p in procfs._all() if p.pid == process.pid)
    stale = procfs.OsProcess(now.pid, now.parent, now.start - 1, now.state, now.name)
    assert procfs.send([stale], signal.SIGKILL) == 0
    assert process.poll() is None
    assert procfs.send([now], signal.SIGKILL) == 1


def test_a_zombie_is_dead(home: Path, power: hosts.LocalPower) -> None:
    process = subprocess.Popen(["sleep", "60"], cwd=home / "nodes" / NODE)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # dead, and not yet collected
    assert power.processes(NODE) == ()
    process.wait()


def test_a_fence_is_not_written_through_a_planted_link(power, home, tmp_path_factory) -> None:  # type: ignore[no-untyped-def]
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "victim"
    (home / "nodes" / NODE / "power-off").symlink_to(elsewhere)
    with pytest.raises(Failed, match="its power is on"):
        power.kill(NODE, reason="x", deadline=Deadline.after(0.05))
    assert not elsewhere.exists()


def test_only_the_local_target_has_power() -> None:
    with pytest.raises(Usage, match="no power"):
        hosts.driver(builders.inventory(hosts=None))


def test_an_unknown_node_is_a_usage_error(power: hosts.LocalPower) -> None:
    with pytest.raises(Usage, match=f"there are: {NODE}"):
        power.processes("testnode-9")
    with pytest.raises(Usage, match="has no folder"):
        power.processes("testnode-2")


def test_every_port_of_a_node_is_known() -> None:
    whole = builders.inventory()
    assert hosts.ports_of(whole, "pg-1") == tuple(("127.99.2.1", port) for port in (5432, 8008, 8432))
    assert [port for _, port in hosts.ports_of(whole, "proxy-1")] == [5000, 5001, 5002, 6432, 8404]
    assert [port for _, port in hosts.ports_of(whole, "monitor-1")] == [9090, 9093]


def test_power_on_needs_the_supervisor_before_the_fence_falls(power, home) -> None:  # type: ignore[no-untyped-def]
    (home / "nodes" / NODE / "power-off").touch()
    with pytest.raises(Unreachable, match="supervisor"):
        power.power_on(NODE, deadline=Deadline.after(1))
    assert (home / "nodes" / NODE / "power-off").exists()


@pytest.fixture
def supervised(home: Path) -> Iterator[Path]:
    """A real supervisor whose programs refuse to start behind a fence."""
    folder = home / "nodes" / NODE / "patroni"
    run = folder / "run"
    run.write_text(f"#!/bin/sh\n[ -e {home}/nodes/{NODE}/power-off ] && exit 78\nexec sleep 60\n")
    run.chmod(0o700)
    config = home / "supervisord.conf"
    socket_path = home / "supervisor.sock"
    config.write_text(
        f"[unix_http_server]\nfile={socket_path}\n"
        f"[supervisord]\nnodaemon=true\nlogfile=/dev/null\nlogfile_maxbytes=0\npidfile={home}/pid\nuser=root\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface\n"
        f"[program:{NODE}.patroni]\ncommand={run}\ndirectory={folder}\nstartsecs=0\nautorestart=unexpected\n"
        "exitcodes=0,78\nstdout_logfile=NONE\nstderr_logfile=NONE\n"
    )
    if os.getuid() != 0:
        config.write_text(config.read_text().replace("user=root\n", ""))
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(config)], stdout=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while not socket_path.exists():
            assert process.poll() is None, "supervisord did not start"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield socket_path
    finally:
        process.terminate()
        process.wait(10)


def test_a_killed_node_stays_off_under_its_supervisor_until_powered_on(power, home, supervised) -> None:  # type: ignore[no-untyped-def]
    while not power.processes(NODE):
        time.sleep(0.02)
    evidence = power.kill(NODE, reason="drill", deadline=Deadline.after(10))
    assert evidence.dead
    time.sleep(1.2)  # the supervisor's own loop turns once a second
    assert power.prove_dead(NODE).dead
    assert power.power_on(NODE, deadline=Deadline.after(10)) == (f"{NODE}.patroni",)
    assert [process.process for process in power.processes(NODE)] == ["patroni"]
    assert power.power_on(NODE, deadline=Deadline.after(10)) == (f"{NODE}.patroni",)
