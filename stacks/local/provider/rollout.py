"""One at a time: the order in which processes of a rollout group are restarted.

A turn is given to one member after the other; the current leader goes last, so that a group changes its
leader once. After a failure the group stops: a mistake in a configuration then costs one member, not all.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from stacks.local.provider.errors import DeadlineExceeded, ProviderError
from stacks.local.provider.waiting import interrupted, pause

CALM_SECONDS = 2.0
"""The leader goes when no other member has wanted a turn for so long (Pulumi starts updates within
milliseconds).
"""
LONGEST_WAIT = 1800.0
TICK = 0.05


@dataclass
class Group:
    """The state of one rollout group in this process."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    waiting: set[str] = field(default_factory=set)
    active: str = ""
    starting: int = 0
    """Members that were down and are coming up; nobody else is taken down meanwhile."""
    failed: str = ""
    busy_until: float = 0.0
    """Time (monotonic) of the last sign of another member."""


class Rollouts:
    """All groups of this process."""

    def __init__(self, calm: float = CALM_SECONDS) -> None:
        self.calm = calm
        self.groups: dict[str, Group] = {}
        self.lock = threading.Lock()

    def group(self, name: str) -> Group:
        """The group `name`, made on first use."""
        with self.lock:
            return self.groups.setdefault(name, Group())

    @contextmanager
    def turn(self, group_name: str, member: str, leads: Callable[[], bool]) -> Iterator[bool]:
        """Hold the group's turn; yields whether the member leads at that moment.

        `leads` is asked while waiting, because leadership may move. Raises ProviderError when another member
        has failed, or when the turn does not come within LONGEST_WAIT.
        """
        group = self.group(group_name)
        lead = self.wait(group, group_name, member, leads)
        try:
            yield lead
        except BaseException:
            with group.lock:
                if not interrupted.is_set():
                    group.failed = group.failed or member
            raise
        finally:
            with group.lock:
                group.active = ""
                group.busy_until = time.monotonic()

    @contextmanager
    def start(self, group_name: str, member: str) -> Iterator[None]:
        """Around the start of a member that is down: members start together (a quorum needs several), turns
        wait.
        """
        group = self.group(group_name)
        with group.lock:
            group.starting += 1
        try:
            yield
        except BaseException:
            with group.lock:
                if not interrupted.is_set():
                    group.failed = group.failed or member
            raise
        finally:
            with group.lock:
                group.starting -= 1
                group.busy_until = time.monotonic()

    def wait(self, group: Group, group_name: str, member: str, leads: Callable[[], bool]) -> bool:
        """Wait for the turn and take it; returns whether the member leads."""
        with group.lock:
            group.waiting.add(member)
            group.busy_until = time.monotonic()
        limit = time.monotonic() + LONGEST_WAIT
        lead, asked = leads(), time.monotonic()
        try:
            while True:
                now = time.monotonic()
                with group.lock:
                    if group.failed:
                        raise ProviderError(
                            f"{member} is left as it was, because {group.failed} failed in the same rollout",
                            "Repair that one first, then run pulumi up again",
                        )
                    # Those who lead wait outside the queue, so that two of them do not wait for each other.
                    (group.waiting.discard if lead else group.waiting.add)(member)
                    free = not group.active and not group.starting
                    if group.waiting - {member} or not free:
                        group.busy_until = now
                    if free and (not lead or now - group.busy_until >= self.calm):
                        group.active = member
                        return lead
                if now > limit:
                    raise DeadlineExceeded(
                        f"the turn of {member} in rollout {group_name} did not come", "Run pulumi up again"
                    )
                pause(TICK)
                if time.monotonic() - asked > 1.0:
                    lead, asked = leads(), time.monotonic()
        finally:
            with group.lock:
                group.waiting.discard(member)


rollouts = Rollouts()
