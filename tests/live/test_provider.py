"""The provider through the real Pulumi CLI: create, preview, refresh, repair, failure, secrets, destroy.

Runs a small inline program by the Automation API; servers are Python's http.server on a loopback address of
its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pulumi
import pytest
from pulumi import automation

from stacks.local import resources
from toolchain.env import process_environment

ROOT = Path(__file__).resolve().parents[2]
USER = "wms-platform"
ADDRESS = "127.41.77.1"
PORT = 18080
SECRET = "s3cret-of-the-live-test"

pytestmark = pytest.mark.live


class Platform:
    """A stack with one node: a configuration file with a secret, and a web server that serves its folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = str(folder / "live")
        self.user = USER if os.geteuid() == 0 else ""
        self.greeting = "hello"
        self.port = PORT
        self.command_tail: list[str] = []
        self.value = ""
        commands = folder / "bin"
        commands.mkdir(mode=0o755)
        plugin = commands / "pulumi-resource-wms"
        plugin.write_text(
            f'#!/bin/sh\nPYTHONPATH={ROOT} exec {sys.executable} -m stacks.local.provider.main "$@"\n',
            encoding="utf-8",
        )
        plugin.chmod(0o755)
        state = folder / "pulumi"
        state.mkdir(mode=0o700)
        self.stack = automation.create_or_select_stack(
            "live",
            project_name="wms-provider-test",
            program=self.program,
            opts=automation.LocalWorkspaceOptions(
                env_vars={
                    "PULUMI_BACKEND_URL": f"file://{state}",
                    "PULUMI_CONFIG_PASSPHRASE": "only for this test",
                    "PULUMI_SKIP_UPDATE_CHECK": "true",
                    "PATH": f"{commands}:{os.environ['PATH']}",
                }
            ),
        )

    def program(self) -> None:
        """The Pulumi program."""
        # Of the cache: the servers' user may not be allowed into the checkout.
        python = process_environment()["WMS_PYTHON"]
        supervisor = resources.Supervisor("supervisor", home=self.home, user=self.user, python=python)
        password = resources.Password("password", length=24)
        # Below a component the URN names both types; the provider must find its own in it.
        node = pulumi.ComponentResource("wms:local:Node", "web-1")
        below = pulumi.ResourceOptions(parent=node)
        config = resources.File(
            "greeting",
            home=supervisor.home,
            user=self.user,
            path=f"{self.home}/nodes/web-1/site/greeting.txt",
            content=pulumi.Output.concat(self.greeting, "\n"),
            opts=below,
        )
        private = resources.File(
            "private",
            home=supervisor.home,
            user=self.user,
            path=f"{self.home}/nodes/web-1/site/private.txt",
            content=pulumi.Output.concat(pulumi.Output.secret(SECRET), " ", password.value, "\n"),
            mode="0600",
        )
        process = resources.Process(
            "site",
            home=supervisor.home,
            user=self.user,
            node="web-1",
            name="site",
            command=[
                python,
                "-m",
                "http.server",
                "--bind",
                ADDRESS,
                str(self.port),
                *self.command_tail,
            ],
            environment={"SITE_PASSWORD": password.value},
            restart_on={"greeting": config.sha256, "private": private.sha256},
            stop_seconds=5,
            rollout={"group": "site"},
            probe={
                "kind": "http",
                "address": ADDRESS,
                "port": self.port,
                "path": "/greeting.txt",
                "timeout_s": 20,
            },
        )
        pulumi.export("password", password.value)
        pulumi.export("state", process.state)

    def fetch(self, path: str = "/greeting.txt") -> str:
        """What the web server answers."""
        with urllib.request.urlopen(f"http://{ADDRESS}:{self.port}{path}", timeout=5) as answer:
            return str(answer.read().decode())

    def pid(self) -> int:
        """The web server's process."""
        return int(Path(self.home, "nodes/web-1/site/pid").read_text(encoding="ascii"))

    def supervisor_pid(self) -> int:
        """supervisord."""
        return int(Path(self.home, "supervisor/supervisord.pid").read_text(encoding="ascii"))

    def state(self) -> str:
        """The state as Pulumi stores it."""
        return "".join(
            path.read_text(encoding="utf-8") for path in self.folder.glob("pulumi/.pulumi/stacks/**/*.json")
        )

    def preview(self, **options: object) -> tuple[dict[str, int], str]:
        """(changes by kind, text of a preview with differences)."""
        lines: list[str] = []
        result = self.stack.preview(diff=True, on_output=lines.append, **options)  # type: ignore[arg-type]
        return {str(kind): count for kind, count in result.change_summary.items()}, "\n".join(lines)


