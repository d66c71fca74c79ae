"""The guard as a real process against a real console: it resumes what is paused, whatever becomes of its parent."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.console import FakeConsole
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Failed, Unreachable
from wmsctl.failover import guard
from wmsctl.failover.poolers import Pause, PauseFailed, PoolerControl
from wmsctl.journal import Journal


@pytest.fixture
def console(tmp_path: Path) -> Iterator[FakeConsole]:
    console = FakeConsole(tmp_path)
    yield console
    console.close()


def resumed(console: FakeConsole) -> None:
    """Wait until nothing is paused there any more."""
    wait_until(lambda: not any(console.paused.values()), Deadline.after(5), 0.02, "the guard to act")


def pause(console: FakeConsole) -> None:
    console.paused = dict.fromkeys(console.paused, True)


class TestProcess:
    def test_disarmed_it_ends_and_touches_nothing(self, console: FakeConsole) -> None:
        armed = guard.start([console.order], timer=30)
        pause(console)
        assert armed.disarm() is True
        assert all(console.paused.values()) and console.commands == []

    def test_acts_when_its_time_is_over(self, console: FakeConsole) -> None:
        started = time.monotonic()
        armed = guard.start([console.order], timer=0.4)
        pause(console)
        resumed(console)
        assert time.monotonic() - started >= 0.4
        assert armed.disarm() is False

    def test_acts_at_once_when_it_is_released(self, console: FakeConsole) -> None:
        armed = guard.start([console.order], timer=60)
        pause(console)
        armed.release()
        resumed(console)

    def test_acts_when_its_parent_is_killed(self, console: FakeConsole, tmp_path: Path) -> None:
        """A parent that pauses and dies by SIGKILL, as in the middle of a switchover."""
        record = Journal(tmp_path).begin("failover.switchover", {})
        program = (
            "import json, os, signal, sys\n"
            "from wmsctl.failover import guard\n"
            "from wmsctl.failover.poolers import PoolerControl\n"
            "order = json.loads(sys.stdin.readline())\n"
            f"guard.start([order], timer=60, journal={str(record.path)!r})\n"
            "PoolerControl.of(order).pause(['wms', 'wms_read'], 5)\n"
            "print('paused', flush=True)\n"
            "os.kill(os.getpid(), signal.SIGKILL)\n"
        )
        parent = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(console.order).encode() + b"\n",
            capture_output=True,
            cwd=Path(__file__).parents[4],
            timeout=30,
        )
        assert (parent.returncode, parent.stdout) == (-signal.SIGKILL, b"paused\n"), parent.stderr
        resumed(console)
        assert console.commands == ["PAUSE wms", "PAUSE wms_read", "RESUME wms", "RESUME wms_read"]
        notes = wait_until(lambda: Journal(tmp_path).history()[0].notes, Deadline.after(5), 0.05, "its note")
        assert notes[0]["guard"] == "orphaned" and notes[0]["resumed"] == {"proxy-1": ["wms", "wms_read"]}

    def test_opens_another_console_when_its_own_was_cut(self, console: FakeConsole) -> None:
        armed = guard.start([console.order], timer=60)
        pause(console)
        console.cut()
        armed.release()
        resumed(console)

    def test_is_not_started_without_its_poolers(self, console: FakeConsole) -> None:
        console.close()
        with pytest.raises(Failed, match="nothing was paused"):
            guard.start([console.order], timer=60)

    def test_shows_no_password_and_stands_apart(self, console: FakeConsole) -> None:
        armed = guard.start([console.order], timer=60)
        try:
            for name in ("cmdline", "environ"):
                assert b"hunter2" not in Path(f"/proc/{armed.pid}/{name}").read_bytes()
            assert os.getsid(armed.pid) == armed.pid
        finally:
            armed.disarm()


class TestInsisting:
    class Pooler:
        """Answers after `away` attempts."""

        def __init__(self, name: str, away: int) -> None:
            self.name = name
            self.away = away
            self.attempts = 0

        def resume_all(self) -> list[str]:
            self.attempts += 1
            if self.attempts <= self.away:
                raise Unreachable("away")
            return ["wms"]

    def test_goes_on_until_each_was_seen_and_holds_up_nobody(self) -> None:
        late, prompt = self.Pooler("late", 3), self.Pooler("prompt", 0)
        assert guard.insist([late, prompt], sleep=lambda s: None) == (
            {"late": ["wms"], "prompt": ["wms"]},
            [],
        )
        assert (late.attempts, prompt.attempts) == (4, 1)

    def test_names_those_it_could_not_reach(self) -> None:
        assert guard.insist([self.Pooler("gone", 10**6)], seconds=0.0, sleep=lambda s: None) == ({}, ["gone"])


class TestWatching:
    def watch(self, *words: bytes, close: bool = False, timer: float = 0.2) -> str:
        read, write = os.pipe()
        try:
            for word in words:
                os.write(write, word)
            if close:
                os.close(write)
            return guard.watch(read, timer)
        finally:
            os.close(read)
            if not close:
                os.close(write)

    def test_tells_the_three_ends_apart(self) -> None:
        assert self.watch(b"disarm\n") == "disarmed"
        assert self.watch(close=True) == "orphaned"
        assert self.watch() == "expired"

    def test_a_word_cut_short_by_death_is_no_disarming(self) -> None:
        assert self.watch(b"disa", close=True) == "orphaned"
        assert self.watch(b"dis", b"arm\n") == "disarmed"


class TestPause:
    """The pause over real consoles, as a switchover uses it."""

    def make(self, console: FakeConsole, pool: ThreadPoolExecutor) -> Pause:
        return Pause([PoolerControl.of(console.order)], {"proxy-1": ("wms_read", "wms")}, pool, "wms")

    def test_pauses_in_order_and_measures_the_stall(self, console: FakeConsole) -> None:
        with ThreadPoolExecutor(4) as pool:
            pause = self.make(console, pool)
            pause.begin(2.0)
            assert all(console.paused.values())
            assert pause.end("wms") == [] and console.paused == {"wms": False, "wms_read": True}
            assert pause.end() == [] and not any(console.paused.values())
        assert console.commands == ["PAUSE wms_read", "PAUSE wms", "RESUME wms", "RESUME wms_read"]
        assert pause.write_stall_ms is not None and pause.longest_ms >= pause.write_stall_ms >= 0

    def test_a_transaction_that_does_not_end_is_named_and_everything_resumed(
        self, console: FakeConsole
    ) -> None:
        console.busy.add("wms")
        with ThreadPoolExecutor(4) as pool:
            pause = self.make(console, pool)
            started = time.monotonic()
            with pytest.raises(PauseFailed) as caught:
                pause.begin(0.3)
            assert caught.value.busy == [99]
            assert 0.3 <= time.monotonic() - started < 2.0
            assert pause.end() == []
        assert not any(console.paused.values())

    def test_resumes_over_a_new_console_when_the_first_is_lost(self, console: FakeConsole) -> None:
        with ThreadPoolExecutor(4) as pool:
            pause = self.make(console, pool)
            pause.begin(2.0)
            console.cut()
            assert pause.end() == []
        assert not any(console.paused.values())

    def test_says_which_pooler_it_could_not_resume(self, console: FakeConsole) -> None:
        with ThreadPoolExecutor(4) as pool:
            pause = self.make(console, pool)
            pause.begin(2.0)
            console.close()
            assert [trouble.split(":")[0] for trouble in pause.end()] == ["proxy-1"]
