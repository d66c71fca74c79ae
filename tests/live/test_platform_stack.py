"""The stack on this machine: previews, changes, repairs, and what is refused before anything is touched.

Plain `pulumi` and `make up` (the lifecycle) by turns: they are to be the same program on the same state.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from psutil import NoSuchProcess, Process

from bench.rig import program
from stacks.local.program import ROOT
from tests.support.platform import Live, Ran, eventually, left_behind, plain, working_below

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

OTHER, OTHER_OVERRIDES = "test-2", {"network": "127.44"}
"""A second stack, made and removed by one test."""
UP_S = 200


def work_mem_is(platform: Live, member: str, value: str) -> Callable[[], bool]:
    """Whether `member` has that value now."""
    return lambda: platform.on(member, "SHOW work_mem") == [(value,)]


def overrides(platform: Live) -> dict[str, Any]:
    """The values that this stack lays over its environment's."""
    done = platform.pulumi("config", "--json")
    assert done.code == 0, done.text
    entry = json.loads(done.out).get("wms:overrides", {})
    found: dict[str, Any] = entry.get("objectValue") or json.loads(entry.get("value") or "{}")
    return found


def configuration(platform: Live) -> str:
    return (platform.project / f"Pulumi.{platform.name}.yaml").read_text()


def postmasters(platform: Live) -> dict[str, int]:
    return {name: platform.postmaster(name) for name in platform.members}


@contextmanager
def untouched(platform: Live) -> Iterator[None]:
    """Fails when a process was started or ended, or the stack's configuration changed, during the body."""
    before = (platform.pids(), postmasters(platform), configuration(platform))
    yield
    after = (platform.pids(), postmasters(platform), configuration(platform))
    assert after == before


