"""The agent's two corrections of Patroni's view of the world, on Patroni's own classes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from patroni.api import RestApiHandler
from patroni.dcs.etcd3 import Etcd3
from patroni.postgresql.postmaster import PostmasterProcess

from agent import sockets, zombies


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test changes in Patroni is put back after it."""
    monkeypatch.setattr(Etcd3, "set_socket_options", Etcd3.set_socket_options)
    monkeypatch.setattr(RestApiHandler, "disable_nagle_algorithm", RestApiHandler.disable_nagle_algorithm)
    monkeypatch.setattr(PostmasterProcess, "is_running", PostmasterProcess.is_running)
    monkeypatch.setattr(PostmasterProcess, "wait", PostmasterProcess.wait)
    known = PostmasterProcess._is_postmaster_process
    monkeypatch.setattr(PostmasterProcess, "_is_postmaster_process", known)


class Store:
    """The three attributes of Etcd3 that its socket options are computed from."""

    ttl, loop_wait = 20, 1

    class _retry:
        deadline = 5


def options_of(connection: socket.socket) -> tuple[int, int]:
    nodelay = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    return nodelay, connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)


def test_a_connection_to_the_store_has_no_nagle_delay_and_keeps_its_keepalive() -> None:
    with socket.socket() as before, socket.socket() as after:
        Etcd3.set_socket_options(Store(), before, [sockets.NODELAY])
        sockets.undelay()
        Etcd3.set_socket_options(Store(), after, None)
        # The first half says why this is needed: when it fails, Patroni has mended it and agent/sockets.py can go.
        assert options_of(before) == (0, 1)
        assert options_of(after) == (1, 1)


def test_the_rest_server_answers_without_nagle_delay() -> None:
    assert RestApiHandler.disable_nagle_algorithm is False
    sockets.undelay()
    assert RestApiHandler.disable_nagle_algorithm is True


def test_another_patroni_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Etcd3, "set_socket_options")
    for base in Etcd3.__mro__:
        if "set_socket_options" in vars(base):
            monkeypatch.delattr(base, "set_socket_options")
    with pytest.raises(RuntimeError, match=r"agent/sockets\.py"):
        sockets.undelay()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield process
    process.kill()
    process.wait(10)


def zombie(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and wait until it is dead but not reaped."""
    os.kill(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while psutil.Process(process.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_zombie_is_not_running(child: subprocess.Popen[bytes]) -> None:
    postmaster = PostmasterProcess(child.pid)
    zombies.bury()
    assert postmaster.is_running()
    zombie(child)
    # What psutil says of it is the reason for this module.
    assert psutil.Process.is_running(postmaster)
    assert not postmaster.is_running()
    child.wait(10)
    assert not postmaster.is_running()


def test_a_zombie_named_by_the_pid_file_is_no_postmaster(child: subprocess.Popen[bytes]) -> None:
    """Patroni asks this of the process that it reads from postmaster.pid; a living one is judged as before."""
    postmaster = PostmasterProcess(child.pid)
    postmaster._postmaster_pid = {}
    seen: list[int] = []

    def known(process: PostmasterProcess) -> bool:
        seen.append(process.pid)
        return True

    PostmasterProcess._is_postmaster_process = known
    zombies.bury()
    assert postmaster._is_postmaster_process()
    zombie(child)
    assert not postmaster._is_postmaster_process()
    assert seen == [child.pid]


def test_waiting_ends_with_the_death_and_not_with_the_reaping(child: subprocess.Popen[bytes]) -> None:
    postmaster = PostmasterProcess(child.pid)
    zombies.bury()
    with pytest.raises(psutil.TimeoutExpired):
        postmaster.wait(timeout=0.05)
    zombie(child)
    postmaster.wait(timeout=5)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
