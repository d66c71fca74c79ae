"""The demonstration as a whole, on a stack of its own: rows C4, C5 and R2 from nothing to measured figures."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from stacks.local.program import ROOT
from toolchain.env import process_environment

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

STACK, OVERRIDES = "test-3", {"network": "127.46"}
DEMO_S, DOWN_S = 240, 60


def run(environment: dict[str, str], *arguments: str, seconds: float) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Contexts of wmsctl apart from the user's; the stack is removed in the end."""
    made = {**os.environ, **process_environment(), "XDG_CONFIG_HOME": str(tmp_path_factory.mktemp("config"))}
    yield made
    done = down(made)
    assert done.returncode == 0, done.stderr
    assert not home(made).exists()


def home(environment: dict[str, str]) -> Path:
    return Path(environment["WMS_HOME"], STACK)


def down(environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return run(environment, "stacks.local.lifecycle", "down", "--stack", STACK, "--yes", seconds=DOWN_S)


def test_c4_c5_r2_the_demonstration_meets_its_objectives(environment: dict[str, str]) -> None:
    done = run(
        environment,
        "demo",
        "--stack",
        STACK,
        "--overrides",
        json.dumps(OVERRIDES),
        "--rate",
        "100",
        seconds=DEMO_S,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    figures = re.search(r"^RTO +([\d.]+) s +objective (\d+) s \(R2\) +met$", done.stdout, re.M)
    assert figures, done.stdout
    assert 0 < float(figures[1]) < float(figures[2])
    ledger = re.search(r"^ledger: (\d+) commits acknowledged, 0 of them lost", done.stdout, re.M)
    assert ledger, done.stdout
    assert int(ledger[1]) > 100
    assert f"$ wmsctl -c {STACK} failover promote --yes --fence" in done.stdout


def test_a_platform_that_can_no_longer_commit_is_removed_all_the_same(environment: dict[str, str]) -> None:
    """Without a standby no statement ends: the removal asks none of the servers for anything."""
    assert home(environment).exists(), "the demonstration left its platform up"
    for node in ("pg-1", "pg-2", "pg-3"):
        done = run(environment, "wmsctl", "-c", STACK, "node", "kill", node, "--yes", seconds=60)
        assert done.returncode == 0, done.stderr
    done = down(environment)
    assert done.returncode == 0, done.stderr
    assert not home(environment).exists()
