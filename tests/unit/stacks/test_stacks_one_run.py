"""Only one run works on a stack: the real command in processes of its own, on a home of its own."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from stacks.local import lifecycle
from stacks.local.lifecycle import LifecycleError

ROOT = Path(__file__).resolve().parents[3]

PREPARE = """
import os, sys, time
from stacks.local import lifecycle
lifecycle.process_environment = lambda: {"WMS_HOME": os.environ["WMS_HOME"]}
"""
HOLD = PREPARE + 'with lifecycle._only_one("x"):\n    print("held", flush=True)\n    time.sleep(60)\n'
RUN = PREPARE + "sys.exit(lifecycle.run(sys.argv[1:]))\n"
NO_STACK = """
from types import SimpleNamespace
lifecycle._stack = lambda _: SimpleNamespace(get_all_config=dict)
"""
ASK = PREPARE + (
    "lifecycle.down = lambda name: print('removing', name, flush=True)\n"
    "sys.exit(lifecycle.run(['down', '--stack', 'x']))\n"
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WMS_HOME", str(tmp_path))
    monkeypatch.setattr(lifecycle, "process_environment", lambda: {"WMS_HOME": str(tmp_path)})
    return tmp_path


@pytest.fixture
def holder(home: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another run that has the lock of stack x."""
    child = subprocess.Popen([sys.executable, "-c", HOLD], cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"held\n"
        yield child
    finally:
        child.kill()
        child.wait(10)


def command(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("action", [["up"], ["down", "--yes"]])
def test_a_second_run_ends_at_once_and_names_the_first(
    holder: subprocess.Popen[bytes], action: list[str]
) -> None:
    done = command(RUN, *action, "--stack", "x")
    assert done.returncode == 1
    assert f"pid {holder.pid} since " in done.stderr
    assert "'x'" in done.stderr
    assert "wait for it, or end it" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_was_ended_holds_nothing(
    home: Path, holder: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    with pytest.raises(LifecycleError), lifecycle._only_one("x"):
        pass
    holder.send_signal(number)
    holder.wait(10)
    with lifecycle._only_one("x"):
        assert (home / "x.lock").read_text().startswith(f"pid {os.getpid()} since ")


def test_a_frozen_run_still_holds_it(holder: subprocess.Popen[bytes]) -> None:
    holder.send_signal(signal.SIGSTOP)
    with pytest.raises(LifecycleError, match=f"pid {holder.pid}"), lifecycle._only_one("x"):
        pass


def test_a_run_that_fails_frees_the_lock(home: Path) -> None:
    with pytest.raises(ZeroDivisionError), lifecycle._only_one("x"):
        _ = 1 / 0
    with lifecycle._only_one("x"):
        pass


def test_a_finished_run_leaves_no_name_behind(home: Path) -> None:
    with lifecycle._only_one("x"):
        pass
    assert (home / "x.lock").read_text() == ""


# -- the locks of pulumi itself --


def lock(home: Path, text: str, name: str = "a.json", stack: str = "x") -> Path:
    path = home / "pulumi/.pulumi/locks/organization/wms" / stack / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def unlock() -> None:
    lifecycle._unlock(SimpleNamespace(), "x")  # type: ignore[arg-type]


def dead() -> int:
    """A pid that was a process's a moment ago."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(10)
    return child.pid


def test_without_locks_there_is_nothing_to_do(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unlock()
    assert capsys.readouterr().err == ""


def test_several_stale_locks_go_and_those_of_other_stacks_stay(home: Path) -> None:
    stale = [lock(home, json.dumps({"pid": dead(), "username": "u"}), f"{n}.json") for n in range(3)]
    other = lock(home, json.dumps({"pid": dead()}), stack="y")
    unlock()
    assert not any(path.exists() for path in stale)
    assert other.exists()


@pytest.mark.parametrize("text", ["", "{}", '{"pid": 0}'])
def test_a_lock_that_names_nobody_is_stale(home: Path, text: str) -> None:
    path = lock(home, text)
    unlock()
    assert not path.exists()


@pytest.mark.parametrize("text", ['{"pid": 12', "\x00\x00\x00", "[]", '{"pid": "x"}', '{"pid": null}'])
def test_a_damaged_lock_does_not_end_in_a_traceback(home: Path, text: str) -> None:
    """What a crash of the machine left: gone, or an error that names the file. Never any other exception."""
    path = lock(home, text)
    try:
        unlock()
        told = ""
    except LifecycleError as error:
        told = str(error)
    assert str(path) in told if told else not path.exists()


def test_a_lock_of_a_living_run_is_respected_beside_a_stale_one(
    home: Path, holder: subprocess.Popen[bytes]
) -> None:
    living = lock(home, json.dumps({"pid": holder.pid}), "living.json")
    lock(home, json.dumps({"pid": dead()}), "dead.json")
    with pytest.raises(LifecycleError, match=f"pid {holder.pid}"):
        unlock()
    assert living.exists()


def test_a_lock_older_than_the_process_with_its_pid_is_stale(
    home: Path, holder: subprocess.Popen[bytes]
) -> None:
    """After a reboot the pid is somebody else's; nobody could ever wait for that one's end."""
    path = lock(home, json.dumps({"pid": holder.pid, "timestamp": "2020-01-01T00:00:00.0Z"}))
    unlock()
    assert not path.exists()


# -- the question before a removal, on a real terminal --


def answer(typed: bytes) -> tuple[int, str]:
    """Exit code and output of `down` on a terminal where `typed` is typed at its question."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-c", ASK])
    output, sent, limit = b"", False, time.monotonic() + 30
    while time.monotonic() < limit:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                part = os.read(terminal, 4096)
            except OSError:
                break
            if not part:
                break
            output += part
        if b"to confirm: " in output and not sent:
            os.write(terminal, typed)
            sent = True
    else:
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    return os.waitstatus_to_exitcode(status), output.decode()


def test_the_name_of_the_stack_confirms(home: Path) -> None:
    code, text = answer(b"x\n")
    assert "all its data" in text
    assert "removing x" in text
    assert code == 0


@pytest.mark.parametrize("typed", [b"\n", b"yes\n", b"xx\n"])
def test_anything_else_removes_nothing(home: Path, typed: bytes) -> None:
    code, text = answer(typed)
    assert "removing" not in text
    assert code == 1


def test_the_end_of_the_input_removes_nothing_and_is_no_traceback(home: Path) -> None:
    code, text = answer(b"\x04")
    assert "removing" not in text
    assert "Traceback" not in text
    assert code == 1


def test_without_a_terminal_the_answer_on_the_input_does_not_count(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=ROOT,
        input="x\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "give --yes" in done.stderr
    assert "removing" not in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [["up", "--overrides", "{"], [], ["up", "--overrides", "3"], ["up", "--overrides", "[]"]],
    ids=str,
)
def test_a_wrong_command_line_says_what_is_wrong(home: Path, arguments: list[str]) -> None:
    done = command(PREPARE + NO_STACK + "sys.exit(lifecycle.run(sys.argv[1:]))\n", *arguments)
    assert done.returncode in (1, 2)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
