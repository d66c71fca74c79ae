"""What `pgbackrest verify` printed, what follows from it, and what is remembered."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tests.unit.wmsctl.backup.worlds import MONDAY, Chain
from wmsctl.backup import verification
from wmsctl.backup.verification import Files, Finding, Manifest, judge, recall, remember
from wmsctl.backup.wal import Chain as WalChain
from wmsctl.backup.wal import Gap

AT = datetime(2026, 11, 24, 13, 40, 2, tzinfo=UTC)
SHA = "a" * 64

# As a real 2.45 printed them.
WELL = """stanza: wms
status: ok
  archiveId: 15-1, total WAL checked: 12, total valid WAL: 12
    missing: 0, checksum invalid: 0, size invalid: 0, other: 0
  backup: 20261124-133823F, status: valid, total files checked: 964, total valid files: 964
    missing: 0, checksum invalid: 0, size invalid: 0, other: 0
"""
BAD = """stanza: wms
status: error
  archiveId: 15-1, total WAL checked: 12, total valid WAL: 11
    missing: 0, checksum invalid: 0, size invalid: 0, other: 1
  backup: 20261124-133823F, status: invalid, total files checked: 964, total valid files: 963
    missing: 0, checksum invalid: 1, size invalid: 0, other: 0
  backup: 20261124-133823F_20261124-133829D, status: invalid, total files checked: 964, total valid files: 963
    missing: 0, checksum invalid: 1, size invalid: 0, other: 0
  backup: 20261124-133823F_20261124-133832I, status: invalid, total files checked: 0, total valid files: 0
  backup: 20261125-000000F, status: manifest missing, total files checked: 0, total valid files: 0
  backup: 20261126-000000F, status: in-progress, total files checked: 0, total valid files: 0
"""
SEGMENT = "15-1/0000000100000000/000000010000000000000004-7e35015ed1c86e975fa31b146a3b6c611dde6841.zst"
LOG = f"""INFO: verify command begin 2.45: --exec-id=1 --repo1-cipher-pass=<redacted>
P01   INFO: invalid result {SEGMENT}: [29] raised from local-1 protocol: zst error: [-70] Destination buffer
            [FormatError] on retry after 0ms
