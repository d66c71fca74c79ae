from __future__ import annotations

import threading
import time

import pytest

from wmsctl import errors
from wmsctl.deadline import Deadline, wait_until
from wmsctl.errors import Code, Failed, Unknown, WmsctlError
from wmsctl.parallel import gather


def test_each_error_has_its_exit_code() -> None:
    codes = {name: getattr(errors, name)("x").code for name in ("Failed", "Usage", "Refused", "Unreachable")}
    assert codes == {"Failed": 1, "Usage": 2, "Refused": 3, "Unreachable": 4}
    assert (errors.ObjectiveMissed("x").code, errors.Unknown("x").code) == (5, 6)
    assert WmsctlError("x", code=Code.UNKNOWN).code == 6


def test_wait_until_returns_what_it_waited_for() -> None:
    answers = iter([None, "", "there"])
    assert wait_until(lambda: next(answers), Deadline.after(1), 0.001, "it") == "there"


def test_wait_until_gives_up_and_says_on_what() -> None:
    with pytest.raises(Unknown, match=r"gave up waiting for the moon after 0\.\d s"):
        wait_until(lambda: None, Deadline.after(0.02), 0.005, "the moon")
    with pytest.raises(Failed):
        wait_until(lambda: None, Deadline.after(0), 0.005, "the moon", error=Failed)


def test_wait_until_looks_once_more_at_the_deadline() -> None:
    deadline = Deadline.after(0.03)
    assert wait_until(lambda: deadline.expired, deadline, 10.0, "the deadline")


def test_a_deadline_never_grows_and_never_means_for_ever() -> None:
    deadline = Deadline.after(0.5)
    assert deadline.within(60) == deadline
    assert deadline.within(0.1).remaining() <= 0.1
    assert deadline.timeout(0.2, "a call") == 0.2
    with pytest.raises(Unknown, match="a call"):
        Deadline.after(-1).timeout(0.2, "a call")


def test_gather_brings_values_and_troubles_and_leaves_the_slow_behind() -> None:
    release = threading.Event()

    def refuse() -> int:
        raise Failed("no")

    def bug() -> int:
        raise KeyError("odd")

    def slow() -> int:
        release.wait(5)
        return 1

    started = time.monotonic()
    found = gather({"a": lambda: 7, "b": refuse, "c": bug, "d": slow}, Deadline.after(0.2))
    release.set()
    assert time.monotonic() - started < 1
    assert found["a"].value == 7
    assert found["b"].trouble == "no"
    assert "KeyError" in found["c"].trouble
    assert (found["d"].value, found["d"].trouble) == (None, "no answer in time")


def test_gather_does_not_wait_when_all_is_there() -> None:
    started = time.monotonic()
    gather({str(i): lambda: 1 for i in range(20)}, Deadline.after(5))
    assert time.monotonic() - started < 1
