"""Processes under a real supervisord: start, reload, restart, orphans, fences, failures, removal."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from stacks.local.provider import supervision
from stacks.local.provider.accounts import Account
from stacks.local.provider.errors import NotReady, ProviderError
from stacks.local.provider.handlers.process import ProcessHandler
from stacks.local.provider.handlers.supervisor import SupervisorHandler
from stacks.local.provider.processes import Action, Observed, ProcessInputs, decide
from stacks.local.provider.procfs import listener, task, under
from stacks.local.provider.rollout import Rollouts
from stacks.local.provider.values import Values
from tests.support.sandbox import PYTHON

ADDRESS = "127.41.79.1"


# -- what an update has to do --


def process(**inputs: Any) -> ProcessInputs:
    base = {
        "home": "/srv/wms",
        "node": "a-1",
        "name": "x",
        "command": ["/bin/x"],
        "reload": {"signal": "HUP"},
    }
    return msgspec.convert({**base, **inputs}, ProcessInputs)


RUNNING = Observed("running")


@pytest.mark.parametrize(
    ("old", "new", "observed", "action"),
    [
        ({}, {}, RUNNING, "nothing"),
        ({}, {"probe": {"kind": "none", "timeout_s": 9}}, RUNNING, "nothing"),
        ({}, {"rollout": {"group": "g"}}, RUNNING, "nothing"),
        ({"reload_on": {"c": "1"}}, {"reload_on": {"c": "2"}}, RUNNING, "reload"),
        ({"reload_on": {"c": "1"}}, {"reload_on": {"c": "2"}, "reload": None}, RUNNING, "restart"),
        ({"restart_on": {"c": "1"}}, {"restart_on": {"c": "2"}}, RUNNING, "restart"),
        ({}, {"restart_on": {"c": "2"}, "reload_on": {"d": "1"}}, RUNNING, "restart"),
        ({}, {"command": ["/bin/y"]}, RUNNING, "restart"),
        ({}, {"environment": {"A": "b"}}, RUNNING, "restart"),
        ({}, {"stop_signal": "INT"}, RUNNING, "recreate"),
        ({}, {"autorestart": False, "command": ["/bin/y"]}, RUNNING, "recreate"),
        ({}, {}, Observed("stopped"), "restart"),
        ({}, {"reload_on": {"d": "1"}}, Observed("stopped"), "restart"),
        ({}, {}, Observed("missing"), "recreate"),
        ({}, {}, Observed("running", same_files=False), "restart"),
        ({}, {}, Observed("running", serving=False), "restart"),
        ({}, {}, Observed("running", applied=False), "restart"),
        ({}, {"command": ["/bin/y"]}, Observed("fenced"), "nothing"),
    ],
)
def test_decide(old: Values, new: Values, observed: Observed, action: Action) -> None:
    assert decide(process(**old), process(**new), observed) == action


# -- generated texts --


def test_the_run_script_is_a_valid_shell_script_and_refuses_on_a_fenced_node(empty: Path) -> None:
    home = str(empty)
    folder = empty / "nodes/a-1/x"
    folder.mkdir(parents=True)
    (empty / "supervisor/log").mkdir(parents=True)
    script = folder / "run"
    text = supervision.run_text(home, "a-1", "x", ["/bin/echo", "it's", "$HOME; rm"], "abc")
    script.write_text(text, encoding="utf-8")
    (folder / "env").write_text(supervision.environment_text({"A": "it's $5", "B": "x\ny"}), encoding="utf-8")
    subprocess.run(["/bin/sh", str(script)], check=True, env={})
    log = empty / "supervisor/log/a-1.x.log"
    assert log.read_text(encoding="utf-8") == "it's $HOME; rm\n"
    (empty / "nodes/a-1/power-off").touch()
    assert subprocess.run(["/bin/sh", str(script)], check=False, env={}).returncode == 78
    assert log.read_text(encoding="utf-8").endswith("node a-1 is powered off\n")


def test_big_logs_are_put_aside(empty: Path) -> None:
    logs = empty / "supervisor/log"
    logs.mkdir(parents=True)
    (logs / "a-1.x.log").write_bytes(b"x" * (supervision.LOG_BYTES + 1))
    (logs / "a-1.y.log").write_bytes(b"y")
    script = empty / "rotate"
    script.write_text(supervision.rotation_text(str(empty)), encoding="utf-8")
    child = subprocess.Popen(["/bin/sh", str(script)], start_new_session=True)
    try:
        wait(lambda: (logs / "a-1.x.log").stat().st_size == 0)
        assert (logs / "a-1.x.log.1").stat().st_size == supervision.LOG_BYTES + 1
        assert (logs / "a-1.y.log").read_bytes() == b"y"
    finally:
        os.killpg(child.pid, signal.SIGTERM)
        child.wait(5)


def test_supervisors_files_hold_no_password_and_no_port(platform: Values) -> None:
    text = Path(platform["home"], "supervisor/supervisord.conf").read_text(encoding="utf-8")
    assert "inet_http_server" not in text
    assert "password" not in text


# -- life of a process --


def wait(condition: Callable[[], object], seconds: float = 10) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.05)


class Server:
    """A web server as a process resource, and the calls the engine would make."""

    def __init__(self, platform: Values, name: str, port: int) -> None:
        self.handler = ProcessHandler(Rollouts(calm=0.1))
        self.home = str(platform["home"])
        self.base: Values = {
            "home": self.home,
            "user": platform["user"],
            "node": "web-1",
            "name": name,
            "command": [PYTHON, "-m", "http.server", "--bind", ADDRESS, str(port)],
            "stop_seconds": 5,
            "probe": {"kind": "http", "address": ADDRESS, "port": port, "timeout_s": 15, "interval_s": 0.1},
        }
        self.folder = Path(self.home, "nodes/web-1", name)
        self.identity = ""
        self.state: Values = {}

    def inputs(self, **changes: Any) -> Values:
        values, problems = self.handler.check({**self.base, **changes})
        assert problems == []
        return values

    def create(self, **changes: Any) -> None:
        self.identity, self.state = self.handler.create("server", self.inputs(**changes))

    def update(self, **changes: Any) -> None:
        self.state = self.handler.update(self.identity, self.state, self.inputs(**changes))

    def refresh(self) -> str:
        found = self.handler.read(self.identity, self.state)
        assert found is not None
        self.state = found
        return str(found["state"])

    def differs(self, **changes: Any) -> set[str]:
        return set(self.handler.diff(self.state, self.inputs(**changes)).changes)

    def delete(self) -> None:
        self.handler.delete(self.identity, self.state)

    @property
    def pid(self) -> int:
        return int((self.folder / "pid").read_text(encoding="ascii"))


def test_a_process_from_start_to_removal(platform: Values, account: Account) -> None:
    server = Server(platform, "life", 8101)
    secret = "a 'quoted' $ecret"
    server.create(environment={"TOKEN": secret})
    found = task(server.pid)
    assert found is not None
    assert found.uid == account.uid
    assert f"TOKEN={secret}".encode() in Path(f"/proc/{server.pid}/environ").read_bytes()
    assert stat.S_IMODE((server.folder / "env").stat().st_mode) == 0o600
    everything = [*Path(server.home, "supervisor").rglob("*"), server.folder / "run"]
    texts = [path.read_text(encoding="utf-8", errors="replace") for path in everything if path.is_file()]
    assert not any(secret in text for text in texts)
    assert server.differs(environment={"TOKEN": secret}) == set()

    before = server.pid
    assert server.refresh() == "running"
    server.update(environment={"TOKEN": secret})
    assert server.pid == before, "an update without a change restarted it"
    server.update(environment={"TOKEN": "another"})
    assert server.pid != before

    server.delete()
    assert not server.folder.exists()
    assert not Path(server.home, "supervisor/conf.d/web-1.life.conf").exists()
    assert supervision.Client(server.home).info("web-1.life") is None
    assert listener(ADDRESS, 8101) is None
    server.delete()


def test_create_again_takes_over(platform: Values) -> None:
    server = Server(platform, "again", 8102)
    server.create()
    server.create()
    assert server.refresh() == "running"
    server.delete()


def test_a_reload_keeps_the_process_and_a_restart_does_not(platform: Values) -> None:
    program = (
        "import signal, time, pathlib\n"
        "signal.signal(signal.SIGHUP, lambda *_: pathlib.Path('reloaded').touch())\n"
        "while True: time.sleep(0.05)\n"
    )
    server = Server(platform, "reload", 8103)
    server.base |= {"command": [PYTHON, "-c", program], "probe": {"kind": "none"}}
    server.base |= {"reload": {"signal": "HUP"}}
    server.create(reload_on={"c": "1"}, restart_on={"d": "1"})
    before = server.pid
    time.sleep(0.3)  # until Python has set its handler
    server.update(reload_on={"c": "2"}, restart_on={"d": "1"})
    wait((server.folder / "reloaded").exists)
    assert server.pid == before
    command = {"command": ["/usr/bin/touch", "by-command"]}
    server.update(reload_on={"c": "3"}, restart_on={"d": "1"}, reload=command)
    assert (server.folder / "by-command").exists()
    assert server.pid == before
    with pytest.raises(NotReady, match="was not reloaded: /bin/false exits with 1") as caught:
        server.update(reload_on={"c": "4"}, restart_on={"d": "1"}, reload={"command": ["/bin/false"]})
    assert caught.value.outputs["state"] == "unapplied"
    server.update(reload_on={"c": "4"}, restart_on={"d": "2"}, reload=command)
    assert server.pid != before
    server.delete()


def test_edits_of_generated_files_are_drift(platform: Values) -> None:
    server = Server(platform, "edited", 8104)
    server.create()
    (server.folder / "run").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    assert server.refresh() == "running"
    assert server.differs() == {"identity"}
    server.update()
    assert server.refresh() == "running"
    assert server.differs() == set()
    (server.folder / "env").write_text("A=1\n", encoding="utf-8")
    server.refresh()
    assert server.differs() == {"environment_hash"}
    server.delete()


def test_a_fenced_node_stays_down(platform: Values) -> None:
    server = Server(platform, "fenced", 8105)
    server.create()
    fence = Path(server.home, "nodes/web-1/power-off")
    fence.touch()
    try:
        supervision.Client(server.home).stop("web-1.fenced", 5)
        assert server.refresh() == "fenced"
        server.update()
        assert server.state["state"] == "fenced"
        assert listener(ADDRESS, 8105) is None
    finally:
        fence.unlink()
    assert server.refresh() == "stopped"
    server.update()
    assert server.refresh() == "running"
    server.delete()


def test_a_stranger_on_the_port_is_named(platform: Values) -> None:
    stranger = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", ADDRESS, "8106"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    server = Server(platform, "busy", 8106)
    try:
        wait(lambda: listener(ADDRESS, 8106))
        with pytest.raises(
            NotReady, match=rf"process {stranger.pid} \(python.*\) holds {ADDRESS}:8106"
        ) as caught:
            server.create()
    finally:
        stranger.terminate()
        stranger.wait(5)
    server.identity, server.state = caught.value.resource_id, caught.value.outputs
    server.update()
    assert server.refresh() == "running"
    server.delete()


def test_a_crashing_process_shows_the_end_of_its_log(platform: Values) -> None:
    server = Server(platform, "crash", 8107)
    server.base["command"] = ["/bin/sh", "-c", "echo what went wrong >&2; exit 3"]
    with pytest.raises(NotReady, match=r"web-1\.crash does not stay up: (.|\n)*what went wrong") as caught:
        server.create()
    assert f"{server.home}/supervisor/log/web-1.crash.log" in str(caught.value)
    server.identity, server.state = caught.value.resource_id, caught.value.outputs
    server.delete()


def test_an_unready_process_is_left_and_repaired(platform: Values) -> None:
    server = Server(platform, "slow", 8108)
    server.base["command"] = ["/bin/sleep", "600"]
    server.base["probe"] |= {"timeout_s": 1.5}
    with pytest.raises(NotReady, match=r"is not ready after 1\.5 s: .*Connection refused") as caught:
        server.create()
    assert caught.value.outputs["state"] == "unready"
    server.identity, server.state = caught.value.resource_id, caught.value.outputs
    assert server.refresh() == "unready"
    assert server.differs() == {"state"}
    server.delete()


def test_a_rollout_goes_through_its_group(platform: Values) -> None:
    server = Server(platform, "rolled", 8109)
    server.create(rollout={"group": "web"})
    before = server.pid
    server.update(rollout={"group": "web"}, restart_on={"a": "1"})
    assert server.pid != before
    probe = {**server.base["probe"], "timeout_s": 1}
    with pytest.raises(NotReady):
        server.update(rollout={"group": "web"}, command=["/bin/false"], probe=probe)
    survivor = Server(platform, "survivor", 8110)
    survivor.handler = server.handler
    survivor.create(rollout={"group": "web"})
    kept = survivor.pid
    with pytest.raises(
        ProviderError, match=r"survivor is left as it was, because web-1\.rolled failed"
    ) as caught:
        survivor.update(rollout={"group": "web"}, restart_on={"a": "1"})
    assert not isinstance(caught.value, NotReady), "it would be recorded as changed"
    assert survivor.pid == kept
    server.delete()
    survivor.delete()


@pytest.mark.parametrize(
    ("inputs", "property_name"),
    [
        ({"node": "Web 1"}, "node"),
        ({"name": "../x"}, "name"),
        ({"command": ["relative"]}, "command"),
        ({"command": []}, "command"),
        ({"environment": {"A B": "x"}}, "environment"),
        ({"environment": {"WMS_NODE": "x"}}, "environment"),
        ({"stop_signal": "SOFTLY"}, "stop_signal"),
        ({"reload": {"signal": "NOPE"}}, "reload.signal"),
        ({"probe": {"kind": "tcp", "address": ADDRESS, "port": 0}}, "probe"),
        ({"probe": {"kind": "exec", "command": ["x"]}}, "probe"),
        ({"probe": {"kind": "http", "port": "8"}}, "probe"),
        ({"probe": {"kind": "guess"}}, "probe"),
    ],
)
def test_wrong_inputs_are_named(inputs: Values, property_name: str) -> None:
    base = {"home": "/srv/wms", "node": "a-1", "name": "x", "command": ["/bin/x"]}
    assert [problem.property for problem in ProcessHandler().check({**base, **inputs})[1]] == [property_name]


# -- the supervisor --


def supervisor(empty: Path, user: str) -> tuple[SupervisorHandler, Values, Values]:
    handler = SupervisorHandler()
    inputs, problems = handler.check({"home": str(empty / "home"), "python": PYTHON, "user": user})
    assert problems == []
    return handler, inputs, handler.create("supervisor", inputs)[1]


def test_a_killed_supervisord_is_replaced_and_orphans_serve_until_their_turn(empty: Path, user: str) -> None:
    handler, inputs, state = supervisor(empty, user)
    server = Server(inputs, "orphan", 8111)
    server.create()
    daemon = supervision.daemon(inputs["home"])
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGKILL)
    wait(lambda: handler.read("s", state) == {**state, "state": "missing"})
    assert server.refresh() == "missing"
    orphan = server.pid
    assert listener(ADDRESS, 8111) is not None
    state = handler.update("s", {**state, "state": "missing"}, inputs)
    assert handler.read("s", state) == state
    assert server.pid == orphan, "the new supervisord touched the orphan by itself"
    server.update()
    assert server.pid != orphan
    assert server.refresh() == "running"
    handler.delete("s", state)
    assert not (empty / "home").exists()
    assert listener(ADDRESS, 8111) is None


def test_a_frozen_supervisord_is_replaced_and_its_servers_live(
    empty: Path, user: str, account: Account
) -> None:
    handler, inputs, state = supervisor(empty, user)
    server = Server(inputs, "thawed", 8113)
    server.create()
    kept, daemon = server.pid, supervision.daemon(inputs["home"])
    assert daemon is not None
    os.kill(daemon.pid, signal.SIGSTOP)
    supervision.start(inputs["home"], inputs["python"], account)
    after = supervision.daemon(inputs["home"])
    assert after is not None
    assert after.pid != daemon.pid
    time.sleep(0.5)
    assert task(kept) is not None, "the old supervisord took its server along"
    handler.delete("s", state)


def test_delete_leaves_nothing_running_and_only_foreign_files(
    empty: Path, user: str, account: Account
) -> None:
    handler, inputs, state = supervisor(empty, user)
    home = Path(inputs["home"])
    (home / "notes.txt").write_text("the operator's", encoding="utf-8")
    stubborn = Server(inputs, "stubborn", 8112)
    script = "trap '' TERM; while :; do sleep 1; done"
    stubborn.base |= {"command": ["/bin/sh", "-c", script], "probe": {"kind": "none"}, "stop_seconds": 1}
    stubborn.create()
    handler.delete("s", state)
    assert under(str(home), account.uid) == []
    assert [path.name for path in home.iterdir()] == ["notes.txt"]
    handler.delete("s", state)
    (home / "notes.txt").unlink()
    home.rmdir()
    handler.delete("s", state)


def test_a_home_without_marker_is_not_deleted(empty: Path, user: str) -> None:
    home = empty / "home"
    (home / "nodes").mkdir(parents=True)
    state = {"home": str(home), "python": PYTHON, "user": user}
    with pytest.raises(ProviderError, match=r"is not removed: it has no \.wms-platform"):
        SupervisorHandler().delete("s", state)
    assert (home / "nodes").is_dir()
