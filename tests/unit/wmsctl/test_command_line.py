from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.support import builders
from tests.support.commands import command_lines
from wmsctl import inventory, main
from wmsctl.errors import Failed, Refused
from wmsctl.output import Format, Printer, Styled, size

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WMSCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.setenv("WMSCTL_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("WMSCTL_CONTEXT", raising=False)


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "inventory.json"
    path.write_text(inventory.encode(builders.inventory()))
    return path


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_listing_loads_no_driver() -> None:
    code = (
        "import sys\nfrom wmsctl.main import run\nassert run(['--help']) == 0\n"
        "heavy = {'psycopg', 'redis', 'rich', 'urllib3', 'yaml', 'msgspec', 'pydantic', 'http.client',"
        " 'asyncio', 'wmsctl.status', 'wmsctl.failover', 'wmsctl.clients'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    done = python(code)
    assert done.returncode == 0, done.stderr
    for name in main.COMMANDS:
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", list(main.COMMANDS))
def test_every_command_explains_itself_with_an_example_and_without_rich(name: str) -> None:
    code = (
        "import sys\nfrom wmsctl.main import run\ncode = run([sys.argv[1], '--help'])\n"
        "sys.exit('rich was loaded' if 'rich' in sys.modules else code)"
    )
    done = python(code, name)
    assert done.returncode == 0, done.stderr
    assert "Usage: wmsctl " + name in done.stdout
    assert "completion" not in done.stdout


def commands() -> list[tuple[str, ...]]:
    """Every command path that ends in a command of its own."""
    return [line for line, group in command_lines().items() if not group]


@pytest.mark.parametrize("path", commands(), ids=" ".join)
def test_every_leaf_has_an_example(path: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run([*path, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "Example" in shown
    assert f"wmsctl {' '.join(path)}" in shown.split("Example", 1)[1]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["status", "-o", "json"], ["-o", "json", "status"]),
        (["status", "--output=json", "-w"], ["--output=json", "status", "-w"]),
        (["-c", "a", "node", "list", "--quiet"], ["-c", "a", "--quiet", "node", "list"]),
        (["x", "--", "-o", "json"], ["x", "--", "-o", "json"]),
        (["status", "-ojson"], ["-ojson", "status"]),
        (["status", "-o"], ["-o", "status"]),
    ],
)
def test_global_options_may_stand_anywhere(given: list[str], expected: list[str]) -> None:
    assert main.hoist(given) == expected


@pytest.mark.parametrize(
    "line",
    [
        ["bogus"],
        ["status", "--bogus"],
        ["-o", "xml", "status"],
        ["node", "kill"],
        ["status", "--timeout", "x"],
        [],
    ],
    ids=" ".join,
)
def test_usage_errors_exit_with_2_and_one_error_line(
    line: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.run(line) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err


def test_without_a_context_the_error_says_how_to_import(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["status"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: no context is chosen")
    assert "next: import one with: wmsctl context import" in error


def test_errors_are_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["status", "-o", "json"]) == 2
    error = json.loads(capsys.readouterr().err)
    assert (error["schema"], error["exit_code"]) == ("wmsctl.error/v1", 2)


def test_contexts_from_the_command_line(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.run(["context", "import", str(document), "--link"]) == 0
    assert main.run(["context", "import", str(document), "--name", "other"]) == 0
    capsys.readouterr()
    assert main.run(["context", "list", "-o", "json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert listed["schema"] == "wmsctl.contexts/v1"
    assert [(row["name"], row["current"], row["linked"]) for row in listed["items"]] == [
        ("local", True, True),
        ("other", False, False),
    ]
    assert main.run(["context", "use", "other"]) == 0
    capsys.readouterr()
    assert main.run(["context", "show", "-o", "yaml"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    assert (shown["name"], shown["inventory"]["platform"]) == ("other", "wms")
    assert main.run(["-c", "nope", "status"]) == 2
    assert "there are: local, other" in capsys.readouterr().err
    assert main.run(["context", "import", "-", "--link"]) == 2
    assert main.run(["context", "import", "/nowhere/x.json"]) == 2


def test_a_wrong_inventory_names_the_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.json"
    path.write_text('{"version": "wms.inventory/v0"}')
    assert main.run(["context", "import", str(path)]) == 2
    assert "wrong.json: not a wms.inventory/v1 document" in capsys.readouterr().err


def test_an_unexpected_error_leaves_one_line_and_a_private_traceback(
    document: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def broken(self: object, text: bytes, source: str, **_: object) -> None:
        raise ZeroDivisionError("odd\nthing")

    monkeypatch.setattr("wmsctl.context.Contexts.store", broken)
    assert main.run(["context", "import", str(document)]) == 1
    error = capsys.readouterr().err
    assert error.splitlines()[0] == "error: unexpected ZeroDivisionError: odd thing"
    [file] = tmp_path.glob("wmsctl-error-*.txt")
    assert str(file) in error
    assert "broken" in file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert main.run(["context", "import", str(document), "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_an_interrupted_run_cleans_up_and_says_by_what(number: signal.Signals, code: int) -> None:
    # The real entry point, with one command in the place of another: it waits, and writes when it is unwound.
    source = (
        "import sys, time, typer\nfrom types import SimpleNamespace\nfrom wmsctl import main\n"
        "app = typer.Typer(rich_markup_mode=None)\n"
        "@app.command()\ndef wait() -> None:\n"
        "    try:\n        print('ready', flush=True); time.sleep(30)\n"
        "    finally:\n        print('resumed', flush=True)\n"
        "main.import_module = lambda name: SimpleNamespace(app=app)\n"
        "sys.argv = ['wmsctl', 'status']\nsys.exit(main.main())"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert out == "resumed\n"
    assert process.returncode == code
    assert "Traceback" not in err


def test_a_reader_that_goes_away_is_no_error(document: Path) -> None:
    command = f"{sys.executable} -m wmsctl --help | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_destructive_commands_ask_and_dry_runs_stop(
    document: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    home = tmp_path / "home"
    (home / "nodes" / "testnode-1").mkdir(parents=True)
    local = inventory.LocalHosts(home=str(home), supervisor="")
    node = inventory.Node(name="testnode-1", role="app", zone="a", address="127.99.6.1")
    document.write_text(inventory.encode(builders.inventory(hosts=local, nodes=(node,))))
    assert main.run(["context", "import", str(document)]) == 0
    assert main.run(["node", "kill", "testnode-1", "--dry-run"]) == 0
    assert not (home / "nodes" / "testnode-1" / "power-off").exists()
    with open(os.devnull) as nobody:
        stdin, sys.stdin = sys.stdin, nobody
        try:
            assert main.run(["node", "kill", "testnode-1"]) == 3
        finally:
            sys.stdin = stdin
    assert "--yes" in capsys.readouterr().err
    assert not (home / "nodes" / "testnode-1" / "power-off").exists()
    assert not (tmp_path / "state" / "local" / "audit.jsonl").exists()
    assert main.run(["node", "kill", "testnode-1", "--yes", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["dead"] is True
    [line] = (tmp_path / "state" / "local" / "audit.jsonl").read_text().splitlines()
    assert json.loads(line)["action"] == "node kill"


# ---- the printer
# ------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_only_on_a_terminal_and_when_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")

    def printed(stream: io.StringIO, color: bool | None = None) -> str:
        Printer(color=color, stdout=stream).text("x", "good")
        return stream.getvalue()

    assert "\x1b[" in printed(Terminal())
    assert printed(io.StringIO()) == "x\n"
    assert printed(Terminal(), color=False) == "x\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert printed(Terminal()) == "x\n"


def test_a_table_lines_up() -> None:
    out = io.StringIO()
    Printer(stdout=out).table(
        ["NODE", "LAG", "OK"], [["pg-1", 5, True], ["a", None, Styled("no", "bad")], ["b", 1234, None]]
    )
    assert out.getvalue() == "NODE   LAG  OK\npg-1     5  yes\na        -  no\nb     1234  -\n"
    empty = io.StringIO()
    Printer(stdout=empty).table(["A"], [])
    assert empty.getvalue() == "A\n"


def test_documents_in_each_form() -> None:
    data = [{"a": 1, "b": None}]
    for form, read in ((Format.json, json.loads), (Format.yaml, yaml.safe_load)):
        out = io.StringIO()
        Printer(form, stdout=out).document("things", data, lambda p: p.text("not this"))
        assert read(out.getvalue()) == {"schema": "wmsctl.things/v1", "items": data}
    out = io.StringIO()
    Printer(Format.json, stdout=out).document("thing", {"a": 1}, stream=True)
    assert out.getvalue() == '{"schema":"wmsctl.thing/v1","a":1}\n'
    out = io.StringIO()
    Printer(stdout=out).document("things", data)
    assert out.getvalue().split() == ["A", "B", "1", "-"]


def test_quiet_silences_progress_but_no_error() -> None:
    err = io.StringIO()
    printer = Printer(quiet=True, stderr=err)
    printer.progress("working")
    printer.error("bad", "do this")
    assert err.getvalue() == "error: bad\n  next: do this\n"


def test_confirmation_needs_somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    printer = Printer(stderr=io.StringIO())
    printer.confirm("Go on?", yes=True)
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    with pytest.raises(Refused, match="not confirmed"):
        printer.confirm("Go on?", yes=False)

    def typed(text: str) -> Terminal:
        return Terminal(text)

    monkeypatch.setattr(sys, "stdin", typed("y\n"))
    printer.confirm("Go on?", yes=False)
    for answer in ("n\n", "\n", ""):
        monkeypatch.setattr(sys, "stdin", typed(answer))
        with pytest.raises(Refused):
            printer.confirm("Go on?", yes=False)


def test_notes_on_an_error_are_shown(
    document: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(self: object) -> None:
        error = Failed("it broke")
        error.add_note("wms on proxy-1 may still be paused")
        raise error

    monkeypatch.setattr("wmsctl.context.Contexts.all", broken)
    assert main.run(["context", "list"]) == 1
    assert "warning: wms on proxy-1 may still be paused" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (1023, "1023 B"),
        (524288, "512 kB"),
        (1572864, "1.5 MB"),
        (1 << 50, "1024 TB"),
    ],
)
def test_sizes(number: int | None, text: str) -> None:
    assert size(number) == text
