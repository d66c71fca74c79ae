"""The toolchain: the plan from facts, the environment, the store, and what holds the Makefile together."""

from __future__ import annotations

import dataclasses
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toolchain import (
    apt,
    checkout,
    doctor,
    env,
    paths,
    pins,
    process,
    processes,
    results,
    store,
    vendor,
    venv,
    versions,
)
from toolchain.errors import ToolchainError
from toolchain.facts import LANGUAGE_HOST, Facts, Program
from toolchain.plan import Action, describe, duration, links, plan

ROOT = paths.CHECKOUT
PINS = pins.load()
CACHE = Path("/cache")
PULUMI = CACHE / "tools/pulumi-3.250.0"
PYTHON = venv.Interpreter(Path("/usr/bin/python3.11"), "3.11.2")
THIS_PYTHON = venv.Interpreter(Path(sys.executable).resolve(), ".".join(map(str, sys.version_info[:3])))


def complete(**changes: object) -> Facts:
    """A machine, as root, on which everything is installed; with changes."""
    facts = Facts(
        root=True,
        cache=CACHE,
        has_apt=True,
        packages=frozenset(package.name for package in PINS.packages),
        sudo=False,
        service_user=True,
        python=PYTHON,
        venv=CACHE / "venv-0123",
        venv_ready=True,
        linked=None,
        go=Program(Path("/usr/local/go/bin/go"), "1.26.0"),
        path_pulumi=None,
        path_language_host=None,
        bundled_host=PULUMI,
        tools={
            "pulumi": PULUMI,
            LANGUAGE_HOST: CACHE / "tools/pulumi-language-python",
            "versitygw": CACHE / "tools/versitygw-1.8.0",
        },
    )
    facts = dataclasses.replace(facts, linked=links(facts))
    return dataclasses.replace(facts, **changes)  # type: ignore[arg-type]


def fresh(**changes: object) -> Facts:
    """A machine with Go and Python and nothing else."""
    nothing: dict[str, object] = {
        "packages": frozenset(),
        "service_user": False,
        "venv_ready": False,
        "linked": None,
        "bundled_host": None,
        "tools": {},
    }
    return complete(**(nothing | changes))


def actions(facts: Facts) -> list[Action]:
    return [step.action for step in plan(PINS, facts).steps]


# -- versions --


@pytest.mark.parametrize(
    ("version", "minimum", "good"),
    [
        ("3.11", "3.11.0", True),
        ("3.9.18", "3.11", False),
        ("1.25.11", "1.25.11", True),
        ("go1.26", "1.25.11", True),
        ("1.25.9", "1.25.11", False),
        ("v3.250.0", "3.250.0", True),
    ],
)
def test_versions_compare_by_number(version: str, minimum: str, good: bool) -> None:
    assert versions.at_least(version, minimum) is good


@pytest.mark.parametrize(
    ("version", "good"),
    [
        ("v3.250.0", True),
        ("v3.999.1", True),
        ("v4.0.0", False),
        ("v3.249.9", False),
        ("v3.250.0-alpha.1", False),
        ("v3.251.0-alpha.1", True),
    ],
)
def test_a_pulumi_is_taken_within_its_bounds(version: str, good: bool) -> None:
    assert versions.within(version, "3.250.0", "4") is good


def test_a_text_without_a_number_is_no_version() -> None:
    with pytest.raises(ValueError, match="no version number in 'devel'"):
        versions.parse("devel")


# -- pins --


def test_pins_agree_with_the_modules_that_are_built() -> None:
    floor = "0"
    for tool in PINS.go_tools.values():
        module = (ROOT / "toolchain" / tool.name / "go.mod").read_text()
        version = tool.version.split("+")[0]
        # The module is the longest required path that the package lies in.
        required = dict(re.findall(r"^(?:require)?\s+(\S+) v(\S+)", module, re.MULTILINE))
        owner = max((path for path in required if tool.package.startswith(path)), key=len)
        assert required[owner] == version, tool.name
        needed = re.findall(r"^go (\S+)$", module, re.MULTILINE)[0]
        floor = needed if versions.at_least(needed, floor) else floor
    assert floor == PINS.minimum.go


