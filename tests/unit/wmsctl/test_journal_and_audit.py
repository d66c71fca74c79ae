from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from wmsctl.audit import Audit
from wmsctl.errors import Failed, Refused, Usage
from wmsctl.journal import Journal
from wmsctl.secrets import Secret


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "state")


def test_an_operation_tells_its_story(journal: Journal) -> None:
    record = journal.begin("failover.switchover", {"to": "pg-2"}, {"yes": True})
    with record.step("pause", pooler="proxy-1") as facts:
        facts["waited_ms"] = 12
    record.note(seen="x")
    record.finish("done", gap_ms=700)
    [operation] = journal.history()
    assert (operation.kind, operation.plan, operation.result) == (
        "failover.switchover",
        {"to": "pg-2"},
        "done",
    )
    [step] = operation.steps
    assert (step.name, step.state, step.detail) == ("pause", "done", {"pooler": "proxy-1", "waited_ms": 12})
    assert operation.notes[0]["seen"] == "x"
    assert operation.detail == {"gap_ms": 700}
    assert operation.pid == os.getpid()
    assert journal.unfinished() == []


def test_an_error_in_a_step_is_kept_and_passes_on(journal: Journal) -> None:
    record = journal.begin("x", None)
    with pytest.raises(ValueError, match="bad"), record.step("one"):
        raise ValueError("bad")
    with pytest.raises(KeyboardInterrupt), record.step("two"):
        raise KeyboardInterrupt
    [operation] = journal.unfinished()
    assert [(s.name, s.state) for s in operation.steps] == [("one", "failed"), ("two", "interrupted")]
    assert operation.steps[0].detail["error"] == "ValueError: bad"
    assert operation.reached("one")
    assert not operation.completed("one")


def test_a_step_may_stand_inside_another(journal: Journal) -> None:
    record = journal.begin("x", None)
    with record.step("outer"), record.step("inner"):
        pass
    [operation] = journal.history()
    assert [(s.name, s.state) for s in operation.steps] == [("outer", "done"), ("inner", "done")]


def test_a_killed_process_leaves_what_it_had_started(journal: Journal) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from wmsctl.journal import Journal\n"
        "journal = Journal(Path(sys.argv[1]))\n"
        "with journal.lock('wmsctl test'):\n"
        "    record = journal.begin('x', {'a': 1})\n"
        "    with record.step('done one'): pass\n"
        "    with record.step('cut off'): os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal.directory)], timeout=20)
    assert done.returncode == -signal.SIGKILL
    [operation] = journal.unfinished()
    assert [(s.name, s.state) for s in operation.steps] == [("done one", "done"), ("cut off", "started")]
    # The lock died with its holder: no stale lock to remove.
    with journal.lock("next"):
        record = journal.reopen(operation)
        with record.step("cut off"):
            pass
        record.finish("done")
    [operation] = journal.history()
    assert operation.completed("cut off")
    assert operation.result == "done"


def test_a_torn_last_line_is_tolerated_and_cut_off(journal: Journal) -> None:
    record = journal.begin("x", None)
    with record.step("one"):
        pass
    with record.path.open("ab") as file:
        file.write(b'{"at":"2026-01-01T00:00:00Z","event":"st')
    [operation] = journal.unfinished()
    assert [s.name for s in operation.steps] == ["one"]
    journal.reopen(operation).finish("undone")
    assert journal.history()[0].result == "undone"


def test_a_first_line_that_never_arrived_is_no_operation(journal: Journal) -> None:
    record = journal.begin("x", None)
    record.path.write_bytes(b'{"at"')
    assert journal.history() == []


def test_damage_in_the_middle_is_not_guessed_over(journal: Journal) -> None:
    record = journal.begin("x", None)
    record.note(a=1)
    record.path.write_bytes(record.path.read_bytes().replace(b'"note"', b'"no', 1))
    record.note(b=1)
    with pytest.raises(Failed, match="damaged in line 2"):
        journal.history()


def test_the_lock_says_who_holds_it(journal: Journal) -> None:
    with (
        journal.lock("wmsctl failover switchover"),
        pytest.raises(Refused) as caught,
        journal.lock("second"),
    ):
        pass
    assert f"pid {os.getpid()} (wmsctl failover switchover)" in caught.value.message
    with journal.lock("third"):
        pass


def test_the_lock_is_waited_for_when_told_to(journal: Journal) -> None:
    code = (
        "import sys, time; from pathlib import Path; from wmsctl.journal import Journal\n"
        "with Journal(Path(sys.argv[1])).lock('other'):\n"
        "    print('held', flush=True); time.sleep(0.3)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(journal.directory)], stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(Refused, match="other"), journal.lock("me"):
            pass
        with journal.lock("me", wait_s=10):
            pass


def test_history_is_newest_first_and_can_be_narrowed(journal: Journal) -> None:
    for kind in ("failover.switchover", "backup.full", "failover.promote"):
        journal.begin(kind, None).finish("done")
    assert [o.kind for o in journal.history()] == ["failover.promote", "backup.full", "failover.switchover"]
    assert [o.kind for o in journal.history(kind="failover", limit=1)] == ["failover.promote"]
    newest = journal.history()[0]
    assert journal.get(newest.id) == newest
    with pytest.raises(Usage, match="3 operations"):
        journal.get("Z-")


def test_files_are_private(journal: Journal) -> None:
    record = journal.begin("x", None)
    with journal.lock("y"):
        assert record.path.stat().st_mode & 0o777 == 0o600
        assert (journal.directory / "lock").stat().st_mode & 0o777 == 0o600


def test_an_unwritable_state_folder_stops_before_anything_is_done(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed, match="state folder"):
        Journal(tmp_path / "file").begin("x", None)
    ran = False
    with (
        pytest.raises(Failed, match="nothing was changed"),
        Audit(tmp_path / "file" / "a", "c").mutation("x"),
    ):
        ran = True
    assert not ran


def test_every_mutation_leaves_one_line_without_secrets(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "s" / "audit.jsonl", "local")
    with audit.mutation(
        "node kill", node="pg-1", password="hunter2", nested={"token": "hunter2"}, s=Secret("hunter2")
    ):
        pass
    with pytest.raises(Refused), audit.mutation("node kill", node="pg-2"):
        raise Refused("not now")
    with pytest.raises(KeyboardInterrupt):
        interrupted(audit)
    text = audit.path.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["result"] for line in lines] == ["done", "refused", "interrupted"]
    assert "hunter2" not in text
    assert lines[0]["arguments"]["node"] == "pg-1"
    assert lines[1]["facts"]["error"] == "not now"
    assert lines[2]["facts"]["n"] == 1
    assert {"at", "operator", "host", "context", "action", "duration_s"} <= set(lines[0])
    assert lines[0]["at"].endswith("Z")
    assert audit.path.stat().st_mode & 0o777 == 0o600


def interrupted(audit: Audit) -> None:
    with audit.mutation("node kill", node="pg-3") as facts:
        facts["n"] = 1
        raise KeyboardInterrupt