@contextmanager
def settings(platform: Live, changed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The overrides with `changed` in them; what was in force before is in force again in the end."""
    before = overrides(platform)
    try:
        yield {**before, **changed}
    finally:
        back = platform.lifecycle("up", "--overrides", json.dumps(before), timeout=UP_S)
        assert back.code == 0, back.text


def await_work_mem(platform: Live, member: str, value: str) -> None:
    """A reload reaches the sessions that begin after it."""
    eventually(
        lambda: platform.on(member, "SHOW work_mem") == [(value,)], 20, f"{member} has not reloaded work_mem"
    )


def lock(platform: Live) -> Path:
    return platform.home.parent / f"{platform.name}.lock"


def start_up(platform: Live, values: Mapping[str, Any], name: str = "") -> subprocess.Popen[str]:
    """Begin `lifecycle up` in a process group of its own."""
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "stacks.local.lifecycle", "up", "--stack", name or platform.name),
            *("--overrides", json.dumps(values)),
        ],
        env=dict(platform.environment),
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def kill_tree(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a run and to everything that it started and that hangs on it, as the loss of its session would."""
    children = Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    for child in children:
        with suppress(NoSuchProcess):
            child.kill()
    process.wait(10)
    assert process.stderr is not None
    process.stderr.close()


# Looking


def test_plain_preview_without_a_change_shows_none(platform: Live) -> None:
    with untouched(platform):
        done = platform.pulumi("preview", "--expect-no-changes", "--diff")
    assert done.code == 0, done.text
    assert "unchanged" in done.out


def test_make_up_without_a_change_touches_nothing(platform: Live) -> None:
    with platform.writing() as load, untouched(platform):
        load.fault()
        done = platform.lifecycle("up", timeout=UP_S)
        account = load.account()
    assert done.code == 0, done.text
    assert "same" in done.err and "update" not in done.err.partition("up in ")[2], done.text
    assert account.errors == {}, account


# Changing


def test_a_reloadable_setting_is_shown_and_reloaded_without_a_restart(platform: Live) -> None:
    """Through the plain CLI: config set, preview, up."""
    before = postmasters(platform)
    leader = platform.leader()
    path = "wms:overrides.postgres.work_mem_mb"
    with settings(platform, {}), platform.writing() as load:
        load.fault()
        done = platform.pulumi("config", "set", "--path", path, "9")
        assert done.code == 0, done.text
        preview = platform.pulumi("preview", "--diff")
        assert preview.code == 0, preview.text
        assert "work_mem" in preview.out and "9MB" in preview.out, preview.text
        assert platform.on(leader, "SHOW work_mem") == [("4MB",)], "a preview changed something"
        up = platform.pulumi("up", "--yes", "--skip-preview")
        assert up.code == 0, up.text
        for member in platform.members:
            eventually(work_mem_is(platform, member, "9MB"), 20, f"{member} has not reloaded work_mem")
        account = load.account()
    assert account.errors == {}, account
    assert postmasters(platform) == before, "a reloadable setting restarted PostgreSQL"
    assert platform.leader() == leader
    assert platform.on(leader, "SHOW work_mem") == [("4MB",)]


@pytest.mark.full
@pytest.mark.timeout(420)
def test_a_setting_that_needs_a_restart_restarts_replicas_first_and_one_by_one(platform: Live) -> None:
    before = postmasters(platform)
    leader = platform.leader()
    with settings(platform, {"postgres": {"max_connections": 210}}) as values, platform.writing() as load:
        load.fault()
        done = platform.lifecycle("up", "--overrides", json.dumps(values), timeout=UP_S)
        assert done.code == 0, done.text
        assert platform.wait_whole(60)
        assert all(platform.on(name, "SHOW max_connections") == [("210",)] for name in platform.members)
        started = {
            name: platform.on(name, "SELECT pg_postmaster_start_time()")[0][0] for name in platform.members
        }
        load.flowing(20)
        account = load.account()
    assert all(postmasters(platform)[name] != pid for name, pid in before.items())
    assert max(started, key=lambda name: started[name]) == leader or platform.leader() != leader
    assert account.recovery is not None and account.recovery.gap_s is not None
    assert account.recovery.gap_s < 20


# Finding and repairing


def test_refresh_finds_what_was_stopped_or_edited_and_up_repairs_it(platform: Live) -> None:
    program = "gateway-2.nginx-exporter"
    file = platform.home / "nodes" / "proxy-2" / "haproxy" / "haproxy.cfg"
    text, before = file.read_text(), platform.pids()
    assert platform.supervisor.stop(program)
    eventually(
        lambda: {p.name: p.state for p in platform.supervisor.programs()}[program] == "STOPPED",
        20,
        f"{program} does not stop",
    )
    file.write_text(text + "\n# edited by hand\n")
    drifted = platform.pulumi("preview", "--refresh", "--diff")
    assert drifted.code == 0, drifted.text
    refreshed = platform.pulumi("refresh", "--yes", "--skip-preview", "--diff")
    assert refreshed.code == 0, refreshed.text
    for name in ("gateway-2/nginx-exporter", "proxy-2/haproxy/haproxy.cfg"):
        assert f"::{name}" in refreshed.out or f" {name}" in refreshed.out, refreshed.text
    assert file.read_text() != text, "a refresh only looks"
    repaired = platform.pulumi("up", "--yes", "--skip-preview")
    assert repaired.code == 0, repaired.text
    assert file.read_text() == text
    after = platform.pids()
    assert after[program] not in (0, before[program])
    changed = {name for name in before if after[name] != before[name]}
    assert changed == {program}, "the repair restarted more than what was away"
    again = platform.pulumi("preview", "--expect-no-changes")
    assert again.code == 0, again.text


def test_make_up_repairs_a_removed_file_and_a_killed_supervisor(platform: Live) -> None:
    """The supervisor dies with SIGKILL: its processes go on, and the next up has them under one again."""
    file = platform.home / "nodes" / "monitor-1" / "alertmanager" / "alertmanager.yml"
    text, before = file.read_text(), postmasters(platform)
    file.unlink()
    pid = int((platform.home / "supervisor" / "supervisord.pid").read_text())
    with platform.writing() as load:
        load.fault()
        os.kill(pid, signal.SIGKILL)
        done = platform.lifecycle("up", timeout=UP_S)
        assert done.code == 0, done.text
        eventually(lambda: not platform.trouble(), 60, lambda: f"not whole: {platform.trouble()}")
        load.flowing(20)
        load.account()
    assert file.read_text() == text
    assert int((platform.home / "supervisor" / "supervisord.pid").read_text()) != pid
    assert set(before) == set(postmasters(platform))


# Refusing


def test_a_second_make_up_at_once_is_refused(platform: Live) -> None:
    first = start_up(platform, overrides(platform))
    eventually(lambda: f"pid {first.pid} " in lock(platform).read_text(), 20, "the first takes no lock")
    second = platform.lifecycle("up")
    _, err = first.communicate(timeout=UP_S)
    assert second.code == 1 and f"pid {first.pid}" in second.err and "another run" in second.err, second.text
    assert "Traceback" not in second.err
    assert first.returncode == 0, err


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"postgres": {"work_mem_mb": -1}}, ("postgres.work_mem_mb", "-1", ">= 1")),
        ({"postgres": {"work_mem_mb": "much"}}, ("postgres.work_mem_mb", "much")),
        ({"postgres": {"wrok_mem_mb": 8}}, ("postgres.wrok_mem_mb", "work_mem_mb")),
        ({"pooler": {"port": 80}}, ("pooler.port", "80", "1024")),
        ({"pooler": {"port": 5000}}, ("pooler.port", "proxy.write_port", "5000")),
        ({"postgres": {"synchronous_nodes": 4}}, ("synchronous_nodes", "4")),
        ({"network": "10.0"}, ("network", "10.0", "127")),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else "",
)
def test_a_wrong_value_is_refused_before_anything_is_touched(
    platform: Live, wrong: dict[str, Any], words: tuple[str, ...]
) -> None:
    values = {**overrides(platform), **wrong}
    with untouched(platform):
        done = platform.lifecycle("up", "--overrides", json.dumps(values))
    assert done.code == 1, done.text
    assert "Traceback" not in done.err, done.text
    for word in ("environments/local.toml", *words):
        assert word in plain(done.err), f"{word!r} is not named: {done.text}"