def test_the_pulumi_cli_the_sdk_and_the_hosts_scripts_are_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert f"pulumi=={PINS.pulumi_version}" in project["optional-dependencies"]["stacks"]
    assert PINS.go_tools["pulumi"].version == PINS.pulumi_version
    assert PINS.go_tools["pulumi"].ldflags.endswith(f"=v{PINS.pulumi_version}")
    assert PINS.go_tools[LANGUAGE_HOST].version.endswith(f"+sdk{PINS.pulumi_version}")


def test_damaged_pins_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "pins.toml"
    damaged.write_text('[minimum]\npython = "3.11"\n')
    with pytest.raises(ToolchainError, match=re.escape(str(damaged))):
        pins.load(damaged)


# -- the plan --


def test_nothing_is_planned_on_a_complete_machine() -> None:
    assert plan(PINS, complete()).empty
    assert describe(plan(PINS, complete())) == "Nothing is missing."


def test_a_fresh_machine_gets_everything_in_order() -> None:
    todo = plan(PINS, fresh())
    assert [step.action for step in todo.steps] == [
        Action.PACKAGES,
        Action.USER,
        Action.VENV,
        Action.PULUMI,
        Action.GATEWAY,
        Action.CHECKOUT,
    ]
    assert not todo.problems
    text = describe(todo)
    for package in PINS.packages:
        assert package.name in text
    assert str(PULUMI) in text


def test_a_cli_without_a_host_of_its_own_gets_one() -> None:
    facts = complete(bundled_host=None, linked=None)
    assert actions(facts) == [Action.LANGUAGE_HOST, Action.CHECKOUT]


def test_the_users_own_pulumi_is_used() -> None:
    own = {
        "path_pulumi": Program(Path("/opt/pulumi/pulumi"), "3.260.0"),
        "path_language_host": Path("/opt/pulumi/pulumi-language-python"),
    }
    assert Action.PULUMI not in actions(fresh(**own))
    assert Action.LANGUAGE_HOST not in actions(fresh(**own))
    facts = complete(**own)
    # Everything is there, but the checkout still points at the cache's.
    assert actions(facts) == [Action.CHECKOUT]
    wanted = links(facts)
    assert wanted is not None
    assert wanted.pulumi == "/opt/pulumi"


def test_an_ordinary_user_needs_no_system_user() -> None:
    assert Action.USER not in actions(fresh(root=False, sudo=True))


def test_without_root_and_sudo_the_command_for_an_administrator_is_given() -> None:
    lacking = frozenset(package.name for package in PINS.packages) - {"haproxy", "varnish"}
    todo = plan(PINS, complete(root=False, sudo=False, packages=lacking))
    (problem,) = todo.problems
    assert "sudo apt-get install --yes --no-install-recommends haproxy varnish" in problem
    assert "python3 -m toolchain system" in problem
    assert not plan(PINS, complete(root=False, sudo=True, packages=lacking)).problems


def test_without_apt_the_packages_are_named() -> None:
    (problem,) = plan(PINS, complete(has_apt=False, packages=frozenset())).problems
    assert "Debian 12" in problem
    assert "pgbackrest" in problem


@pytest.mark.parametrize("go", [None, Program(Path("/usr/bin/go"), "1.19.8")])
def test_go_is_asked_for_only_while_something_has_to_be_built(go: Program | None) -> None:
    (problem,) = plan(PINS, fresh(go=go)).problems
    assert f"Go >= {PINS.minimum.go}" in problem
    assert "versitygw" in problem
    assert ("none on PATH" if go is None else "1.19.8") in problem
    assert plan(PINS, complete(go=go)).empty


