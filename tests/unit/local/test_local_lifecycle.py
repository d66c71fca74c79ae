"""`make up` and `make down` before they touch anything: locks, questions, progress."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from pulumi import automation

from stacks.local import lifecycle


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WMS_HOME", str(tmp_path))
    monkeypatch.setattr(lifecycle, "process_environment", lambda: {"WMS_HOME": str(tmp_path)})
    return tmp_path


HOLD = """
import fcntl, sys, time
stream = open(sys.argv[1], "a+")
fcntl.flock(stream, fcntl.LOCK_EX)
stream.truncate(0); stream.write("pid %s since noon\\n" % sys.argv[2]); stream.flush()
print("held", flush=True)
time.sleep(60)
"""


def test_a_second_run_is_refused_until_the_first_is_gone(home: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(home / "local.lock"), "4711"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(lifecycle.LifecycleError, match=r"'local' \(pid 4711 since noon\)"), held("local"):
            pass
        with held("other"):
            pass
    finally:
        holder.kill()
        holder.wait(10)
    # Killed, not ended: the lock is the kernel's and goes with the process.
    with held("local"):
        assert f"pid {os.getpid()}" in (home / "local.lock").read_text()


def held(stack: str) -> Any:
    return lifecycle._only_one(stack)


def lock_of(home: Path, text: str) -> Path:
    path = home / "pulumi/.pulumi/locks/organization/wms/local/x.json"
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return path


def test_the_lock_of_a_killed_pulumi_is_removed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True
    )
    path = lock_of(home, f'{{"pid": {int(ended.stdout)}}}')
    lifecycle._unlock(SimpleNamespace(), "local")  # type: ignore[arg-type]
    assert not path.exists()
    assert "removing the lock" in capsys.readouterr().err


def test_the_lock_of_a_living_pulumi_is_respected(home: Path) -> None:
    path = lock_of(home, f'{{"pid": {os.getpid()}}}')
    with pytest.raises(lifecycle.LifecycleError, match=f"pid {os.getpid()}"):
        lifecycle._unlock(SimpleNamespace(), "local")  # type: ignore[arg-type]
    assert path.exists()


def test_down_without_a_terminal_needs_yes(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("local\n"))
    monkeypatch.setattr(lifecycle, "down", lambda _: pytest.fail("asked for nothing"))
    assert lifecycle.run(["down"]) == 1
    assert "--yes" in capsys.readouterr().err


def test_a_wrong_value_is_refused_before_pulumi_is_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stack = SimpleNamespace(get_all_config=dict, up=lambda **_: pytest.fail("went on"))
    monkeypatch.setattr(lifecycle, "_stack", lambda _: stack)
    monkeypatch.setattr(lifecycle, "_set_overrides", lambda *_: pytest.fail("stored it"))
    assert lifecycle.run(["up", "--overrides", '{"postgres": {"work_mem_mb": -1}}']) == 1
    told = capsys.readouterr().err
    assert "postgres.work_mem_mb" in told
    assert "-1" in told


def test_settings_of_another_home_lose_their_salt_only(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = tmp_path / "project"
    project.mkdir()
    settings = project / "Pulumi.local.yaml"
    settings.write_text("encryptionsalt: v1:of-another\nconfig:\n  wms:overrides:\n    network: '127.9'\n")
    monkeypatch.setattr(lifecycle, "PROJECT", project)
    monkeypatch.setattr(automation, "create_or_select_stack", lambda **given: given)
    lifecycle._stack("local")
    assert settings.read_text() == "config:\n  wms:overrides:\n    network: '127.9'\n"
    # With a state of this home the salt is ours and stays.
    state = home / "pulumi/.pulumi/stacks/wms/local.json"
    state.parent.mkdir(parents=True)
    state.write_text("{}")
    settings.write_text("encryptionsalt: v1:ours\n")
    lifecycle._stack("local")
    assert settings.read_text() == "encryptionsalt: v1:ours\n"


def event(operation: str, kind: str, name: str) -> Any:
    metadata = SimpleNamespace(op=SimpleNamespace(value=operation), type=f"a:b:{kind}", urn=f"urn::x::{name}")
    return SimpleNamespace(diagnostic_event=None, res_outputs_event=SimpleNamespace(metadata=metadata))


def told(severity: str, message: str) -> Any:
    return SimpleNamespace(
        diagnostic_event=SimpleNamespace(severity=severity, message=message), res_outputs_event=None
    )


def test_progress_shows_what_changes_and_what_goes_wrong() -> None:
    stream = io.StringIO()
    progress = lifecycle.Progress(stream)
    for shown in (
        event("create", "File", "pg-1/patroni.yml"),
        event("delete", "Process", "pg-1/patroni"),
        told("error", "pg-1: no space"),
    ):
        progress.event(shown)
    for quiet in (
        event("same", "Process", "pg-2/patroni"),
        event("delete", "File", "pg-2/patroni.yml"),
        told("info", "chatter"),
        told("warning", "using pulumi-resource-wms from $PATH at /x"),
    ):
        progress.event(quiet)
    lines = stream.getvalue().splitlines()
    assert [line.split("s  ", 1)[1].split()[-1] for line in lines] == [
        "pg-1/patroni.yml",
        "pg-1/patroni",
        "space",
    ]


def test_the_reason_of_a_failure_is_what_pulumi_wrote_to_stderr() -> None:
    error = automation.CommandError(
        automation.CommandResult(stdout="out", stderr="error: the reason\n", code=1)
    )
    assert lifecycle._reason(error) == "error: the reason"