def test_a_wrong_value_is_refused_by_plain_pulumi_too(platform: Live) -> None:
    path = "wms:overrides.postgres.work_mem_mb"
    before = (platform.pids(), postmasters(platform))
    assert platform.pulumi("config", "set", "--path", path, "0").code == 0
    try:
        written = overrides(platform).get("postgres", {}).get("work_mem_mb")
        done = platform.pulumi("up", "--yes", "--skip-preview")
    finally:
        removed = platform.pulumi("config", "rm", "--path", "wms:overrides.postgres")
    assert written == 0, "the configuration was not set"
    assert removed.code == 0, removed.text
    assert done.code != 0 and "postgres.work_mem_mb" in plain(done.out + done.err), done.text
    assert (platform.pids(), postmasters(platform)) == before


def test_a_busy_port_is_refused_with_its_holder(platform: Live) -> None:
    address = platform.inventory.pools.poolers[0].address
    with socket.create_server((address, 6999)):
        values = {**overrides(platform), "pooler": {"port": 6999}}
        with untouched(platform):
            done = platform.lifecycle("up", "--overrides", json.dumps(values))
    assert done.code == 1, done.text
    assert f"{address}:6999" in done.err and "pooler.port" in done.err, done.text
    assert str(os.getpid()) in done.err, f"the holder is not named: {done.text}"


def test_down_asks_first(platform: Live) -> None:
    with untouched(platform):
        done = platform.lifecycle("down")
    assert done.code == 1 and "--yes" in done.err, done.text


# Interrupted


def test_a_change_that_was_killed_half_way_is_repaired_by_the_next_up(platform: Live) -> None:
    """kill -9 leaves a lock and pending operations; plain pulumi says so, `make up` removes them and goes on."""
    before = postmasters(platform)
    folder = platform.home.parent / "pulumi" / ".pulumi" / "locks" / "organization" / "wms" / platform.name
    with settings(platform, {"postgres": {"work_mem_mb": 7}}) as values, platform.writing() as load:
        load.fault()
        running = start_up(platform, values)
        eventually(lambda: folder.is_dir() and any(folder.glob("*.json")), 60, "no lock is taken", every=0.01)
        time.sleep(0.5)  # somewhere inside, where exactly is not to matter
        kill_tree(running)
        assert any(folder.glob("*.json")), "it was killed too late: its lock is gone"
        locked = platform.pulumi("up", "--yes", "--skip-preview")
        assert locked.code != 0 and "lock" in locked.err, locked.text
        done = platform.lifecycle("up", "--overrides", json.dumps(values), timeout=UP_S)
        assert done.code == 0, done.text
        assert "removing the lock" in done.err, done.text
        for member in platform.members:
            eventually(work_mem_is(platform, member, "7MB"), 20, f"{member} has not reloaded work_mem")
        account = load.account()
    assert account.errors == {}, account
    assert postmasters(platform) == before