@pytest.fixture(scope="module")
def platform() -> Iterator[Platform]:
    # /tmp's per-test folders are closed to other users, and the servers run as one.
    folder = Path(tempfile.mkdtemp(prefix="wms-live-", dir="/var/tmp"))
    folder.chmod(0o755)
    made = Platform(folder)
    try:
        yield made
    finally:
        try:
            if Path(made.home).exists():
                made.stack.destroy()
        finally:
            shutil.rmtree(folder)


def processes_below(home: str) -> list[str]:
    """Working directories below `home` of living processes."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                place = os.readlink(entry / "cwd")
            except OSError:
                continue
            if place.startswith(home):
                found.append(f"{entry.name} {place}")
    return found


def test_a_platform_lives_through_pulumi(platform: Platform) -> None:
    """The whole life of one stack; the steps build on each other, as they do for an operator."""
    steps: list[Callable[[Platform], None]] = [
        up_creates,
        second_up_changes_nothing,
        state_holds_no_plain_secret,
        preview_shows_the_changed_setting,
        up_restarts_only_for_the_change,
        refresh_finds_and_up_repairs_a_hand_edit,
        refresh_finds_and_up_repairs_a_removed_file,
        refresh_finds_and_up_repairs_a_stopped_process,
        up_survives_the_death_of_supervisord,
        a_busy_port_is_named,
        a_failed_change_is_repaired,
        refresh_keeps_secrets,
        destroy_leaves_nothing,
    ]
    for step in steps:
        print(f"-- {step.__name__}", flush=True)
        step(platform)


def up_creates(platform: Platform) -> None:
    result = platform.stack.up()
    assert result.outputs["state"].value == "running"
    assert result.outputs["password"].secret
    platform.value = result.outputs["password"].value
    assert len(platform.value) == 24
    assert platform.fetch() == "hello\n"
    private = Path(platform.home, "nodes/web-1/site/private.txt")
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_text(encoding="utf-8") == f"{SECRET} {platform.value}\n"
    environment = Path(f"/proc/{platform.pid()}/environ").read_bytes()
    assert f"SITE_PASSWORD={platform.value}".encode() in environment
    assert b"PULUMI" not in environment, "the operator's environment leaks into servers"


def second_up_changes_nothing(platform: Platform) -> None:
    platform.stack.preview(expect_no_changes=True)
    platform.stack.preview(refresh=True, expect_no_changes=True)


def state_holds_no_plain_secret(platform: Platform) -> None:
    state = platform.state()
    assert "hello" in state, "this is not the state"
    assert SECRET not in state
    assert platform.value not in state


def preview_shows_the_changed_setting(platform: Platform) -> None:
    platform.greeting = "good morning"
    changes, text = platform.preview()
    assert changes["update"] == 2, text  # the file, and the process that restarts for it
    assert "hello" in text
    assert "good morning" in text
    assert "greeting" in text
    assert SECRET not in text
    assert platform.value not in text


def up_restarts_only_for_the_change(platform: Platform) -> None:
    before = platform.pid()
    platform.stack.up()
    assert platform.fetch() == "good morning\n"
    assert platform.pid() != before


def refresh_finds_and_up_repairs_a_hand_edit(platform: Platform) -> None:
    path = Path(platform.home, "nodes/web-1/site/greeting.txt")
    before = platform.pid()
    path.write_text("edited by hand\n", encoding="utf-8")
    changes, text = platform.preview(refresh=True)
    assert changes.get("update"), text
    assert "edited by hand" in text
    platform.stack.refresh()
    assert "edited by hand" in platform.state()
    platform.stack.up()
    assert path.read_text(encoding="utf-8") == "good morning\n"
    assert platform.pid() == before, "the process restarted although its configuration is what it was"


def refresh_finds_and_up_repairs_a_removed_file(platform: Platform) -> None:
    path = Path(platform.home, "nodes/web-1/site/private.txt")
    path.unlink()
    result = platform.stack.refresh()
    assert result.summary.resource_changes is not None
    platform.stack.up()
    assert path.read_text(encoding="utf-8") == f"{SECRET} {platform.value}\n"


def refresh_finds_and_up_repairs_a_stopped_process(platform: Platform) -> None:
    stop = (
        "import xmlrpc.client, supervisor.xmlrpc as s;"
        "p = xmlrpc.client.ServerProxy('http://x', s.SupervisorTransport(None, None, "
        f"'unix://{platform.home}/supervisor/supervisor.sock'));"
        "p.supervisor.stopProcess('web-1.site')"
    )
    subprocess.run([sys.executable, "-c", stop], check=True)
    result = platform.stack.refresh()
    changes: dict[str, int] = {str(kind): n for kind, n in (result.summary.resource_changes or {}).items()}
    assert changes.get("update") == 1, changes
    _, text = platform.preview()
    assert "stopped" in text
    platform.stack.up()
    assert platform.fetch() == "good morning\n"


def up_survives_the_death_of_supervisord(platform: Platform) -> None:
    orphan = platform.pid()
    old = platform.supervisor_pid()
    os.kill(old, signal.SIGKILL)
    assert platform.fetch() == "good morning\n", "the orphan must go on serving"
    platform.stack.up(refresh=True)
    assert platform.supervisor_pid() != old
    assert platform.pid() != orphan
    assert platform.fetch() == "good morning\n"
    platform.stack.preview(refresh=True, expect_no_changes=True)


def a_busy_port_is_named(platform: Platform) -> None:
    squatter = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", ADDRESS, str(PORT + 1)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        platform.port = PORT + 1
        deadline_listen(PORT + 1)
        with pytest.raises(automation.CommandError) as caught:
            platform.stack.up()
        assert f"process {squatter.pid} " in str(caught.value)
        assert f"holds {ADDRESS}:{PORT + 1}" in str(caught.value)
        assert platform.value not in str(caught.value)
    finally:
        squatter.terminate()
        squatter.wait(10)
    platform.stack.up()
    assert platform.fetch() == "good morning\n"
    platform.port = PORT
    platform.stack.up()


def deadline_listen(port: int) -> None:
    """Wait until something listens on ADDRESS:port."""
    import socket
    import time

    limit = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((ADDRESS, port), 1).close()
            return
        except OSError:
            assert time.monotonic() < limit
            time.sleep(0.05)


def a_failed_change_is_repaired(platform: Platform) -> None:
    platform.command_tail = ["--no-such-option"]
    with pytest.raises(automation.CommandError) as caught:
        platform.stack.up()
    assert "--no-such-option" in str(caught.value), "the end of the log is missing"
    assert "web-1.site.log" in str(caught.value)
    platform.command_tail = []
    platform.stack.up()
    assert platform.fetch() == "good morning\n"
    platform.stack.preview(refresh=True, expect_no_changes=True)


def refresh_keeps_secrets(platform: Platform) -> None:
    Path(platform.home, "nodes/web-1/site/private.txt").write_text("another secret\n", encoding="utf-8")
    Path(platform.home, "nodes/web-1/site/env").write_text("SITE_PASSWORD=tampered\n", encoding="utf-8")
    platform.stack.refresh()
    state = platform.state()
    for text in (SECRET, platform.value, "another secret", "tampered"):
        assert text not in state
    platform.stack.up()
    assert Path(platform.home, "nodes/web-1/site/private.txt").read_text(encoding="utf-8").startswith(SECRET)
    assert platform.value in Path(platform.home, "nodes/web-1/site/env").read_text(encoding="utf-8")
    platform.stack.preview(refresh=True, expect_no_changes=True)


def destroy_leaves_nothing(platform: Platform) -> None:
    platform.stack.destroy()
    assert not Path(platform.home).exists()
    assert processes_below(platform.home) == []
