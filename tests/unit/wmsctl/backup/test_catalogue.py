"""The document of `pgbackrest info`: real ones of version 2.45, and wrong ones."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from wmsctl.backup.catalogue import (
    Catalogue,
    CatalogueError,
    ancestors,
    dependents,
    index,
    parse,
    whole,
)
from wmsctl.errors import Code, Unreachable

SAMPLES = Path(__file__).parent / "samples"
FULL, DIFF, INCR = (
    "20261124-133823F",
    "20261124-133823F_20261124-133829D",
    "20261124-133823F_20261124-133832I",
)


def sample(name: str = "info") -> Catalogue:
    return parse((SAMPLES / f"{name}.json").read_text(), "wms")


def test_a_real_document_with_a_chain_and_a_second_repository() -> None:
    found = sample()
    assert [(b.repo, b.label, b.type) for b in found.backups] == [
        (1, FULL, "full"),
        (1, DIFF, "diff"),
        (1, INCR, "incr"),
        (2, "20261124-133833F", "full"),
    ]
    full, diff, incr = found.of(1)
    assert full.started == datetime(2026, 11, 24, 13, 38, 23, tzinfo=UTC)
    assert (full.prior, diff.prior, incr.prior) == ("", FULL, DIFF)
    assert (incr.lsn_start, incr.lsn_stop) == (0x7000028, 0x8000050)
    assert (incr.wal_start, incr.wal_stop) == ("000000010000000000000007", "000000010000000000000008")
    assert (incr.archive, incr.version, incr.damaged) == ("15-1", "2.45", False)
    assert (full.size, full.stored, diff.stored_delta) == (23213948, 3014784, 464)
    assert [(a.repo, a.id, a.last) for a in found.archives] == [
        (1, "15-1", "00000001000000000000000A"),
        (2, "15-1", "00000001000000000000000A"),
    ]
    assert [(r.key, r.cipher, r.trouble) for r in found.repositories] == [
        (1, "aes-256-cbc", ""),
        (2, "aes-256-cbc", ""),
    ]
    assert found.get(1, DIFF) is diff and not found.running


def test_what_a_backup_needs_and_what_is_lost_with_it() -> None:
    backups = index(sample().backups)
    full, diff, incr, other = backups.values()
    assert ancestors(incr, backups) == (diff, full)
    assert dependents(full, backups) == (diff, incr) and dependents(other, backups) == ()
    assert whole(incr, backups)
    del backups[full.key]
    assert not whole(incr, backups) and not whole(diff, backups) and whole(other, backups)


def test_a_wrong_passphrase_of_one_repository_leaves_the_other() -> None:
    found = sample("info-wrong-passphrase")
    found.require(2)
    with pytest.raises(Unreachable, match="passphrase is wrong") as error:
        found.require(1)
    assert "escrow" in error.value.hint and error.value.message.isprintable()


def test_without_any_readable_repository_there_is_no_catalogue() -> None:
    with pytest.raises(Unreachable, match=r"no repository .* repo1: its passphrase is wrong") as error:
        sample("info-wrong-passphrases")
    assert error.value.code == Code.UNREACHABLE


def test_a_repository_that_is_gone_is_told_and_the_other_read() -> None:
    found = sample("info-repo2-gone")
    assert len(found.of(1)) == 3 and found.of(2) == ()
    with pytest.raises(Unreachable, match="missing stanza path"):
        found.require(2)
    with pytest.raises(CatalogueError, match="no repo3; configured: repo1, repo2"):
        found.require(3)


def test_noise_in_a_reason_is_no_reason_to_fail() -> None:
    text = (SAMPLES / "info-wrong-passphrase.json").read_bytes().replace(b"Djez", b"\xff\xfe")
    assert parse(text.replace(b"FormatError: key", b"\xc5\x89\xff key"), "wms").of(2) == ()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no document"),
        ("ERROR: [055]: unable to open", "no document"),
        ("{}", "no document"),
        ("[]", "it has no stanza at all"),
        ('[{"name":"other","status":{"code":0,"message":"ok"}}]', "it has other"),
        ('[{"name":"wms"}]', "missing required field `status`"),
    ],
)
def test_another_document_is_refused_with_the_reason(text: str, reason: str) -> None:
    with pytest.raises(CatalogueError, match=reason):
        parse(text, "wms")


def change(action: Callable[[dict[str, Any]], object]) -> str:
    document = json.loads((SAMPLES / "info.json").read_text())
    action(document[0])
    return json.dumps(document)


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        (lambda s: s["backup"][0].pop("timestamp"), "timestamp.*backup"),
        (lambda s: s["backup"][0].update(type="half"), "Invalid enum value 'half'"),
        (lambda s: s["backup"][1].update(prior=None), "names no prior"),
        (lambda s: s["backup"][0]["timestamp"].update(stop=1), "ends before it begins"),
        (lambda s: s["backup"][0]["timestamp"].update(stop=10**15), "wrong time"),
        (lambda s: s["backup"][0]["lsn"].update(stop="x/y"), "wrong time or position"),
        (lambda s: s["backup"].append(s["backup"][0]), "one backup twice"),
    ],
)
def test_a_wrong_backup_is_refused_with_the_reason(
    action: Callable[[dict[str, Any]], object], reason: str
) -> None:
    with pytest.raises(CatalogueError, match=reason):
        parse(change(action), "wms")


def test_a_chain_that_leads_back_to_itself_is_no_chain() -> None:
    text = change(lambda s: s["backup"][1].update(prior=INCR))
    backups = index(parse(text, "wms").backups)
    with pytest.raises(CatalogueError, match="depends on itself"):
        ancestors(backups[1, INCR], backups)


def test_page_errors_annotations_and_the_lock_are_told() -> None:
    def mark(stanza: dict[str, Any]) -> None:
        stanza["backup"][0].update(error=True, annotation={"tier": "hold"})
        stanza["status"]["lock"]["backup"]["held"] = True

    found = parse(change(mark), "wms")
    assert found.backups[0].damaged and found.backups[0].annotations == {"tier": "hold"} and found.running


def test_a_backup_of_a_stopped_server_has_no_wal() -> None:
    def stopped(stanza: dict[str, Any]) -> None:
        stanza["backup"][0].update(archive={"start": None, "stop": None}, lsn=None)

    backup = parse(change(stopped), "wms").backups[0]
    assert (backup.wal_start, backup.wal_stop, backup.lsn_stop) == ("", "", 0)


def test_an_unknown_backup_is_named_with_those_there_are() -> None:
    with pytest.raises(CatalogueError, match=f"no backup 20200101-000000F; the newest are: .*{INCR}"):
        sample().get(1, "20200101-000000F")