def test_a_making_that_was_killed_half_way_is_finished_by_the_next_up(platform: Live) -> None:
    """A second stack: killed while it is made, made, destroyed by plain pulumi, removed without its configuration."""
    home = platform.home.parent / OTHER
    file = platform.project / f"Pulumi.{OTHER}.yaml"
    assert not home.exists(), f"{home} is left from an earlier run: lifecycle down --stack {OTHER} --yes"
    try:
        running = start_up(platform, OTHER_OVERRIDES, OTHER)
        assert running.stderr is not None
        created = 0
        for line in running.stderr:
            created += " create " in line
            if created >= 60:
                break
        assert created >= 60, "it ended before it was half-way"
        kill_tree(running)
        finished = other(platform, "up", "--overrides", json.dumps(OTHER_OVERRIDES))
        assert finished.code == 0, finished.text
        status = platform.ran(
            [
                program("wmsctl"),
                "context",
                "import",
                str(home / "inventory.json"),
                "--name",
                OTHER,
            ],
            timeout=30,
        )
        assert status.code == 0, status.text

        def healthy() -> bool:
            looked = platform.ran([program("wmsctl"), "-c", OTHER, "status"], timeout=60)
            return looked.code == 0

        eventually(healthy, 60, "the second stack is not healthy", every=1)
        destroyed = platform.ran(
            ["pulumi", "destroy", "--stack", OTHER, "--yes", "--skip-preview", "--non-interactive"],
            timeout=UP_S,
            cwd=platform.project,
        )
        assert destroyed.code == 0, destroyed.text
        assert working_below(home) == {}
        assert not home.exists() or not any(home.iterdir()), sorted(home.iterdir())
        file.unlink()
    finally:
        removed = other(platform, "down", "--yes")
    assert removed.code == 0, removed.text
    assert left_behind(home) == []


def other(platform: Live, action: str, *arguments: str) -> Ran:
    command = [sys.executable, "-m", "stacks.local.lifecycle", action, "--stack", OTHER, *arguments]
    return platform.ran(command, cwd=ROOT, timeout=UP_S)


def test_a_missing_stack_file_does_not_prevent_up(platform: Live) -> None:
    """Pulumi.<stack>.yaml is this machine's own and not in the repository: a fresh clone has none."""
    file = platform.project / f"Pulumi.{platform.name}.yaml"
    values, before = overrides(platform), (platform.pids(), postmasters(platform))
    kept = file.read_text()
    file.unlink()
    try:
        done = platform.lifecycle("up", "--overrides", json.dumps(values), timeout=UP_S)
    finally:
        if not file.exists():
            file.write_text(kept)
    assert done.code == 0, done.text
    assert overrides(platform) == values
    assert (platform.pids(), postmasters(platform)) == before


def test_a_stack_file_of_another_home_does_not_stand_in_the_way(platform: Live, tmp_path: Path) -> None:
    """A checkout used with two homes has stack files that were written with another passphrase."""
    file = platform.project / "Pulumi.test-3.yaml"
    try:
        foreign = platform.ran(
            ["pulumi", "stack", "init", "organization/wms/test-3", "--non-interactive"],
            cwd=platform.project,
            timeout=30,
            env={
                "PULUMI_BACKEND_URL": f"file://{tmp_path}",
                "PULUMI_CONFIG_PASSPHRASE": "another home's",
                "PULUMI_CONFIG_PASSPHRASE_FILE": "",
            },
        )
        assert foreign.code == 0 and "encryptionsalt" in file.read_text(), foreign.text
        done = platform.ran(
            [
                *(sys.executable, "-m", "stacks.local.lifecycle", "down"),
                *("--stack", "test-3", "--yes"),
            ],
            cwd=ROOT,
            timeout=60,
        )
    finally:
        file.unlink(missing_ok=True)
        (platform.home.parent / "test-3.lock").unlink(missing_ok=True)
    assert done.code == 0, done.text
    assert left_behind(platform.home.parent / "test-3") == []
