"""One at a time, the leader last, nobody after a failure."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from stacks.local.provider.errors import ProviderError
from stacks.local.provider.rollout import Rollouts


class Run:
    """Members that restart in threads; records who did, and whether two ever did at once."""

    def __init__(self) -> None:
        self.rollouts = Rollouts(calm=0.3)
        self.order: list[str] = []
        self.refused: list[str] = []
        self.together = 0
        self.busy = threading.Lock()

    def member(self, name: str, leads: Callable[[], bool], work: Callable[[], None]) -> threading.Thread:
        def go() -> None:
            try:
                with self.rollouts.turn("group", name, leads):
                    if not self.busy.acquire(blocking=False):
                        self.together += 1
                        return
                    try:
                        work()
                        time.sleep(0.05)
                        self.order.append(name)
                    finally:
                        self.busy.release()
            except ProviderError as error:
                self.refused.append(f"{name}: {error}")

        thread = threading.Thread(target=go)
        thread.start()
        return thread


def nothing() -> None:
    """A restart that goes well."""


def finish(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()


def test_the_leader_goes_last_and_nobody_beside_another() -> None:
    run = Run()
    threads = [run.member("b", lambda: True, nothing)]
    threads += [run.member(name, lambda: False, nothing) for name in "acd"]
    finish(threads)
    assert run.together == 0
    assert run.order[-1] == "b"
    assert sorted(run.order) == list("abcd")


def test_a_member_that_becomes_leader_meanwhile_waits() -> None:
    run = Run()
    leader = ["b"]

    def moves() -> None:
        leader[0] = "c"

    threads = [run.member("b", lambda: leader[0] == "b", nothing)]
    time.sleep(0.02)
    threads.append(run.member("a", lambda: leader[0] == "a", moves))
    finish(threads)
    assert run.order == ["a", "b"]


def test_after_a_failure_the_others_are_left_alone() -> None:
    run = Run()

    def breaks() -> None:
        raise ProviderError("a does not come up")

    threads = [run.member("a", lambda: False, breaks)]
    time.sleep(0.02)
    threads += [run.member("b", lambda: False, nothing), run.member("c", lambda: True, nothing)]
    finish(threads)
    assert run.order == []
    assert len(run.refused) == 3
    assert any("b is left as it was, because a failed in the same rollout" in each for each in run.refused)


def test_turns_wait_for_members_that_are_starting() -> None:
    run = Run()
    release = threading.Event()

    def start() -> None:
        with run.rollouts.start("group", "down"):
            release.wait(5)
            run.order.append("down")

    starter = threading.Thread(target=start)
    starter.start()
    time.sleep(0.05)
    waiting = run.member("up", lambda: False, nothing)
    time.sleep(0.2)
    assert run.order == []
    release.set()
    finish([starter, waiting])
    assert run.order == ["down", "up"]


def test_a_failed_start_stops_the_group() -> None:
    rollouts = Rollouts(calm=0.1)
    with pytest.raises(ProviderError, match="broken"), rollouts.start("group", "first"):
        raise ProviderError("broken")
    with pytest.raises(ProviderError, match="first failed"), rollouts.turn("group", "second", lambda: False):
        pass


def test_groups_do_not_wait_for_each_other() -> None:
    rollouts = Rollouts(calm=0.1)
    with rollouts.turn("one", "a", lambda: False), rollouts.turn("two", "b", lambda: False):
        pass
