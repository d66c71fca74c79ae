"""The rendered files of a platform on disk, with certificates and passwords, for the servers' own parsers.

Servers run as the service user when the tests run as root: some refuse root, and what only root may read must
not be needed.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from stacks import engines, render, spec, topology
from stacks.render import Process, Site
from tests.support.pki import Authority
from toolchain.env import process_environment

USER = "wms-platform"
PYTHON = process_environment()["WMS_PYTHON"]
"""Of the cache: the servers' user may not be allowed into the checkout."""
ROOT = str(Path(__file__).resolve().parents[2])


def service_user() -> str | None:
    """The user that servers run as; None when the tests do not run as root. Made when it does not exist."""
    if os.geteuid() != 0:
        return None
    try:
        pwd.getpwnam(USER)
    except KeyError:
        subprocess.run(
            ["useradd", "--system", "--home-dir", "/nonexistent", "--shell", "/usr/sbin/nologin", USER],
            check=True,
            timeout=30,
        )
    return USER


class Sandbox:
    """A platform's folders below a temporary home that the service user can read."""

    def __init__(self, platform: spec.Platform, home: Path, **site: Any) -> None:
        self.platform, self.home, self.user = platform, home, service_user()
        self.site = Site(
            home=str(home),
            python=PYTHON,
            service=ROOT,
            agent=ROOT,
            ca=str(home / "pki/ca.crt"),
            **site,
        )
        self.processes = {process.key: process for process in engines.processes(platform, self.site)}
        self.secrets = {
            name: f"pw-{name.replace('/', '-')}"
            for process in self.processes.values()
            for text in (*process.files.values(), *process.environment.values())
            for name in render.secrets_in(text)
        }
        self._write()

    def _write(self) -> None:
        authority = Authority()
        Path(self.site.ca).parent.mkdir(parents=True)
        authority.write_bundle(Path(self.site.ca))
        for node in topology.nodes(self.platform):
            path = Path(self.site.certificate(node.name))
            path.parent.mkdir(parents=True)
            authority.write_node(path, topology.names(node), node.address)
            path.chmod(0o600)  # pgBackRest refuses a key that others may read
        for process in self.processes.values():
            folder = self.folder(process.key)
            folder.mkdir(parents=True, exist_ok=True)
            for name, text in process.files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(render.reveal(text, self.secrets))
                path.chmod(0o600)
        if self.user:
            account = pwd.getpwnam(self.user)
            for root, _, files in os.walk(self.home):
                os.chown(root, account.pw_uid, account.pw_gid)
                for file in files:
                    os.chown(os.path.join(root, file), account.pw_uid, account.pw_gid)

    def folder(self, key: str) -> Path:
        """Working directory of process `key` (node/name)."""
        return self.home / "nodes" / key

    def environment(self, process: Process) -> dict[str, str]:
        """What the process is started with: its own variables and nothing of the tests' but PATH."""
        own = {name: render.reveal(text, self.secrets) for name, text in process.environment.items()}
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **own}

    def run(self, key: str, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run `command` in the folder and environment of process `key`, as the service user, output merged.

        Its standard output is a file below the home, which the service user can open a second time.
        """
        process = self.processes[key]
        with self._output(key) as file:
            done = subprocess.run(
                command,
                cwd=self.folder(key),
                env=self.environment(process),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                **self._identity(),
            )
        return subprocess.CompletedProcess(command, done.returncode, self.output(key), "")

    @contextlib.contextmanager
    def started(self, *keys: str) -> Iterator[None]:
        """The processes `keys` running; stopped, or killed after ten seconds, at the end."""
        running: list[tuple[Process, subprocess.Popen[bytes]]] = []
        try:
            for key in keys:
                process = self.processes[key]
                with self._output(key) as file:
                    running.append(
                        (
                            process,
                            subprocess.Popen(
                                process.command,
                                cwd=self.folder(key),
                                env=self.environment(process),
                                stdin=subprocess.DEVNULL,
                                stdout=file,
                                stderr=subprocess.STDOUT,
                                start_new_session=True,
                                **self._identity(),
                            ),
                        )
                    )
            yield
        finally:
            for process, child in running:
                with contextlib.suppress(ProcessLookupError):
                    child.send_signal(getattr(signal, f"SIG{process.stop_signal}"))
            for _, child in running:
                try:
                    child.wait(10)
                except subprocess.TimeoutExpired:
                    # Its session is its own, so this reaches its children and nobody else's.
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait(10)

    def wait(self, key: str, timeout: float = 20) -> None:
        """Until the port of the process's probe answers. Raises TimeoutError with the process's output."""
        probe = self.processes[key].probe
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            try:
                socket.create_connection((probe.address, probe.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise TimeoutError(f"{key} does not answer on {probe.address}:{probe.port}:\n{self.output(key)}")

    def output(self, key: str) -> str:
        """What the process, or the last command run for it, has printed."""
        return (self.folder(key) / "output").read_text()

    def _output(self, key: str) -> Any:
        path = self.folder(key) / "output"
        file = path.open("wb")
        if self.user:
            os.chown(path, pwd.getpwnam(self.user).pw_uid, -1)
        return file

    def _identity(self) -> Mapping[str, Any]:
        if not self.user:
            return {}
        account = pwd.getpwnam(self.user)
        groups: Sequence[int] = ()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}


@contextlib.contextmanager
def sandbox(platform: spec.Platform, **site: Any) -> Iterator[Sandbox]:
    """A Sandbox for `platform` in a folder of its own, removed at the end; `site`: fields of its Site.

    The folder's path is short, because it holds sockets.
    """
    home = Path(tempfile.mkdtemp(prefix="wms-"))
    home.chmod(0o755)
    try:
        yield Sandbox(platform, home, **site)
    finally:
        shutil.rmtree(home, ignore_errors=True)