P01   INFO: invalid checksum '20261124-133823F/pg_data/base/1/1249.zst'
"""


def test_a_report_without_a_fault() -> None:
    found = verification.parse(WELL, "", "wms")
    assert list(found.backups) == ["20261124-133823F"] and found.backups["20261124-133823F"].intact
    assert found.archives["15-1"].intact and found.archives["15-1"].checked == 12


def test_a_report_with_all_kinds_of_faults() -> None:
    found = verification.parse(BAD, LOG, "wms")
    said = {label: files.trouble for label, files in found.backups.items()}
    assert said == {
        "20261124-133823F": "1 of 964 files are damaged or missing:"
        " invalid checksum: 20261124-133823F/pg_data/base/1/1249.zst",
        "20261124-133823F_20261124-133829D": "1 of 964 files are damaged or missing:"
        " invalid checksum: 20261124-133823F/pg_data/base/1/1249.zst",
        "20261124-133823F_20261124-133832I": "its manifest cannot be read",
        "20261125-000000F": "its manifest is missing",
        "20261126-000000F": "it is still being made",
    }
    assert found.archives["15-1"].trouble.startswith(
        "1 of 12 files are damaged or missing: unreadable: 15-1/"
    )
    assert "zst error" in found.archives["15-1"].trouble


@pytest.mark.parametrize(
    ("output", "log", "said"),
    [
        ("", "ERROR: [055]: no such file", "printed no report: ERROR"),
        (WELL.replace("wms", "other"), "", "printed no report"),
        (WELL + "  something: new\n", "", "line that is not known: 'something: new'"),
        (WELL.replace("status: ok", "status: error", 1), "", "did not say where"),
        (
            "stanza: wms\nstatus: error\n  No usable backup.info file\n  No usable archive.info file\n",
            "",
            "neither backup.info nor its copy can be read",
        ),
    ],
)
def test_what_is_not_understood_is_an_error(output: str, log: str, said: str) -> None:
    with pytest.raises(verification.VerificationError, match=said):
        verification.parse(output, log, "wms")


GAP = Gap("000000010000000000000004", "000000010000000000000004", 1, AT, AT)
CHAIN = WalChain(True, (), "0" * 24, AT, (1,))


def finding(
    files: Files | None = None, manifest: Manifest | None = None, chain: WalChain | None = CHAIN
) -> Finding:
    world = Chain()
    backup = world.take("full", MONDAY)
    return judge(
        backup,
        files or Files(backup.label, "valid", 10, 10),
        manifest or Manifest(SHA),
        chain,
    )


def test_a_whole_backup() -> None:
    found = finding()
    assert (found.state, found.until, found.troubles, found.warnings) == ("whole", AT, (), ())


@pytest.mark.parametrize(
    ("files", "manifest", "chain", "state", "said"),
    [
        (Files("x", "invalid", 10, 9, ("invalid size: a",)), None, CHAIN, "damaged", "invalid size: a"),
        (Files("x", "invalid", 0, 0), Manifest("", 0, "neither can be read"), CHAIN, "damaged", "neither"),
        (Files("x", "in-progress", 0, 0), None, CHAIN, "unknown", "still being made"),
        (None, Manifest("", 0, "neither can be read"), CHAIN, "damaged", "neither can be read"),
        (
            None,
            None,
            WalChain(False, (GAP,), "", None, (1,)),
            "damaged",
            "cannot be made consistent: WAL segment",
        ),
    ],
)
def test_what_makes_a_backup_bad(
    files: Files | None, manifest: Manifest | None, chain: WalChain, state: str, said: str
) -> None:
    found = finding(files, manifest, chain)
    assert found.state == state and len(found.troubles) == 1 and said in found.troubles[0]


def test_half_a_manifest_and_a_gap_behind_it_do_not_make_a_backup_bad() -> None:
    one = finding(None, Manifest(SHA, 0, "the copy of its manifest cannot be read; the manifest can"))
    assert one.state == "whole" and one.warnings == (
        "the copy of its manifest cannot be read; the manifest can",
    )
    gap = finding(chain=WalChain(True, (GAP,), "0" * 24, AT, (1,)))
    assert gap.state == "whole" and gap.gaps == (GAP,)
    left = finding(chain=WalChain(True, (), "0" * 24, AT, (1,), abandoned=True))
    assert left.state == "whole" and "timeline that was left" in left.notes[0]


def test_a_backup_that_pgbackrest_did_not_look_at_is_not_whole() -> None:
    backup = Chain().take("full", MONDAY)
    assert judge(backup, None, Manifest(SHA), CHAIN).state == "damaged"


def test_what_is_remembered_is_recalled() -> None:
    whole = recall({"verified": remember(finding(), AT)})
    assert whole is not None and (whole.whole, whole.at, whole.sha256) == (True, AT, SHA)
    assert verification.still_valid(whole, Manifest(SHA)) and not verification.still_valid(
        whole, Manifest("b" * 64)
    )
    bad = recall({"verified": remember(finding(Files("x", "invalid", 10, 9, ("a\nb" * 200,))), AT)})
    assert bad is not None and not bad.whole and "9" not in bad.sha256 and "\n" not in bad.detail


@pytest.mark.parametrize(
    "value", ["", "yes", "whole yesterday sha256:- x", f"whole 2026-11-24T13:40:02Z sha256:{'z' * 64} x"]
)
def test_other_words_are_no_proof(value: str) -> None:
    assert recall({"verified": value} if value else {}) is None


def test_what_is_not_known_is_not_remembered() -> None:
    with pytest.raises(ValueError, match="not known"):
        remember(finding(Files("x", "in-progress", 0, 0)), AT)
