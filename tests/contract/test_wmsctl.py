"""What programs rely on of wmsctl: documents and their fields, exit codes, help and completion."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench import rig
from stacks.local.program import ROOT
from tests.support.commands import command_lines
from tests.support.platform import Live, Ran
from wmsctl import inventory as contract

pytestmark = [pytest.mark.contract, pytest.mark.timeout(120)]
DOCUMENTATION = ROOT / "docs" / "wmsctl-json.md"


def section(heading: str) -> str:
    """The part of the documentation below `heading`, without what lies deeper."""
    text = DOCUMENTATION.read_text()
    found = re.search(rf"^#+ {re.escape(heading)}$(.*?)(?=^#|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, f"{DOCUMENTATION} has no section {heading!r}"
    return found[1]


def table_fields(heading: str) -> set[str]:
    """The fields in the first column of a documented table."""
    rows = re.findall(r"^\|([^|]+)\|", section(heading), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([a-z_]+)`", row)}


def prose_fields(heading: str) -> set[str]:
    """Everything in the section that looks like a field."""
    return set(re.findall(r"`([a-z_0-9]+)`", section(heading)))


def both(platform: Live, *arguments: str, codes: tuple[int, ...] = (0,)) -> dict[str, Any]:
    """The command's document, after a look that JSON and YAML have the same shape."""
    found: list[dict[str, Any]] = []
    for form, parse in (("json", json.loads), ("yaml", yaml.safe_load)):
        done = platform.cli(*arguments, "-o", form)
        assert done.code in codes, done.text
        found.append(parse(done.out))
    assert shape(found[0]) == shape(found[1])
    return found[0]


