"""Who may sit on the platform's ports, and limits of this process, with real sockets and processes."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stacks import rules, spec, topology
from stacks.local import preflight

ROOT = Path(__file__).resolve().parents[3]
# By process, so that two runs on one machine do not meet; the bus has a port that no other platform listens on.
NETWORK = f"127.{110 + os.getpid() % 80}"
BUS = 26000 + os.getpid() % 1000
PLATFORM = spec.load("local", {"network": NETWORK, "redis": {"bus_port": BUS}})

LISTEN = """
import socket, sys, time
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind((sys.argv[1], int(sys.argv[2])))
server.listen()
print("listening", flush=True)
time.sleep(60)
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "stack"


@contextmanager
def listening(address: str, port: int, folder: Path) -> Iterator[int]:
    """A process that listens, with `folder` as its working directory; its pid."""
    folder.mkdir(parents=True, exist_ok=True)
    child = subprocess.Popen(
        [sys.executable, "-c", LISTEN, address, str(port)], cwd=folder, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"listening\n"
        yield child.pid
    finally:
        child.kill()
        child.wait(10)


def found(home: Path) -> list[str]:
    return preflight.problems(PLATFORM, [], home)


def test_another_process_is_named_with_address_port_key_and_program(home: Path, tmp_path: Path) -> None:
    with listening(f"{NETWORK}.6.2", 8000, tmp_path) as pid:
        (problem,) = found(home)
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    assert problem.startswith(f"{NETWORK}.6.2:8000 (service.port) is taken by process {pid} ({name})")
    assert "pulumi config set" in problem
    assert found(home) == [], "and gone with it"


def test_a_process_of_this_stack_may_listen(home: Path) -> None:
    with listening(f"{NETWORK}.6.2", 8000, home / "nodes/app-2/wms"):
        assert found(home) == []


def test_a_process_of_a_stack_with_a_similar_name_may_not(home: Path) -> None:
    with listening(f"{NETWORK}.6.2", 8000, Path(f"{home}-2/nodes/app-2/wms")):
        assert len(found(home)) == 1


def test_a_process_in_the_home_but_of_no_node_may_not(home: Path) -> None:
    with listening(f"{NETWORK}.6.2", 8000, home / "elsewhere"):
        assert len(found(home)) == 1


def test_who_listens_on_all_addresses_is_in_the_way_of_each_node(home: Path, tmp_path: Path) -> None:
    with listening("0.0.0.0", BUS, tmp_path) as pid:
        problems = found(home)
    assert len(problems) == topology.counts(PLATFORM)["redis"]
    assert all(f"process {pid} " in problem and "redis.bus_port" in problem for problem in problems)


def test_every_busy_port_is_told_in_one_run(home: Path, tmp_path: Path) -> None:
    with listening(f"{NETWORK}.1.3", 2380, tmp_path), listening(f"{NETWORK}.9.1", 9090, tmp_path):
        problems = found(home)
    assert [problem.partition(" ")[0] for problem in problems] == [
        f"{NETWORK}.1.3:2380",
        f"{NETWORK}.9.1:9090",
    ]


def test_a_bound_port_counts_before_anybody_listens(home: Path) -> None:
    with socket.socket() as holder:
        holder.bind((f"{NETWORK}.5.1", 7070))
        (problem,) = found(home)
    assert "storage.port" in problem


def test_a_listener_at_the_same_port_of_no_node_is_no_problem(home: Path, tmp_path: Path) -> None:
    with listening(f"{NETWORK}.200.1", 5432, tmp_path):
        assert found(home) == []


def test_every_listener_of_the_platform_is_looked_at(home: Path) -> None:
    """A socket on each port of each role: what is left out here would fail in the middle of a start."""
    sockets = []
    ports = rules.listeners(PLATFORM)
    wanted = [
        (node.address, port)
        for node in topology.nodes(PLATFORM)
        if node.index == 1
        for port in ports[node.role].values()
    ]
    try:
        for address in wanted:
            sockets.append(socket.socket())
            sockets[-1].bind(address)
            sockets[-1].listen()
        problems = found(home)
    finally:
        for each in sockets:
            each.close()
    assert {problem.partition(" ")[0] for problem in problems} == {f"{a}:{p}" for a, p in wanted}
    assert all(str(os.getpid()) in problem for problem in problems)


LIMITED = """
import resource, sys
from pathlib import Path
from stacks import spec
from stacks.local import preflight
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]), int(sys.argv[1])))
print(preflight.problems(spec.load("local", {"network": sys.argv[3]}), [], Path(sys.argv[2])))
"""


@pytest.mark.parametrize(
    ("limit", "fine"), [(preflight.NEEDED_FILES - 1, False), (preflight.NEEDED_FILES, True)]
)
def test_too_few_open_files_are_told_before_the_start(home: Path, limit: int, fine: bool) -> None:
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < preflight.NEEDED_FILES:
        pytest.fail(f"this machine itself allows fewer than {preflight.NEEDED_FILES} open files")
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(limit), str(home), NETWORK],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout == "[]\n") is fine
    assert (f"only {limit} open files allowed" in done.stdout) is not fine


def test_the_disk_is_that_of_the_nearest_folder_there_is(tmp_path: Path) -> None:
    """The home of a first start does not exist yet, nor may its parents."""
    assert found(tmp_path / "a/b/c/stack") == []


def test_a_file_system_without_a_free_byte_is_told_with_its_place() -> None:
    """/proc is one."""
    (problem,) = preflight._disk(Path("/proc/sys/kernel/stack"))
    assert problem.startswith("/proc/sys/kernel: 0 MiB free, 2048 MiB needed")
    assert "WMS_HOME" in problem
