"""The operations on a platform in memory: their order, their ends, and that a pooler never stays paused."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import snapshots as s
from tests.support.failover import FakePlatform, broken, living_evidence
from wmsctl.audit import Audit
from wmsctl.errors import Failed, Refused, Unknown, Unreachable
from wmsctl.failover import run, settle, switchover
from wmsctl.failover.poolers import PauseFailed
from wmsctl.failover.run import Runner
from wmsctl.failover.snapshot import Unfinished
from wmsctl.journal import Journal, Operation
from wmsctl.output import Format, Printer


class Desk:
    """A runner over a fake platform, its journal and what it printed."""

    def __init__(self, folder: Path, platform: FakePlatform, *, yes: bool = True) -> None:
        self.platform = platform
        self.journal = Journal(folder)
        self.stderr = io.StringIO()
        self.audit_path = folder / "audit.jsonl"
        printer = Printer(Format.table, stdout=io.StringIO(), stderr=self.stderr)
        self.runner = Runner(
            platform, self.journal, Audit(self.audit_path, "test"), printer, "wmsctl test", yes=yes
        )

    def switchover(self, to: str = "", *, dry_run: bool = False) -> run.Result:
        return self.runner.switchover(to, pause_s=1.0, deadline_s=0.05, dry_run=dry_run)

    def promote(
        self, *, fence: bool = True, allow: bool = False, to: str = "", deadline: float = 0.05
    ) -> run.Result:
        return self.runner.promote(to, fence=fence, allow_data_loss=allow, deadline_s=deadline, dry_run=False)

    def last(self) -> Operation:
        return self.journal.history()[0]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(run, "SETTLE_S", 0.3)
    monkeypatch.setattr(settle, "CALM_S", 0.2)
    monkeypatch.setattr(switchover, "STALL_LIMIT_S", 0.05)

    def make(platform: FakePlatform | None = None, *, yes: bool = True) -> Desk:
        return Desk(tmp_path / "state", platform or FakePlatform(), yes=yes)

    return make


class TestSwitchover:
    def test_goes_through_the_steps_in_order(self, desk: Any) -> None:
        d = desk()
        result = d.switchover()
        assert (result.result, result.leader, result.timeline) == ("done", "pg-2", 6)
        assert result.measured["write_stall"] == 640.0
        assert d.platform.calls == [
            "prepare",
            "checkpoint",
            "arm",
            "pause",
            "request",
            "prove-proxies",
            "resume wms",
            "reads-settled",
            "resume wms_read,wms_reports",
            "disarm",
            "prove-poolers",
            "close",
        ]
        assert d.last().result == "done"
        assert [p.via for p in result.proofs] == ["proxy-1:5000", "proxy-1:6432"]

    def test_a_dry_run_changes_nothing(self, desk: Any) -> None:
        d = desk()
        result = d.switchover(dry_run=True)
        assert result.result == "planned" and len(result.steps) == 7
        assert d.platform.calls == [] and d.journal.history() == []

    def test_already_so(self, desk: Any) -> None:
        d = desk()
        assert d.switchover("pg-1").result == "already"
        assert d.platform.calls == []

    def test_asks_and_refuses_without_an_answer(self, desk: Any) -> None:
        d = desk(yes=False)
        with pytest.raises(Refused, match="not confirmed"):
            d.switchover()
        assert d.platform.calls == [] and d.journal.history() == []

    @pytest.mark.parametrize("call", ["pause", "request", "promoted", "prove-proxies"])
    @pytest.mark.parametrize(
        "error", [broken(), Unreachable("gone"), KeyboardInterrupt(), SystemExit(143), ValueError("bug")]
    )
    def test_resumes_whatever_happens_inside_the_pause(
        self, desk: Any, call: str, error: BaseException
    ) -> None:
        d = desk(FakePlatform(fail={call: error}))
        with pytest.raises((Failed, Unknown, Unreachable, Refused, type(error))):
            d.switchover()
        calls = d.platform.calls
        assert not d.platform.paused
        assert calls.index("arm") < calls.index("pause") < calls.index("resume all") < calls.index("disarm")
        assert calls[-1] == "close" or "prove pg" in " ".join(calls)

    def test_no_pause_without_a_guard(self, desk: Any) -> None:
        d = desk(FakePlatform(fail={"arm": broken("the guard does not start")}))
        with pytest.raises(Failed, match="the guard does not start"):
            d.switchover()
        assert "pause" not in d.platform.calls
        assert d.last().result == "failed"

    def test_a_pause_out_of_time_is_a_refusal_that_names_who_is_in_the_way(self, desk: Any) -> None:
        platform = FakePlatform(
            fail={"pause": PauseFailed("proxy-1 (timed out)", [99])}, busy=["pid 99 of wms_app"]
        )
        d = desk(platform)
        with pytest.raises(Refused, match="did not come to rest") as caught:
            d.switchover()
        assert any("pid 99 of wms_app" in note for note in caught.value.__notes__)
        assert not platform.paused and "request" not in platform.calls
        assert d.last().result == "refused"

    def test_patroni_declines(self, desk: Any) -> None:
        d = desk(FakePlatform(on_request="refuse"))
        with pytest.raises(Failed, match="no good candidates") as caught:
            d.switchover()
        assert "pg-1 leads" in caught.value.hint
        assert d.last().result == "undone" and "prove pg-1" in d.platform.calls

    def test_another_member_leads_afterwards(self, desk: Any) -> None:
        d = desk(FakePlatform(on_request="elsewhere"))
        with pytest.raises(Failed, match="failed") as caught:
            d.switchover()
        assert "pg-3 leads on timeline 6" in caught.value.hint
        assert d.last().result == "failed"

    def test_late_but_done_says_so(self, desk: Any) -> None:
        d = desk(FakePlatform(fail={"prove-proxies": broken("no write was proven")}))
        with pytest.raises(Failed, match="not as planned"):
            d.switchover()
        assert d.last().result == "done"

    def test_an_uncertain_end_stays_open_and_blocks_the_next(self, desk: Any) -> None:
        platform = FakePlatform(on_request="nothing", request_pending=True)
        d = desk(platform)
        with pytest.raises(Unknown, match="not known") as caught:
            d.switchover()
        assert "resume" in caught.value.hint
        assert d.last().unfinished
        platform.snapshot = lambda: s.healthy(unfinished=(Unfinished(d.last().id, "switchover", "t"),))
        with pytest.raises(Refused, match="unfinished"):
            d.switchover()

    def test_a_pooler_that_cannot_be_resumed_is_left_to_the_guard(self, desk: Any) -> None:
        d = desk(FakePlatform(still_paused=["proxy-2: gone"]))
        with pytest.raises(Unknown, match="proxy-2") as caught:
            d.switchover()
        assert "guard (pid 4242)" in caught.value.hint
        assert "release" in d.platform.calls and "disarm" not in d.platform.calls
        assert d.last().unfinished

    def test_an_old_leader_that_does_not_return_is_told_and_the_switchover_is_done(self, desk: Any) -> None:
        d = desk(FakePlatform(streams=False))
        with pytest.raises(Unknown, match="pg-1 to stream") as caught:
            d.switchover()
        assert "rejoin pg-1" in caught.value.hint
        assert any("the switchover is done" in note for note in caught.value.__notes__)
        assert d.last().result == "done"

    def test_resumes_also_when_the_journal_cannot_be_written(
        self, desk: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from wmsctl.journal import Record

        platform = FakePlatform()
        d = desk(platform)
        write = Record._write

        def full(record: Record, line: Any) -> None:
            if platform.paused:
                raise Failed("cannot write the journal: no space left on device")
            write(record, line)

        monkeypatch.setattr(Record, "_write", full)
        with pytest.raises(Failed):
            d.switchover()
        assert not platform.paused

    def test_writes_an_audit_line(self, desk: Any) -> None:
        d = desk()
        d.switchover()
        line = json.loads(d.audit_path.read_text().splitlines()[-1])
        assert (line["action"], line["result"]) == ("failover switchover", "done")
        assert line["facts"]["operation"] == d.last().id


class TestPromote:
    def lost(self, **changes: Any) -> FakePlatform:
        return FakePlatform(leader="", snapshot=s.lost, **changes)

    def test_fences_before_it_touches_the_lease(self, desk: Any) -> None:
        d = desk(self.lost())
        result = d.promote()
        assert (result.result, result.leader, result.timeline, result.old_leader) == (
            "done",
            "pg-2",
            6,
            "pg-1",
        )
        assert d.platform.calls == ["fence pg-1", "delete-leader pg-1 4711", "prove pg-2"]
        assert set(result.measured) == {"fenced", "lease_ended", "new_leader", "write_proven"}

    def test_never_touches_the_lease_without_proof(self, desk: Any) -> None:
        d = desk(self.lost(evidence=living_evidence()))
        with pytest.raises(Failed, match="not proven dead"):
            d.promote()
        assert not any(call.startswith("delete-leader") for call in d.platform.calls)
        assert d.last().result == "failed"

    def test_a_fence_that_fails_leaves_the_lease_alone(self, desk: Any) -> None:
        d = desk(self.lost(fail={"fence": broken("uninterruptible")}))
        with pytest.raises(Failed, match="uninterruptible"):
            d.promote()
        assert d.platform.calls == ["fence pg-1"]

    def test_without_fencing_nothing_is_killed_or_deleted(self, desk: Any) -> None:
        platform = self.lost(leaderless_looks=3)
        platform.leader, platform.timeline = "pg-3", 6
        d = desk(platform)
        assert d.promote(fence=False).leader == "pg-3"
        assert platform.calls == ["prove pg-3"]

    def test_a_changed_lease_is_left_alone_and_the_race_awaited(self, desk: Any) -> None:
        platform = self.lost(key_unchanged=False)
        d = desk(platform)
        with pytest.raises(Unknown, match="no new leader") as caught:
            d.promote()
        assert "resume" in caught.value.hint and d.last().unfinished

    def test_a_lost_answer_of_the_store_is_not_repeated(self, desk: Any) -> None:
        platform = self.lost(fail={"delete-leader": Unreachable("no answer")})
        d = desk(platform)
        with pytest.raises(Unknown):
            d.promote()
        assert sum(call.startswith("delete-leader") for call in platform.calls) == 1

    def test_data_loss_asks_patroni_by_name_and_says_what(self, desk: Any) -> None:
        platform = FakePlatform(leader="", snapshot=lambda: s.lost(reachable=("pg-3",)))
        platform.key_unchanged = False
        d = desk(platform)
        result = d.promote(allow=True, deadline=2.0)
        assert "failover pg-3" in platform.calls
        assert result.loss is not None and "commits may be lost" in d.stderr.getvalue()

    def test_refuses_where_a_commit_could_be_lost(self, desk: Any) -> None:
        d = desk(FakePlatform(leader="", snapshot=lambda: s.lost(reachable=("pg-3",))))
        with pytest.raises(Refused, match="could be lost"):
            d.promote()
        assert d.platform.calls == [] and d.journal.history() == []

    def test_already_so_still_proves_a_write(self, desk: Any) -> None:
        d = desk(FakePlatform(leader="pg-1", snapshot=lambda: s.healthy(s.dead("pg-4"))))
        assert d.promote().result == "already"
        assert d.platform.calls == ["prove pg-1"]

    def test_supersedes_an_interrupted_switchover_and_lifts_its_pause(self, desk: Any) -> None:
        platform = FakePlatform(fail={"pause": KeyboardInterrupt()})
        d = desk(platform)
        with pytest.raises(KeyboardInterrupt):
            d.switchover()
        platform.fail, platform.paused, platform.leader, platform.snapshot = {}, True, "", s.lost
        platform.calls.clear()
        assert d.promote().leader == "pg-2"
        assert not platform.paused and platform.calls[0] == "resume-poolers"
        assert [op.result for op in d.journal.history()] == ["done", "failed"]

    def test_the_old_primary_comes_back(self, desk: Any) -> None:
        d = desk(FakePlatform(leader="pg-1", snapshot=s.lost))
        result = d.promote(fence=False)
        assert result.result == "undone" and "nobody was promoted" in result.summary


class TestRejoin:
    def fenced(self, **changes: Any) -> FakePlatform:
        snapshot = s.healthy(
            s.dead("pg-1"), s.primary("pg-2"), store=s.store("pg-2"), powered_off=frozenset({"pg-1"})
        )
        return FakePlatform(leader="pg-2", snapshot=lambda: snapshot, **changes)

    def rejoin(self, d: Desk, *, rebuild: bool = False, node: str = "pg-1") -> run.Result:
        return d.runner.rejoin(node, rebuild=rebuild, deadline_s=0.05, dry_run=False)

    def test_powers_on_and_waits(self, desk: Any) -> None:
        d = desk(self.fenced())
        assert self.rejoin(d).result == "done"
        assert d.platform.calls == ["power-on pg-1"]

    def test_rebuilds_only_after_asking(self, desk: Any) -> None:
        d = desk(self.fenced(), yes=False)
        with pytest.raises(Refused, match="not confirmed"):
            self.rejoin(d, rebuild=True)
        assert d.platform.calls == []

    def test_rebuilds_when_told(self, desk: Any) -> None:
        d = desk(self.fenced())
        self.rejoin(d, rebuild=True)
        assert d.platform.calls == ["power-on pg-1", "reinitialize pg-1"]

    def broken(self, monkeypatch: pytest.MonkeyPatch) -> FakePlatform:
        """pg-1 is on and its PostgreSQL does not start."""
        from wmsctl.failover import rejoining

        monkeypatch.setattr(rejoining, "BROKEN_S", 0.0)
        snapshot = s.healthy(
            s.replica("pg-1", state="start failed"), s.primary("pg-2"), store=s.store("pg-2")
        )
        platform = FakePlatform(
            leader="pg-2", snapshot=lambda: snapshot, member_state="start failed", streams=False
        )
        return platform

    def test_a_member_that_does_not_start_is_power_cycled(
        self, desk: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        platform = self.broken(monkeypatch)
        platform.cured_by = "power-on"
        result = self.rejoin(desk(platform, yes=False))
        assert "after a power cycle" in result.summary
        assert platform.calls == ["fence pg-1", "power-on pg-1"]

    def test_and_when_that_does_not_help_rebuilt_with_consent(
        self, desk: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        platform = self.broken(monkeypatch)
        result = self.rejoin(desk(platform))
        assert "rebuilt" in result.summary
        assert platform.calls == ["fence pg-1", "power-on pg-1", "reinitialize pg-1"]

    def test_without_consent_its_data_stays(self, desk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        platform = self.broken(monkeypatch)
        d = desk(platform, yes=False)
        with pytest.raises(Refused, match="not confirmed"):
            self.rejoin(d)
        assert "reinitialize pg-1" not in platform.calls and d.last().result == "failed"

    def test_not_yet_is_unknown_and_leaves_nothing_to_settle(self, desk: Any) -> None:
        d = desk(self.fenced(streams=False))
        with pytest.raises(Unknown, match="does not stream"):
            self.rejoin(d)
        assert d.last().result == "failed"

    def test_follows_the_leader_of_the_moment(self, desk: Any) -> None:
        platform = self.fenced()
        platform.leader, platform.timeline = "pg-3", 9
        result = self.rejoin(desk(platform))
        assert (result.leader, result.timeline) == ("pg-3", 9) and "streams from pg-3" in result.summary

    def test_a_member_that_was_elected_meanwhile_is_back(self, desk: Any) -> None:
        platform = self.fenced()
        platform.leader = "pg-1"
        assert self.rejoin(desk(platform)).summary == "pg-1 leads on timeline 5"


class TestResume:
    def interrupted(self, desk: Any, call: str, **changes: Any) -> Desk:
        """A switchover that died at `call`, as its journal tells; the poolers are as the crash left them."""
        platform = FakePlatform(fail={call: KeyboardInterrupt()}, **changes)
        d: Desk = desk(platform)
        with pytest.raises(KeyboardInterrupt):
            d.switchover()
        assert d.last().unfinished
        platform.fail, platform.paused = {}, True
        platform.calls.clear()
        return d

    def resume(self, d: Desk) -> list[run.Result]:
        return d.runner.resume(deadline_s=0.5, dry_run=False)

    def test_nothing_unfinished(self, desk: Any) -> None:
        assert self.resume(desk()) == []

    def test_before_the_pause_nothing_is_touched(self, desk: Any) -> None:
        d = self.interrupted(desk, "checkpoint")
        assert [r.result for r in self.resume(d)] == ["undone"]
        assert d.platform.calls == []

    def test_in_the_pause_the_poolers_are_resumed(self, desk: Any) -> None:
        d = self.interrupted(desk, "pause")
        assert [r.result for r in self.resume(d)] == ["undone"]
        assert d.platform.calls == ["resume-poolers"] and not d.platform.paused

    def test_after_the_switch_it_is_finished(self, desk: Any) -> None:
        d = self.interrupted(desk, "prove-proxies")
        assert [(r.result, r.leader) for r in self.resume(d)] == [("done", "pg-2")]
        assert d.platform.calls == ["resume-poolers", "prove pg-2"]
        assert d.last().result == "done"

    def test_a_switch_that_never_happened_is_undone(self, desk: Any) -> None:
        d = self.interrupted(desk, "request", on_request="nothing")
        assert [(r.result, r.leader) for r in self.resume(d)] == [("undone", "pg-1")]

    def test_twice_is_once(self, desk: Any) -> None:
        d = self.interrupted(desk, "prove-proxies")
        self.resume(d)
        d.platform.calls.clear()
        assert self.resume(d) == [] and d.platform.calls == []

    def test_an_unreachable_pooler_keeps_it_open(self, desk: Any) -> None:
        d = self.interrupted(desk, "pause", still_paused=[])
        d.platform.still_paused = ["proxy-2"]
        with pytest.raises(Unknown, match="proxy-2"):
            self.resume(d)
        assert d.last().unfinished
        d.platform.still_paused = []
        assert [r.result for r in self.resume(d)] == ["undone"]

    def test_a_dry_run_only_lists(self, desk: Any) -> None:
        d = self.interrupted(desk, "pause")
        results = d.runner.resume(deadline_s=0.5, dry_run=True)
        assert [r.result for r in results] == ["planned"] and "after step resume" in results[0].summary
        assert d.platform.calls == [] and d.last().unfinished

    def test_a_promotion_goes_on_where_it_stopped(self, desk: Any) -> None:
        platform = FakePlatform(leader="", snapshot=s.lost, fail={"delete-leader": KeyboardInterrupt()})
        d = desk(platform)
        with pytest.raises(KeyboardInterrupt):
            d.promote()
        platform.fail = {}
        platform.calls.clear()
        assert [r.result for r in self.resume(d)] == ["done"]
        assert platform.calls == ["fence pg-1", "delete-leader pg-1 4711", "prove pg-2"]

    def test_a_promotion_that_patroni_finished_is_closed(self, desk: Any) -> None:
        platform = FakePlatform(leader="", snapshot=s.lost, fail={"delete-leader": KeyboardInterrupt()})
        d = desk(platform)
        with pytest.raises(KeyboardInterrupt):
            d.promote()
        platform.leader, platform.timeline = "pg-3", 6
        platform.calls.clear()
        assert [(r.result, r.leader) for r in self.resume(d)] == [("done", "pg-3")]
        assert platform.calls == ["prove pg-3"]


@pytest.mark.parametrize(
    ("moment", "state", "body"),
    [("pause", "started", False), ("pause:after", "started", True), ("other", "done", True)],
)
def test_the_hook_kills_at_the_named_step(tmp_path: Path, moment: str, state: str, body: bool) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from wmsctl.journal import Journal; from wmsctl.steps import Steps\n"
        "record = Journal(Path(sys.argv[1])).begin('failover.switchover', {})\n"
        "with Steps(record, lambda text: None).step('pause'): Path(sys.argv[1], 'body').touch()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={"WMSCTL_DIE_AT": moment, "PYTHONPATH": str(Path.cwd())},
    )
    assert done.returncode == (0 if moment == "other" else -signal.SIGKILL)
    assert Journal(tmp_path).history()[0].steps[0].state == state
    assert (tmp_path / "body").exists() is body
