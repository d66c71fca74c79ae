"""The archive's keeper: when a replica may read the archive, and what a new primary sends on."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from agent import archive
from agent.archive import LOOK_S, RETRY_S, ArchiveKeeper, ended, mark_ready

MIB = 1 << 20
HISTORY = "1\t0/5000028\tno recovery target specified\n2\t0/7800000\tno recovery target specified\n"


class Node:
    """A data folder with WAL, an archive told by files, and a keeper whose looks at the server are given."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.primary, self.streams = False, True
        self.wal = folder / "data" / "pg_wal"
        (self.wal / "archive_status").mkdir(parents=True)
        self.answers = folder / "answers"
        self.answers.mkdir()
        self.fallback = folder / "read-archive"
        program = folder / "pgbackrest"
        # The last word is the folder to list, or the option of `info`.
        program.write_text(f'#!/bin/sh\nfor word; do :; done\ncat "{self.answers}/$(basename -- "$word")"\n')
        program.chmod(0o755)
        self.keeper = ArchiveKeeper(
            lambda: self.primary, "", 0, str(folder / "data"), [str(program)], self.fallback, 30
        )
        monkeypatch.setattr(self.keeper, "_streams", lambda: self.streams)
        self.now = self.keeper._looked

    def turn(self, later_s: float = LOOK_S) -> bool:
        """Let time pass, look; whether the archive may be read."""
        self.now += later_s
        self.keeper.turn(self.now)
        return self.fallback.exists()

    def segments(self, *names: str) -> None:
        for name in names:
            with (self.wal / name).open("wb") as file:
                os.truncate(file.fileno(), 16 * MIB)
            (self.wal / "archive_status" / f"{name}.done").touch()

    def archived(self, *names: str) -> None:
        (self.answers / "--output=json").write_text(
            json.dumps([{"name": "wms", "archive": [{"id": "15-1"}]}])
        )
        listed = {f"{name}-af68a19c.zst": {"type": "file"} for name in names}
        (self.answers / "0000000100000000").write_text(json.dumps({".": {"type": "path"}, **listed}))

    def ready(self) -> list[str]:
        return sorted(path.name for path in (self.wal / "archive_status").glob("*.ready"))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def test_a_replica_may_read_the_archive_when_nothing_streamed_for_long_enough(node: Node) -> None:
    assert not node.turn()
    node.streams = False
    assert [node.turn(10) for _ in range(4)] == [False, False, True, True]
    node.streams = True
    assert not node.turn()
    node.streams = False
    assert not node.turn(29)


def test_a_failover_is_over_before_the_archive_is_asked(node: Node) -> None:
    node.streams = False
    assert not node.turn(20)
    node.primary = True
    assert not node.turn()
    node.primary = False
    assert not node.turn(29)


def test_a_primary_reads_no_archive(node: Node) -> None:
    node.fallback.touch()
    node.primary = True
    assert not node.turn()


def test_the_whole_segments_of_ended_timelines() -> None:
    names = [
        "000000010000000000000003",
        "000000010000000000000004",
        "000000010000000000000005",  # timeline 1 ended in it
        "000000020000000000000005",
        "000000020000000000000006",
        "000000020000000000000007",
        "000000030000000000000007",  # being written
        "00000003.history",
        "000000010000000000000005.partial",
        "archive_status",
    ]
    assert ended(names, HISTORY, 16 * MIB) == [names[0], names[1], names[3], names[4]]
    assert ended(names, "", 16 * MIB) == []
    # With segments of 64 MiB, 0/5000028 lies in the second one.
    assert ended(["000000010000000000000000", "000000010000000000000001"], HISTORY, 64 * MIB) == [
        "000000010000000000000000"
    ]


def test_a_timeline_that_ends_at_a_segments_border_has_that_segment_whole() -> None:
    assert ended(["000000010000000000000004"], "1\t0/5000000\tswitchover\n", 16 * MIB) == [
        "000000010000000000000004"
    ]
    assert ended(["000000010000000000000004"], "1\t0/4FFFFFF\tswitchover\n", 16 * MIB) == []


def test_a_new_primary_sends_what_the_last_one_had_not_archived(node: Node) -> None:
    (node.wal / "00000002.history").write_text("1\t0/5000028\tno recovery target specified\n")
    node.segments("000000010000000000000003", "000000010000000000000004", "000000020000000000000005")
    node.archived("000000010000000000000003")
    node.primary = True
    node.turn()
    assert node.ready() == ["000000010000000000000004.ready"]
    assert not (node.wal / "archive_status/000000010000000000000004.done").exists()
    assert (node.wal / "archive_status/000000010000000000000003.done").exists()


def test_it_asks_once_per_term_and_again_while_the_archive_is_silent(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    (node.wal / "00000002.history").write_text("1\t0/5000028\tx\n")
    node.segments("000000010000000000000004")
    node.primary = True
    node.turn()
    assert node.ready() == []
    node.archived()
    node.turn(RETRY_S - 1)
    assert node.ready() == []
    node.turn(1)
    assert node.ready() == ["000000010000000000000004.ready"]
    monkeypatch.setattr(archive, "ended", None)  # asked again, it would fail
    node.turn(10 * RETRY_S)


def test_a_partial_segment_in_the_archive_is_not_the_segment(node: Node) -> None:
    (node.wal / "00000002.history").write_text("1\t0/5000028\tx\n")
    node.segments("000000010000000000000004")
    node.archived("000000010000000000000004.partial")
    node.primary = True
    node.turn()
    assert node.ready() == ["000000010000000000000004.ready"]


def test_a_segment_without_any_mark_is_marked(tmp_path: Path) -> None:
    (tmp_path / "archive_status").mkdir()
    mark_ready(tmp_path, "000000010000000000000004")
    mark_ready(tmp_path, "000000010000000000000004")
    assert [path.name for path in (tmp_path / "archive_status").iterdir()] == [
        "000000010000000000000004.ready"
    ]