def test_a_cache_or_a_python_closed_to_the_servers_is_refused() -> None:
    (blocked,) = plan(PINS, complete(blocked=Path("/root"))).problems
    assert "WMS_CACHE" in blocked
    assert "/root" in blocked
    todo = plan(PINS, fresh(python=None, venv=None))
    assert any("No Python >= 3.11" in problem for problem in todo.problems)


def test_durations_are_for_people() -> None:
    assert [duration(seconds) for seconds in (0, 45, 99, 240)] == ["1 s", "45 s", "99 s", "4 min"]


def test_a_folder_that_others_may_not_enter_is_found(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    (closed / "inner").mkdir(parents=True)
    tmp_path.chmod(0o755)
    closed.chmod(0o700)
    assert paths.closed_to_others(closed / "inner") is not None
    assert paths.closed_to_others(Path("/usr/bin")) is None
    assert paths.closed_to_others(Path("/usr/not/there")) is None


def test_a_relative_cache_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WMS_CACHE", "cache")
    with pytest.raises(ToolchainError, match="WMS_CACHE='cache' is not an absolute path"):
        paths.cache()


def test_another_lock_or_python_is_another_environment(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text("a==1\n")
    first = venv.folder(CACHE, PYTHON, lock)
    assert venv.folder(CACHE, PYTHON, lock) == first
    assert venv.folder(CACHE, venv.Interpreter(Path("/usr/bin/python3.12"), "3.12.1"), lock) != first
    # Debian's security updates of the interpreter do not invalidate it.
    assert venv.folder(CACHE, venv.Interpreter(PYTHON.path, "3.11.9"), lock) == first
    lock.write_text("a==2\n")
    assert venv.folder(CACHE, PYTHON, lock) != first
    with pytest.raises(ToolchainError, match="make lock"):
        venv.folder(CACHE, PYTHON, tmp_path / "absent.lock")


def test_the_toolchain_needs_the_standard_library_alone() -> None:
    # -S: no site-packages; -I: nothing from the caller's environment but the folder that is named.
    modules = sorted(f"toolchain.{file.stem}" for file in (ROOT / "toolchain").glob("[a-z]*.py"))
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); import {', '.join(modules)}"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True, timeout=30)


# -- the environment --


def test_the_environment_puts_our_commands_first_and_once() -> None:
    wanted = links(complete())
    assert wanted is not None
    path = f"/usr/bin:{PULUMI}:/bin:{wanted.checkout}/.venv/bin"
    values = env.variables(wanted, Path("/h"), Path("/h/pulumi"), Path("/h/pass"), path)
    assert values["PATH"] == f"{wanted.checkout}/.venv/bin:{PULUMI}:/usr/bin:/bin"
    assert values["PULUMI_BACKEND_URL"] == "file:///h/pulumi"
    assert values["WMS_PYTHON"] == "/cache/venv-0123/bin/python"
    again = env.variables(wanted, Path("/h"), Path("/h/pulumi"), Path("/h/pass"), values["PATH"])
    assert again == values


def test_a_shell_reads_the_exports_back() -> None:
    values = {"WMS_HOME": "/a b/$HOME/it's", "PATH": "/bin:/usr/bin"}
    script = f'{env.shell(values)}\nprintf \'%s|%s\' "$WMS_HOME" "${{PULUMI_CONFIG_PASSPHRASE-unset}}"'
    environment = {"PULUMI_CONFIG_PASSPHRASE": "x", "PATH": "/bin"}
    said = subprocess.run(
        ["/bin/sh", "-c", script], env=environment, capture_output=True, text=True, timeout=10
    )
    assert said.stdout == "/a b/$HOME/it's|unset"


def test_the_passphrase_is_made_once_and_is_private(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    _, passphrase = env.prepare(home)
    first = passphrase.read_text()
    assert len(first) >= 32
    assert passphrase.stat().st_mode & 0o777 == 0o600
    assert (home / "pulumi").stat().st_mode & 0o777 == 0o700
    env.prepare(home)
    assert passphrase.read_text() == first
    assert sorted(file.name for file in home.iterdir()) == ["pulumi", "pulumi-passphrase"]


def test_a_lost_passphrase_is_not_replaced_under_existing_state(tmp_path: Path) -> None:
    _, passphrase = env.prepare(tmp_path)
    stack = tmp_path / "pulumi/.pulumi/stacks/wms/local.json"
    stack.parent.mkdir(parents=True)
    stack.write_text("{}")
    passphrase.unlink()
    with pytest.raises(ToolchainError, match="Restore the file from a backup"):
        env.prepare(tmp_path)
    assert not passphrase.exists()


# -- .venv --


def test_a_checkout_gets_commands_that_see_the_locked_packages(tmp_path: Path) -> None:
    # A space in the path: the kernel would cut it off in a script's first line.
    locked, home = tmp_path / "locked", tmp_path / "my checkout"
    home.mkdir()
    packages = venv.site_packages(locked, THIS_PYTHON)
    packages.mkdir(parents=True)
    declared = packages / "tools-1.dist-info" / "entry_points.txt"
    declared.parent.mkdir()
    declared.write_text("[console_scripts]\npytest = pytest:console_main\nmypy = m:n\npatronictl = p:c\n")
    (packages / "pytest.py").write_text("def console_main():\n    print('locked')\n    return 3\n")
    (home / "wmsctl").mkdir()
    (home / "wmsctl" / "main.py").write_text(
        "import pytest\n\ndef main():\n    print(pytest.__file__)\n    return 0\n"
    )
    wanted = checkout.Links(
        str(home), str(CACHE), str(locked / "bin/python"), str(THIS_PYTHON.path), "/p", "/p", "/v"
    )
    folder = home / ".venv"
    for _ in range(2):
        checkout.build(wanted, THIS_PYTHON, log=tmp_path / "log", folder=folder)
        assert checkout.read(folder) == wanted
    clean = {"PATH": "/usr/bin:/bin"}
    run = subprocess.run([folder / "bin/pytest"], capture_output=True, text=True, env=clean, timeout=20)
    assert (run.returncode, run.stdout) == (3, "locked\n"), run.stderr
    run = subprocess.run([folder / "bin/wmsctl"], capture_output=True, text=True, env=clean, timeout=20)
    assert (run.returncode, run.stdout) == (0, f"{packages / 'pytest.py'}\n"), run.stderr
    assert [file.name for file in home.iterdir() if file.name.startswith(".venv")] == [".venv"]
    assert str(folder) in (folder / "bin/activate").read_text()


def test_an_older_format_of_the_record_counts_as_absent(tmp_path: Path) -> None:
    (tmp_path / checkout.RECORD).write_text('{"checkout": "/x", "format": 0}')
    assert checkout.read(tmp_path) is None
    assert checkout.read(tmp_path / "absent") is None


# -- the store --


def test_a_folder_is_published_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "tools" / "tool-1"

    def interrupted() -> None:
        with store.published(target) as work:
            (work / "tool").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert list((tmp_path / "tools").iterdir()) == []
    with store.published(target) as work:
        (work / "tool").write_text("whole")
        assert not target.exists()
    assert (target / "tool").read_text() == "whole"
    assert target.stat().st_mode & 0o777 == 0o755


def test_what_killed_runs_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / "tools" / f"{store.PARTIAL}xyz"
    left.mkdir(parents=True)
    (tmp_path / "tools" / "tool-1").mkdir()
    store.sweep(tmp_path)
    assert [folder.name for folder in (tmp_path / "tools").iterdir()] == ["tool-1"]


def test_a_second_run_waits_for_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        store.locked(tmp_path),
        pytest.raises(ToolchainError, match=f"held by process {os.getpid()}"),
        store.locked(tmp_path, timeout=0.3),
    ):
        pytest.fail("two runs hold the lock")
    assert "waiting for it" in capsys.readouterr().out
    with store.locked(tmp_path, timeout=0.3):
        pass


def test_the_lock_lasts_until_the_jobs_of_a_killed_run_are_done(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from toolchain import process, store\n"
        "folder = Path(sys.argv[1])\n"
        "with store.locked(folder):\n"
        "    job = ['sh', '-c', 'echo > started; sleep 60']\n"
        "    process.run(job, what='job', log=folder / 'log', seconds=1, deadline=60, cwd=folder)"
    )
    runner = subprocess.Popen([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    try:
        until = time.monotonic() + 10
        while not (tmp_path / "started").exists() and time.monotonic() < until:
            time.sleep(0.02)
        assert (tmp_path / "started").exists()
        runner.kill()
        runner.wait(5)
        with (
            pytest.raises(ToolchainError, match=f"held by process {runner.pid}"),
            store.locked(tmp_path, 0.3),
        ):
            pytest.fail("the lock was given away under a running job")
    finally:
        runner.kill()
        processes.end(processes.under(tmp_path))
    with store.locked(tmp_path, timeout=5):
        pass


# -- apt --


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 104\n"])
def test_the_service_policy_comes_back(tmp_path: Path, before: str | None) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)

    def interrupted() -> None:
        with apt.services_forbidden(policy):
            said = subprocess.run([policy, "redis-server", "start"], timeout=10)
            assert said.returncode == 101
            raise RuntimeError

    with pytest.raises(RuntimeError):
        interrupted()
    assert (policy.read_text() if policy.exists() else None) == before
    assert len(list(tmp_path.iterdir())) == (before is not None)


@pytest.mark.parametrize("before", [None, "#!/bin/sh\nexit 104\n"])
def test_the_service_policy_comes_back_after_a_kill(tmp_path: Path, before: str | None) -> None:
    policy = tmp_path / "policy-rc.d"
    if before is not None:
        policy.write_text(before)
    code = (
        "import os, signal, sys; from pathlib import Path; from toolchain import apt\n"
        "with apt.services_forbidden(Path(sys.argv[1])): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, policy], cwd=ROOT, timeout=20)
    assert killed.returncode == -signal.SIGKILL
    assert apt.forbids_for_us(policy)
    assert apt.restore_policy(policy)
    assert (policy.read_text() if policy.exists() else None) == before
    assert not apt.restore_policy(policy)


# -- the vendor's archive --


def archive(files: dict[str, str]) -> bytes:
    """A .tar.gz with executable files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as out:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            out.addfile(member, io.BytesIO(text.encode()))
    return buffer.getvalue()


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Serve bytes over HTTP on a loopback port; gives the address."""
    servers = []

    def start(body: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/pulumi.tar.gz"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


SAYS = "#!/bin/sh\necho v3.250.0\n"


def test_the_vendors_archive_is_unpacked_flat_and_run(tmp_path: Path, serve: Callable[[bytes], str]) -> None:
    files = {
        "pulumi/pulumi": SAYS,
        "pulumi/pulumi-language-python": "x",
        "pulumi/../../evil": "x",
        "other/x": "x",
    }
    target = tmp_path / "tools" / "pulumi-3.250.0"
    vendor.download(serve(archive(files)), "3.250.0", target)
    assert sorted(file.name for file in target.iterdir()) == ["evil", "pulumi", "pulumi-language-python"]
    assert sorted(file.name for file in tmp_path.iterdir()) == ["tools"]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            archive({"pulumi/pulumi": SAYS.replace("250", "249"), "pulumi/pulumi-language-python": "x"}),
            "said 'v3.249.0'",
        ),
        (archive({"pulumi/pulumi": SAYS}), "holds no pulumi-language-python"),
        (archive({"pulumi/pulumi": SAYS * 50})[:60], "pulumi.tar.gz: "),
        (b"<html>not found</html>", "pulumi.tar.gz: "),
    ],
)
def test_a_wrong_archive_leaves_nothing(
    tmp_path: Path, serve: Callable[[bytes], str], body: bytes, reason: str
) -> None:
    with pytest.raises(ToolchainError, match=reason):
        vendor.download(serve(body), "3.250.0", tmp_path / "tools" / "pulumi")
    assert list((tmp_path / "tools").iterdir()) == []


def test_an_unreachable_vendor_is_an_error(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{unused.getsockname()[1]}/x"
    with pytest.raises(ToolchainError, match="refused"):
        vendor.download(address, "3.250.0", tmp_path / "tools" / "pulumi")


def test_the_vendor_serves_two_kinds_of_machines() -> None:
    template = "https://example.org/v{version}-{arch}"
    assert vendor.url(template, "3.1.0", "x86_64") == "https://example.org/v3.1.0-x64"
    assert vendor.url(template, "3.1.0", "aarch64") == "https://example.org/v3.1.0-arm64"
    with pytest.raises(ToolchainError, match="riscv64"):
        vendor.url(template, "3.1.0", "riscv64")


# -- processes --


def test_a_failed_job_shows_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log" / "job.log"
    with pytest.raises(ToolchainError, match=r"exit code 7; the last lines of .*job\.log") as caught:
        process.run(
            ["sh", "-c", "echo before; echo reason >&2; exit 7"], what="job", log=log, seconds=1, deadline=5
        )
    assert "| reason" in str(caught.value)


def test_a_job_beyond_its_deadline_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "HEARTBEAT", 0.2)
    with pytest.raises(ToolchainError, match="ended after"):
        process.run(
            ["sh", "-c", "sleep 60 & wait"],
            what="job",
            log=tmp_path / "log",
            seconds=1,
            deadline=0.1,
            cwd=tmp_path,
        )
    until = time.monotonic() + 5
    while (alive := processes.under(tmp_path)) and time.monotonic() < until:
        time.sleep(0.05)
    assert alive == []


def test_what_a_run_left_is_found_by_folder_or_mark_and_ended(tmp_path: Path) -> None:
    mark = f"{os.getpid()}-{tmp_path.name}"
    here = subprocess.Popen(["sleep", "60"], cwd=tmp_path, start_new_session=True)
    marked = subprocess.Popen(["sleep", "60"], cwd="/", env={"WMS_TEST_MARK": mark}, start_new_session=True)
    try:
        # A frozen process does not see a request to end until it goes on.
        os.kill(here.pid, signal.SIGSTOP)
        until = time.monotonic() + 5
        found: list[processes.Process] = []
        # Between fork and exec a child still shows its parent's environment.
        while len(found) < 2 and time.monotonic() < until:
            found = [*processes.under(tmp_path), *processes.marked("WMS_TEST_MARK", mark)]
        assert {child.pid for child in found} == {here.pid, marked.pid}
        assert {child.command for child in found} == {"sleep"}
        assert processes.end(found) == []
        assert here.wait(5) == -signal.SIGTERM
        assert marked.wait(5) == -signal.SIGTERM
    finally:
        for child in (here, marked):
            if child.poll() is None:
                child.kill()
                child.wait(5)


# -- results --


def junit(folder: Path, name: str, **counts: int) -> None:
    fields = " ".join(f'{key}="{value}"' for key, value in counts.items())
    (folder / f"{name}.xml").write_text(f"<testsuites><testsuite {fields}/></testsuites>")


def test_the_runs_are_added_up(tmp_path: Path) -> None:
    junit(tmp_path, "check", tests=100, failures=1, errors=0, skipped=2)
    junit(tmp_path, "live", tests=10, failures=1, errors=2, skipped=0)
    total, lines = results.collect(tmp_path, ["check", "live"])
    assert str(total) == "104 passed, 4 failed, 2 skipped"
    assert lines == ["check: 97 passed, 1 failed, 2 skipped", "live: 7 passed, 3 failed"]


def test_a_run_without_a_report_counts_as_failed(tmp_path: Path) -> None:
    junit(tmp_path, "check", tests=5, failures=0, errors=0, skipped=0)
    (tmp_path / "cut.xml").write_text("<testsuites><testsuite tests=")
    total, lines = results.collect(tmp_path, ["check", "cut", "absent"])
    assert str(total) == "5 passed, 2 failed"
    assert "cut: did not finish" in lines[1]
    assert "absent: did not finish" in lines[2]


# -- doctor --


def test_memory_and_overcommit() -> None:
    info = doctor.meminfo(
        "MemTotal: 1 kB\nMemAvailable:  3145728 kB\nCommitLimit: 8388608 kB\nHugePages_Total: 0\n"
    )
    assert doctor.memory(info, 2).ok
    assert not doctor.memory(info, 4).ok
    assert doctor.overcommit("0\n", info).ok
    assert doctor.overcommit("2\n", info).ok
    assert not doctor.overcommit("2\n", info | {"Committed_AS": 6 * doctor.GIB}).ok


def test_open_files_says_how_to_raise_the_limit() -> None:
    assert doctor.open_files(4096, 4096, 4096).ok
    assert doctor.open_files(-1, -1, 4096).ok
    assert "ulimit -n 4096" in doctor.open_files(1024, 1048576, 4096).remedy
    assert "limits.conf" in doctor.open_files(1024, 2048, 4096).remedy


def test_a_clock_before_the_checkout_is_wrong(tmp_path: Path) -> None:
    witness = tmp_path / "file"
    witness.touch()
    now = witness.stat().st_mtime
    assert doctor.clock(witness, now + 5).ok
    assert not doctor.clock(witness, now - 3600).ok
    assert not doctor.synchronised(lambda: 5).ok
    assert doctor.synchronised(lambda: 0).ok


def test_only_a_server_on_all_addresses_is_in_the_way(tmp_path: Path) -> None:
    with socket.socket() as everywhere, socket.socket() as one:
        everywhere.bind(("0.0.0.0", 0))
        everywhere.listen()
        one.bind(("127.0.0.1", 0))
        one.listen()
        taken, free = everywhere.getsockname()[1], one.getsockname()[1]
        check = doctor.ports((taken, free))
    assert not check.ok
    assert check.found == f"in use on all addresses: [{taken}]"


def test_too_little_disk_is_a_failure_with_a_remedy(tmp_path: Path) -> None:
    check = doctor.disk("cache", tmp_path / "not" / "there", 1 << 40)
    assert not check.ok
    assert "WMS_CACHE" in check.remedy
    assert doctor.disk("platforms", tmp_path, 0).ok


def test_another_system_is_a_warning(tmp_path: Path) -> None:
    release = tmp_path / "os-release"
    release.write_text('ID=debian\nVERSION_ID="12"\n')
    assert doctor.system(PINS, release).ok
    release.write_text('ID=ubuntu\nVERSION_ID="24.04"\n')
    check = doctor.system(PINS, release)
    assert (check.ok, check.fatal) == (False, False)


# -- Makefile and CI --


def targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text()
    return {name for line in re.findall(r"^\.PHONY: (.+)$", makefile, re.MULTILINE) for name in line.split()}


def test_help_is_the_default_and_covers_every_target() -> None:
    said = subprocess.run(["make", "-C", ROOT], capture_output=True, text=True, timeout=20, check=True)
    shown = dict(re.findall(r"^  make (\S+)\s+(\S.*)$", said.stdout, re.MULTILINE))
    assert set(shown) == targets()
    assert {"setup", "up", "down", "demo", "check", "test", "bench", "lock", "env"} <= set(shown)


def test_every_rule_of_the_makefile_is_a_declared_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    rules = {
        name
        for line in re.findall(r"^([a-z][a-z -]*):(?!=)", makefile, re.MULTILINE)
        for name in line.split()
    }
    assert rules == targets()


def test_ci_is_a_script_that_bash_can_read() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", script], check=True, timeout=10)
    assert "set -euo pipefail" in script.read_text()
