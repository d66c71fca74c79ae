"""The evidence and its hash, and the reports made of it: whole by themselves, and safe whatever they quote."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmsctl.drill import evidence, plot, report
from wmsctl.drill.evidence import Context, Second
from wmsctl.drill.verdict import OBJECTIVES, Canary, Check, Mark, judge, recovered
from wmsctl.errors import Failed, Usage

FAULT = 1_795_000_000.0
NASTY = "<script>alert('x')</script> | `|` & \"quoted\"\nsecond line"


def context(**changes: Any) -> Context:
    values: dict[str, Any] = {
        "id": "20261124T140000Z-database",
        "platform": "wms",
        "environment": "local",
        "operator": "ana",
        "host": "desk",
        "command": "wmsctl drill run database",
        "fault": "the primary's node pg-1 was killed",
        "started": FAULT - 20,
        "injected": FAULT,
        "finished": FAULT + 40,
        "versions": {"PostgreSQL": "15.14", "wmsctl": "0.1.0"},
        "load": "200 writes/s",
    }
    return Context(**{**values, **changes})


def seconds() -> list[Second]:
    """A stall of four seconds with errors."""
    found = []
    for n in range(-15, 30):
        stalled = 0 <= n < 4
        found.append(
            Second(
                FAULT + n,
                40 if stalled else 210 + n % 7,
                40 if stalled else 0,
                None if stalled else 9.0 + n % 3,
            )
        )
    return found


def made(text: str = "", **changes: Any) -> dict[str, Any]:
    """A document; `text` stands wherever a text can."""
    written = [Canary(n, FAULT - 10 + n * 0.5) for n in range(20)]
    result = judge(
        OBJECTIVES["database"],
        injected=FAULT,
        marks=[Mark(text or "detect", FAULT + 0.4), Mark("promote", FAULT + 2.1), Mark("ready", FAULT + 4.2)],
        ready=FAULT + 4.2,
        until=FAULT + 40,
        canaries=recovered(written, range(19), FAULT),
        checks=[
            Check(text or "a write through every pooler", True, text),
            Check("ledger", None, "no answer"),
        ],
        notes=[text or "pg-2 was promoted"],
    )
    if text:
        changes |= {"operator": text, "fault": text, "load": text, "versions": {text: text}}
    return evidence.document(context(**changes), result, seconds())


def test_the_document_holds_all_that_the_verdict_rests_on() -> None:
    found = made()
    assert next(iter(found)) == "schema" and list(found)[-1] == "sha256"
    assert (found["row"], found["verdict"], found["operator"]) == ("R2", "INCONCLUSIVE", "ana")
    assert found["injected"] == "2026-11-18T11:06:40.000Z"
    assert [o["name"] for o in found["objectives"]] == ["RTO", "RPO"]
    assert found["phases"][1] == {"name": "promote", "begin_s": 0.4, "seconds": 1.7}
    assert found["canaries"]["lost"] == [19] and found["seconds"][0]["s"] == -15
    assert json.loads(json.dumps(found)) == found


def test_a_report_that_was_written_is_read_and_a_changed_one_is_not() -> None:
    found = made()
    text = json.dumps(found, indent=2)
    assert evidence.read(text, "x.json") == found
    assert evidence.read(json.dumps(dict(reversed(list(found.items())))), "x.json") == found
    with pytest.raises(Failed, match="changed after it was written"):
        evidence.read(text.replace("INCONCLUSIVE", "PASS"), "x.json")
    for other in ("", "[]", '{"schema": "else/v1"}'):
        with pytest.raises(Usage):
            evidence.read(other, "x.json")


@settings(deadline=None)
@given(st.data())
def test_any_change_of_any_value_is_seen(data: st.DataObject) -> None:
    found = made()
    path: list[Any] = []
    spot: Any = found
    while isinstance(spot, dict | list) and spot:
        key = data.draw(st.sampled_from(sorted(spot) if isinstance(spot, dict) else list(range(len(spot)))))
        path.append(key)
        spot = spot[key]
    changed = json.loads(json.dumps(found))
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = "something else"
    with pytest.raises((Failed, Usage)):
        evidence.read(json.dumps(changed), "x.json")


class Tags(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_stands_alone() -> None:
    found = made()
    page = report.html(found)
    tags = Tags(page)
    assert "script" not in tags.tags and "link" not in tags.tags and "img" not in tags.tags
    assert not [value for name, value in tags.attributes if name in ("src", "href")]
    assert not re.findall(r"url\(|@import", page)
    for said in (
        "INCONCLUSIVE",
        "RTO",
        "15 min",
        "4.20 s",
        "R2",
        "pg-2 was promoted",
        "ana",
        found["sha256"],
    ):
        assert said in page, said
    assert "the drill proves nothing" in page


def test_whatever_is_quoted_stays_text() -> None:
    found = made(NASTY)
    page = Tags(report.html(found))
    assert "script" not in page.tags and any("alert('x')" in text for text in page.text)
    text = report.markdown(found)
    assert "<script>" not in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    for row in rows:
        assert len(re.findall(r"(?<!\\)\|", row)) in (3, 4, 6), row


def test_markdown_says_the_same() -> None:
    text = report.markdown(made())
    assert text.startswith("# Database drill: INCONCLUSIVE\n")
    assert "| RTO | 15 min | 4.20 s | PASS |" in text
    assert "1 of 20 acknowledged before the fault are lost (the first is 19)" in text
    assert "| ledger | INCONCLUSIVE | no answer |" in text


def test_the_plot_is_well_formed_and_holds_each_second_and_each_phase() -> None:
    root = ElementTree.fromstring(plot.timeline(made()))
    space = "{http://www.w3.org/2000/svg}"
    texts = ["".join(each.itertext()) for each in root.iter(f"{space}text")]
    assert {"fault", "detect 0.4 s", "promote 1.7 s", "ready 2.1 s", "requests/s"} <= set(texts)
    reds = [e for e in root.iter(f"{space}rect") if e.get("fill") == plot.BAD]
    assert len(reds) == 4
    # The line of the latency breaks where nothing was answered.
    assert len(list(root.iter(f"{space}polyline"))) == 2
    _, _, width, height = map(float, root.attrib["viewBox"].split())
    for each in root.iter(f"{space}rect"):
        assert float(each.get("x", 0)) >= 0 and float(each.get("y", 0)) >= 0
        assert float(each.get("x", 0)) + float(each.attrib["width"]) <= width + 0.1
        assert float(each.get("y", 0)) + float(each.attrib["height"]) <= height + 0.1


def test_a_plot_quotes_nothing_unescaped_and_without_a_load_there_is_none() -> None:
    ElementTree.fromstring(plot.timeline(made(NASTY)))
    bare = {**made(), "seconds": []}
    assert "nothing to plot" in plot.timeline(bare) and "nothing to plot" in report.html(bare)


@settings(deadline=None)
@given(st.floats(0, 1e9), st.integers(1, 12))
def test_axes_have_round_values_that_reach_the_limit(limit: float, count: int) -> None:
    ticks = plot.nice(limit, count)
    assert ticks[0] == 0 and ticks[-1] >= limit * 0.998 and 2 <= len(ticks) <= count + 2
    step = ticks[1]
    assert f"{step:.0e}"[0] in "125"


def test_what_nobody_measured_is_not_drawn_as_a_number() -> None:
    assert (
        report.measured(None) == "-" and report.measured(0.5) == "0.50 s" and report.measured(600) == "10 min"
    )
    nothing = {"before": 0, "lost": [], "unknown": 0, "window_s": None, "resolution_s": None}
    assert "nothing can be said" in report.canaries(nothing)
    assert "3 more nobody was told" in report.canaries({**nothing, "before": 9, "unknown": 3})
