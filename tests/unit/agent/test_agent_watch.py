"""The watch on the postmaster, with small processes in its place."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from agent.watch import LOOK_S, WAKES_S, DeathWatch, postmaster_pid, wait_for_exit

SERIES_S = WAKES_S[-1]


@pytest.fixture
def start() -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts processes that live until they are killed."""
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait(10)


Start = Callable[[], subprocess.Popen[bytes]]


def note(data: Path, pid: int) -> None:
    """Write postmaster.pid as PostgreSQL does: the pid, then the folder, the start, the port."""
    (data / "postmaster.pid").write_text(f"{pid}\n{data}\n1767350000\n5432\n")


def watch(data: Path) -> list[float]:
    """Start a DeathWatch; the returned list grows by the time of each wake."""
    wakes: list[float] = []
    DeathWatch(str(data), lambda: wakes.append(time.monotonic())).start()
    return wakes


def wait(condition: Callable[[], object], seconds: float = 5) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.01)


def test_a_death_wakes_at_once_and_again_until_it_must_have_been_noticed(
    tmp_path: Path, start: Start
) -> None:
    postmaster = start()
    note(tmp_path, postmaster.pid)
    wakes = watch(tmp_path)
    time.sleep(2 * LOOK_S)
    assert not wakes, "it lives"
    postmaster.kill()
    died = time.monotonic()
    postmaster.wait(10)
    wait(lambda: len(wakes) == len(WAKES_S))
    assert wakes[0] - died < LOOK_S, "the death itself wakes, not the next look"
    for wake, moment in zip(wakes, WAKES_S, strict=True):
        assert moment <= wake - died + 0.02
        assert wake - died < moment + 0.5
    # The file of the dead one is still there, and its pid is nobody's.
    time.sleep(3 * LOOK_S)
    assert len(wakes) == len(WAKES_S)


def test_the_next_postmaster_is_watched_too(tmp_path: Path, start: Start) -> None:
    first, second = start(), start()
    note(tmp_path, first.pid)
    wakes = watch(tmp_path)
    first.kill()
    first.wait(10)
    wait(lambda: len(wakes) == len(WAKES_S))
    note(tmp_path, second.pid)
    time.sleep(2 * LOOK_S)
    assert len(wakes) == len(WAKES_S)
    second.kill()
    second.wait(10)
    wait(lambda: len(wakes) == 2 * len(WAKES_S))


def test_a_postmaster_that_comes_later_is_found(tmp_path: Path, start: Start) -> None:
    wakes = watch(tmp_path)
    time.sleep(LOOK_S)
    postmaster = start()
    note(tmp_path, postmaster.pid)
    time.sleep(2 * LOOK_S)
    assert not wakes
    postmaster.kill()
    wait(lambda: wakes, 1)


def test_a_death_that_nobody_collects_wakes_no_more_than_another(tmp_path: Path, start: Start) -> None:
    """Where the first process reaps late, a dead postmaster's pid file names a zombie for as long."""
    postmaster = start()
    note(tmp_path, postmaster.pid)
    wakes = watch(tmp_path)
    postmaster.kill()
    wait(lambda: psutil.Process(postmaster.pid).status() == psutil.STATUS_ZOMBIE)
    wait(lambda: len(wakes) == len(WAKES_S))
    time.sleep(4 * LOOK_S)
    assert len(wakes) == len(WAKES_S)


def test_a_stale_pid_file_that_names_another_process_does_not_blind_it(tmp_path: Path, start: Start) -> None:
    """After a reboot the pid in a left postmaster.pid may be anybody's; the real one comes later."""
    other = start()
    note(tmp_path, other.pid)
    wakes = watch(tmp_path)
    time.sleep(2 * LOOK_S)
    postmaster = start()
    note(tmp_path, postmaster.pid)
    time.sleep(4 * LOOK_S)
    postmaster.kill()
    postmaster.wait(10)
    wait(lambda: wakes, 2)


@pytest.mark.parametrize(
    ("text", "pid"),
    [("4711\n/data\n", 4711), ("4711", 4711), ("", 0), ("\n", 0), ("soon\n", 0), (None, 0)],
)
def test_the_pid_is_the_first_line(tmp_path: Path, text: str | None, pid: int) -> None:
    if text is not None:
        (tmp_path / "postmaster.pid").write_text(text)
    assert postmaster_pid(str(tmp_path)) == pid


def test_a_folder_that_is_not_there_has_no_postmaster(tmp_path: Path) -> None:
    assert postmaster_pid(str(tmp_path / "none")) == 0


def test_a_pid_that_is_gone_is_not_waited_for(start: Start) -> None:
    gone = start()
    gone.kill()
    gone.wait(10)
    started = time.monotonic()
    assert wait_for_exit(gone.pid) is False
    assert time.monotonic() - started < 1


@pytest.mark.parametrize("text", ["-1\n", "99999999999999999999\n"])
def test_a_pid_that_cannot_be_wakes_nobody_and_ends_nothing(tmp_path: Path, start: Start, text: str) -> None:
    """A single-user server writes its pid negated; whatever stands there, the watch goes on."""
    (tmp_path / "postmaster.pid").write_text(text)
    wakes = watch(tmp_path)
    time.sleep(2 * LOOK_S)
    assert not wakes
    postmaster = start()
    note(tmp_path, postmaster.pid)
    time.sleep(2 * LOOK_S)
    postmaster.kill()
    wait(lambda: wakes, 2)
