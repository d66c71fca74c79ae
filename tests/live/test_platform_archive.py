"""Verification, expiry, the archive and the escrow on the whole platform, with the commands that an operator types."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.platform import Live

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def proven(shared_platform: Live) -> list[dict[str, Any]]:
    """A full backup in each repository, verified; the plan's backups."""
    platform = shared_platform
    for repo in ("1", "2"):
        ran = platform.cli("backup", "run", "--type", "full", "--repo", repo, "--yes", timeout=120)
        assert ran.code == 0, ran.text
    found = platform.document("backup", "verify", timeout=120)
    assert found["whole"] and found["remembered"] == len(found["backups"]) >= 2, found["troubles"]
    backups: list[dict[str, Any]] = platform.document("backup", "plan")["now"]["backups"]
    return backups


def test_r5_what_was_verified_is_known_to_the_plan(proven: list[dict[str, Any]], platform: Live) -> None:
    newest = {backup["repo"]: backup for backup in proven}
    assert set(newest) == {1, 2}
    assert all(b["sound"] and b["proven"] and b["keep"] for b in newest.values())
    kinds = {reason["kind"] for b in newest.values() for reason in b["reasons"]}
    assert {"point-in-time", "newest"} <= kinds
    planned = platform.document("backup", "expire", "--dry-run")
    assert planned["expire"] == [] and planned["refusals"] == []
    tiers = platform.document("backup", "plan", "--years", "1")["simulated"][-1]["tiers"]
    # The first month's backup is of the day that the platform was made on.
    assert (tiers["daily"], tiers["weekly"], tiers["archive"]) == (7, 4, 2) and tiers["monthly"] in (12, 13)


def test_wal_that_is_gone_from_the_store_is_named(proven: list[dict[str, Any]], platform: Live) -> None:
    """A segment behind the newest backup is taken out of the gateway's folder, and put back."""
    hosts, store = platform.inventory.hosts, platform.inventory.store
    assert hosts is not None and store is not None
    names = []
    for _ in range(3):
        found = platform.on(
            platform.leader(),
            "SELECT pg_walfile_name(pg_switch_wal()), pg_logical_emit_message(false, 'test', 'x')",
        )
        names.append(found[0][0])
    bucket = Path(hosts.home) / "nodes/storage-1/versitygw/data" / store.bucket
    deadline = time.monotonic() + 60
    while not (stored := list(bucket.rglob(f"{names[1]}-*"))) or not list(bucket.rglob(f"{names[2]}-*")):
        assert time.monotonic() < deadline, f"{names} did not arrive in the store"
        time.sleep(0.2)
    aside = Path(hosts.home) / "nodes/storage-1" / stored[0].name
    stored[0].rename(aside)
    try:
        ran = platform.cli("backup", "verify", "--repo", "1", "--do-not-remember", timeout=120)
    finally:
        aside.rename(stored[0])
    assert ran.code == 1, ran.text
    assert f"WAL segment {names[1]} is missing or damaged, written between" in ran.err
    again = platform.cli("backup", "verify", "--repo", "1", timeout=120)
    assert again.code == 0, again.text


def test_r5_the_archive_is_made_locked_and_fetched(
    proven: list[dict[str, Any]], platform: Live, tmp_path: Path
) -> None:
    label = [b["label"] for b in proven if b["repo"] == 2][-1]
    # Which of several stands for the year is the plan's to say; this one is asked for.
    planned = platform.document("backup", "archive", "export", label, "--dry-run")["items"]
    assert [each["state"] for each in planned] == ["planned"]
    refused = platform.cli("backup", "archive", "export", label)
    assert refused.code == 3 and "not confirmed" in refused.err, refused.text
    made = platform.document("backup", "archive", "export", label, "--yes", timeout=120)["items"]
    assert made == [{"label": label, "state": "archived", "kept_until": planned[0]["kept_until"]}]
    again = platform.document("backup", "archive", "export", label, "--dry-run")["items"]
    assert [each["state"] for each in again] == ["there"]
    assert platform.document("backup", "archive", "verify", timeout=120)["items"][-1]["whole"]
    (listed,) = [
        each for each in platform.document("backup", "archive", "list")["items"] if each["label"] == label
    ]
    assert listed["finished"] and listed["kept_until"] == made[0]["kept_until"]
    assert platform.document("backup", "archive", "purge", "--yes") | {"schema": ""} == {
        "schema": "", "due": [], "removed": [], "dry_run": False,
    }  # fmt: skip
    fetched = platform.document("backup", "archive", "fetch", label, "--to", str(tmp_path / "x"), timeout=120)
    assert (Path(fetched["repository"]) / f"backup/wms/{label}/backup.manifest").exists()
    assert fetched["passphrase"] == listed["passphrase"]


def test_the_escrow_holds_the_platforms_passphrases(platform: Live, tmp_path: Path) -> None:
    key, certificate, file = (tmp_path / name for name in ("k", "c", "wms.escrow.json"))
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:3072", "-nodes", "-days", "2", "-subj", "/CN=holder",
         "-keyout", key, "-out", certificate],
        check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    written = platform.document("backup", "escrow", "write", str(file), "--recipient", str(certificate))
    assert written["current"] and len(written["repositories"]) == 2
    assert platform.document("backup", "escrow", "check", str(file))["current"]
    opened = platform.cli(
        "backup", "escrow", "open", str(file), "--key", str(key), "--certificate", str(certificate)
    )
    assert opened.code == 0 and "repo1, repo2 of wms/" in opened.out, opened.text
    for name in ("backup/repo1", "backup/repo2"):
        assert platform.secrets.get(name).reveal() not in json.dumps(written) + opened.text + file.read_text()
