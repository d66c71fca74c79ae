"""Ask many servers at once within one deadline."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from wmsctl.deadline import Deadline
from wmsctl.errors import WmsctlError

T = TypeVar("T")


@dataclass(frozen=True)
class Outcome(Generic[T]):
    """What one question led to: a value, or the trouble in words."""

    value: T | None = None
    trouble: str = ""


def gather(tasks: Mapping[str, Callable[[], T]], deadline: Deadline) -> dict[str, Outcome[T]]:
    """Run every task in a thread of its own; the outcomes by name, complete, at the deadline at the latest.

    A task that is not done by then is reported as "no answer in time" and left behind: its thread is a
    daemon, so that it cannot keep the command from ending. Tasks only observe; what changes something does
    not belong here.
    """
    outcomes: dict[str, Outcome[T]] = {}
    changed = threading.Condition()

    def work(name: str, task: Callable[[], T]) -> None:
        try:
            outcome: Outcome[T] = Outcome(task())
        except WmsctlError as error:
            outcome = Outcome(trouble=error.message)
        except Exception as error:
            # One server's odd answer must not hide the others at the worst moment.
            outcome = Outcome(
                trouble=f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:200]}"
            )
        with changed:
            outcomes[name] = outcome
            changed.notify()

    for name, task in tasks.items():
        threading.Thread(target=work, args=(name, task), name=name, daemon=True).start()
    with changed:
        changed.wait_for(lambda: len(outcomes) == len(tasks), timeout=deadline.remaining())
        return {name: outcomes.get(name, Outcome(trouble="no answer in time")) for name in tasks}