def shape(value: Any) -> Any:
    """The keys of a document, without its values and without the length of its lists."""
    if isinstance(value, dict):
        return {name: shape(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return shape(value[0]) if value else None
    return None


def test_the_status_has_exactly_the_documented_fields(platform: Live) -> None:
    status = both(platform, "status", codes=(0, 5))
    assert status.pop("schema") == "wmsctl.status/v1"
    assert set(status) == table_fields("wmsctl.status/v1")
    assert set(status["cluster"]) == table_fields("cluster")
    for part, heading in {
        "poolers": "poolers",
        "proxies": "proxies",
        "web": "web",
    }.items():
        assert status[part]
        for entry in status[part]:
            assert set(entry) <= prose_fields(heading)
    member = set(status["cluster"]["members"][0])
    assert member <= prose_fields("cluster")
    assert {"node", "role", "state", "lag_bytes", "lag_ms", "timeline"} <= member
    assert set(status["store"][0]) <= prose_fields("wmsctl.status/v1") | {"node"}
    assert set(status["redis"]) | set(status["redis"]["nodes"][0]) <= prose_fields("redis")
    assert set(status["alerts"]) <= prose_fields("alerts")
    assert {pool["database"] for pool in status["poolers"][0]["pools"]} >= {"wms", "wms_read"}


def test_the_status_tells_the_truth(platform: Live) -> None:
    status = both(platform, "status", codes=(0, 5))
    assert status["verdict"]["state"] in ("healthy", "degraded")
    assert status["cluster"]["leader"] == platform.leader()
    assert status["cluster"]["writable"] is True
    assert {m["node"] for m in status["cluster"]["members"]} == set(platform.members)
    assert all(member["healthy"] for member in status["store"])
    assert status["redis"]["state"] == "ok" and status["redis"]["slots_served"] == 16384
    assert {entry["kind"] for entry in status["web"]} == {"edge", "gateway", "service", "store"}
    assert all(entry["ok"] for entry in status["web"]), status["web"]


def test_the_replicas_have_the_documented_fields(platform: Live) -> None:
    replicas = both(platform, "replicas", codes=(0, 5))
    assert replicas.pop("schema") == "wmsctl.replicas/v1"
    documented = prose_fields("wmsctl.replicas/v1")
    assert set(replicas) <= documented
    assert len(replicas["replicas"]) == 3
    assert all(set(row) <= documented for row in replicas["replicas"])
    assert replicas["primary"] == platform.leader()


def test_the_nodes_have_the_documented_fields(platform: Live) -> None:
    nodes = both(platform, "node", "list")
    assert nodes["schema"] == "wmsctl.nodes/v1"
    assert {node["node"] for node in nodes["items"]} == {node.name for node in platform.inventory.nodes}
    documented = prose_fields("wmsctl.nodes/v1")
    assert all(set(node) <= documented for node in nodes["items"])
    assert all(node["power"] == "on" and not node["down"] for node in nodes["items"]), nodes


def test_the_history_has_the_documented_fields(platform: Live) -> None:
    history = both(platform, "failover", "history")
    assert history["schema"] == "wmsctl.failover.history/v1"
    documented = prose_fields("wmsctl.failover.history/v1")
    assert all(set(event) <= documented for event in history["items"])


def test_contexts_have_the_documented_fields(platform: Live) -> None:
    listed = both(platform, "context", "list")
    assert listed["schema"] == "wmsctl.contexts/v1"
    documented = prose_fields("wmsctl.contexts/v1, wmsctl.context/v1")
    assert platform.name in {entry["name"] for entry in listed["items"]}
    assert all(set(entry) <= documented for entry in listed["items"])
    shown = both(platform, "context", "show")
    assert shown["schema"] == "wmsctl.context/v1"
    assert set(shown) - {"schema"} <= documented
    assert shown["inventory"]["version"] == contract.VERSION


def test_plans_are_documents_too(platform: Live) -> None:
    replica = platform.replicas()[0]
    kill = both(platform, "node", "kill", replica, "--dry-run")
    assert kill["schema"] == "wmsctl.plan/v1" and kill["dry_run"] is True and kill["steps"]
    replay = both(platform, "replicas", "resume", replica, "--dry-run")
    assert replay["schema"] == "wmsctl.replay/v1" and replay["dry_run"] is True
    assert set(replay) - {"schema"} == prose_fields("wmsctl.replay/v1")
    switchover = both(platform, "failover", "switchover", "--dry-run")
    assert switchover["schema"] == "wmsctl.failover.switchover/v1"
    assert switchover["result"] == "planned" and switchover["steps"]
    assert set(switchover) - {"schema"} <= prose_fields(
        "wmsctl.failover.switchover/v1, wmsctl.failover.promote/v1, wmsctl.failover.rejoin/v1,"
        " wmsctl.failover.resume/v1"
    )
    assert platform.power.processes(replica), "a dry run changed something"


def test_the_ledger_has_the_documented_fields(platform: Live) -> None:
    account = platform.document("ledger", "run", "--rate", "50", "--seconds", "1")
    assert account["schema"] == "wmsctl.ledger/v1"
    assert account["lost"] == 0 and account["acknowledged"] > 0
    documented = prose_fields("wmsctl.ledger/v1")
    assert set(account) - {"schema"} <= documented
    for part in ("gap", "latency"):
        assert set(account[part]) <= documented
    again = platform.document("ledger", "check")
    assert (again["run"], again["present"]) == (account["run"], account["present"])


def test_an_error_is_one_json_line_with_the_documented_fields(platform: Live) -> None:
    done = platform.cli("node", "kill", "pg-99", "--yes", "-o", "json")
    assert done.code == 2 and done.out == ""
    error = json.loads(done.err)
    assert error["schema"] == "wmsctl.error/v1"
    assert set(error) - {"schema"} == prose_fields("wmsctl.error/v1")
    assert error["exit_code"] == done.code
    assert "pg-99" in error["error"] and "pg-1" in error["error"]


def test_exit_codes(platform: Live, tmp_path: Path) -> None:
    def code(*arguments: str) -> Ran:
        return platform.cli(*arguments)

    leader = platform.leader()
    verdict = platform.document("status", codes=(0, 5))["verdict"]["state"]
    expected = {
        0: [("failover", "switchover", "--to", leader), ("failover", "resume"), ("context", "list")],
        2: [
            ("status", "--bogus"),
            ("failover", "promote", "--to"),
            ("context", "use", "no-such-context"),
            ("replicas", "pause", "pg-99", "--yes"),
        ],
        3: [
            ("failover", "rejoin", leader, "--dry-run"),
            ("failover", "switchover", "--to", "pg-99", "--dry-run"),
            ("replicas", "pause", leader, "--yes"),
            ("node", "kill", leader),
        ],
    }
    for wanted, lines in expected.items():
        for line in lines:
            done = code(*line)
            assert done.code == wanted, f"{' '.join(line)}: {done.text}"
            assert not done.code or "error: " in done.err, done.text
    # A watched status may have changed in between; then the second look agrees with itself.
    done = platform.cli("status", "-o", "json")
    state = json.loads(done.out)["verdict"]["state"]
    assert done.code == {"healthy": 0, "degraded": 5}[state], (verdict, done.text)


def test_a_platform_that_is_away_is_unreachable(platform: Live, tmp_path: Path) -> None:
    text = contract.encode(platform.inventory)
    network = platform.inventory.nodes[0].address.rpartition(".1.")[0]
    away = tmp_path / "away.json"
    away.write_text(text.replace(f'"{network}.', '"127.141.'))
    environment = {"WMSCTL_CONFIG": str(tmp_path / "config"), "WMSCTL_STATE": str(tmp_path / "state")}
    wmsctl = rig.program("wmsctl")
    imported = platform.ran(
        [wmsctl, "context", "import", str(away), "--name", "away"], timeout=30, env=environment
    )
    assert imported.code == 0, imported.text
    for line in (["status"], ["replicas"], ["failover", "switchover", "--dry-run"]):
        done = platform.ran([wmsctl, "-c", "away", *line], timeout=60, env=environment)
        assert done.code in ((3, 4) if line[0] == "failover" else (4,)), f"{line}: {done.text}"
        assert "Traceback" not in done.text
        wanted = "UNREACHABLE" if line == ["status"] else "error: "
        assert wanted in done.text, done.text


def test_without_a_context_nothing_is_guessed(platform: Live, tmp_path: Path) -> None:
    done = platform.ran(
        [rig.program("wmsctl"), "status"],
        timeout=30,
        env={"WMSCTL_CONFIG": str(tmp_path), "WMSCTL_CONTEXT": ""},
    )
    assert done.code == 2 and "context import" in done.err, done.text


def test_every_command_explains_itself_with_an_example(platform: Live) -> None:
    for line, group in {(): False, **command_lines()}.items():
        done = platform.ran([rig.program("wmsctl"), *line, "--help"], timeout=30)
        assert done.code == 0, f"{line}: {done.text}"
        assert f"Usage: {' '.join(('wmsctl', *line))}" in done.out
        assert "Commands" in done.out if group else "Example" in done.out, f"{line}: {done.out}"
        assert done.err == ""
