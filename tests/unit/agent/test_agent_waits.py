"""Which sleeps of Patroni are shortened, and which are not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import patroni.api  # before patroni.ha, whose imports go round in a circle
import patroni.ha
import patroni.postgresql
import pytest

from agent import waits
from agent.main import stop_poll_s
from agent.waits import CATCH_UP_S, Clock

ROOT = Path(__file__).resolve().parents[3]
CLOCK = Clock()
LONG_S = 0.4


@pytest.fixture(autouse=True)
def unpatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever a test changes in Patroni is put back after it."""
    monkeypatch.setattr(patroni.ha, "time", time)
    interval = patroni.postgresql.STOP_POLLING_INTERVAL
    monkeypatch.setattr(patroni.postgresql, "STOP_POLLING_INTERVAL", interval)


def on_shutdown(seconds: float) -> None:
    CLOCK.sleep(seconds)


def _on_shutdown(seconds: float) -> None:
    CLOCK.sleep(seconds)


def process_unhealthy_cluster(seconds: float) -> None:
    CLOCK.sleep(seconds)


def demote(seconds: float) -> None:
    CLOCK.sleep(seconds)


def took(function: object, seconds: float) -> float:
    assert callable(function)
    started = time.monotonic()
    function(seconds)
    return time.monotonic() - started


@pytest.mark.parametrize("function", [on_shutdown, _on_shutdown, process_unhealthy_cluster])
def test_the_catch_up_sleeps_are_short(function: object) -> None:
    assert CATCH_UP_S <= took(function, LONG_S) < LONG_S


def test_any_other_sleep_keeps_its_length() -> None:
    assert took(demote, LONG_S) >= LONG_S


def test_a_caller_further_up_does_not_count() -> None:
    """What a catch-up function calls sleeps for reasons of its own."""

    def process_unhealthy_cluster(seconds: float) -> None:
        demote(seconds)

    assert took(process_unhealthy_cluster, LONG_S) >= LONG_S


def test_no_sleep_is_made_longer() -> None:
    assert took(on_shutdown, 0.0) < CATCH_UP_S


def test_the_rest_of_the_module_is_passed_on() -> None:
    assert CLOCK.time is time.time
    assert CLOCK.monotonic is time.monotonic
    with pytest.raises(AttributeError):
        _ = CLOCK.no_such_function


def sleeps(function: ast.AST) -> list[str]:
    """The arguments of the sleeps of a function itself, without those of functions inside it."""
    found: list[str] = []
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.FunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.Call) and ast.unparse(child.func) == "time.sleep":
            found.append(ast.unparse(child.args[0]))
        found += sleeps(child)
    return found


def test_these_are_the_sleeps_of_the_patroni_that_is_installed() -> None:
    """A Patroni with other sleeps under these names needs a look before its waits are shortened."""
    tree = ast.parse(Path(patroni.ha.__file__).read_text())
    found = {
        node.name: sleeps(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name in waits._CALLERS
    }
    assert found == {"on_shutdown": ["1"], "_on_shutdown": ["1"], "process_unhealthy_cluster": ["2"]}


def test_both_are_put_in_place() -> None:
    waits.shorten(0.02)
    assert patroni.postgresql.STOP_POLLING_INTERVAL == 0.02
    assert isinstance(patroni.ha.time, Clock)
    # Patroni reads the constant at each turn; one bound as a default argument would keep its old value.
    uses = patroni.postgresql.Postgresql
    assert any(
        "STOP_POLLING_INTERVAL" in function.__code__.co_names
        for function in vars(uses).values()
        if hasattr(function, "__code__")
    )


@pytest.mark.parametrize("wrong", [0.0, 0.004, 1.001, -0.02, float("nan"), float("inf")])
def test_an_interval_out_of_range_changes_nothing(wrong: float) -> None:
    before = patroni.postgresql.STOP_POLLING_INTERVAL
    with pytest.raises(ValueError, match="allowed: 5 to 1000"):
        waits.shorten(wrong)
    assert before == patroni.postgresql.STOP_POLLING_INTERVAL
    assert patroni.ha.time is time


@pytest.mark.parametrize("edge", [0.005, 1.0])
def test_the_ends_of_the_range_are_allowed(edge: float) -> None:
    waits.shorten(edge)
    assert edge == patroni.postgresql.STOP_POLLING_INTERVAL


def test_another_patroni_is_refused_and_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(patroni.postgresql, "STOP_POLLING_INTERVAL")
    with pytest.raises(RuntimeError, match=r"agent/waits\.py"):
        waits.shorten(0.02)
    assert patroni.ha.time is time


@pytest.mark.parametrize(("text", "seconds"), [(None, 0.02), ("5", 0.005), ("250", 0.25), ("0", 0.0)])
def test_the_interval_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str | None, seconds: float
) -> None:
    monkeypatch.delenv("WMS_STOP_POLL_MS", raising=False)
    if text is not None:
        monkeypatch.setenv("WMS_STOP_POLL_MS", text)
    assert stop_poll_s() == seconds


@pytest.mark.parametrize(
    ("arguments", "poll", "told"),
    [
        ([], "20", "usage: python -m agent"),
        (["a.yml", "b.yml"], "20", "usage: python -m agent"),
        (["/nowhere.yml"], "soon", "WMS_STOP_POLL_MS"),
        (["/nowhere.yml"], "4", "found 4 ms; allowed: 5 to 1000"),
        (["/nowhere.yml"], "nan", "WMS_STOP_POLL_MS"),
    ],
)
def test_a_wrong_start_ends_with_2_and_says_why(arguments: list[str], poll: str, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "agent", *arguments],
        cwd=ROOT,
        env={**os.environ, "WMS_STOP_POLL_MS": poll},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert told in done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == 2


INPUT = """
import os, sys
from agent.main import detach_input
detach_input()
print("input ends" if os.read(0, 1) == b"" else "input goes on", flush=True)
import time
time.sleep(60)
"""


def test_servers_get_an_input_that_ends_while_the_pipe_keeps_a_reader() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", INPUT], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stdout.readline() == b"input ends\n"
        # Without a reader this write would raise BrokenPipeError.
        os.write(child.stdin.fileno(), b"x")
    finally:
        child.kill()
        child.wait(10)
