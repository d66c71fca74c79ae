"""A drill's evidence for people: one HTML file that needs nothing else, and the same in Markdown. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from wmsctl.drill import plot
from wmsctl.drill.evidence import HASH
from wmsctl.output import duration

if TYPE_CHECKING:
    from jinja2 import Template

WORDS = {
    "PASS": "met its objectives",
    "FAIL": "missed an objective",
    "INCONCLUSIVE": "proves nothing: something could not be measured",
}

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Drill {{ d.id }}: {{ d.scenario }} {{ d.verdict }}</title>
<style>
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #1b1f24; background: #fff; max-width: 62rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
.verdict { display: inline-block; padding: .15rem .7rem; border-radius: .3rem; color: #fff; font-weight: 700; }
.PASS { background: #2e7d32; } .FAIL { background: #c62828; } .INCONCLUSIVE { background: #8a5a00; }
.faint { color: #6b747d; } .lead { margin: .4rem 0 1rem; }
table { border-collapse: collapse; min-width: 50%; } th, td { text-align: left; padding: .3rem .8rem .3rem 0;
  border-bottom: 1px solid #0000001a; vertical-align: top; } th { font-weight: 600; }
.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
code { font-size: .85em; overflow-wrap: anywhere; }
@media print { body { margin: 0; } }
</style>
<h1>{{ d.scenario | capitalize }} drill <span class="verdict {{ d.verdict }}">{{ d.verdict }}</span></h1>
<p class="lead">{{ d.platform }}/{{ d.environment }}, {{ d.injected }}, row {{ d.row }}: the drill {{ words }}.<br>
{{ d.fault }}</p>
<h2>Objectives</h2>
<table><tr><th>objective<th class="n">promised<th class="n">measured<th>verdict<th>why</tr>
{% for o in d.objectives -%}
<tr><td>{{ o.name }}<td class="n">{{ o.objective_s | duration }}<td class="n">{{ o.measured_s | measured }}
<td><span class="verdict {{ o.verdict }}">{{ o.verdict }}</span><td>{{ o.reason }}</tr>
{% endfor %}</table>
<h2>Timeline</h2>
{{ timeline }}
{% if d.phases %}<h2>Phases</h2>
<table><tr><th>phase<th class="n">begins after the fault<th class="n">takes</tr>
{% for p in d.phases %}<tr><td>{{ p.name }}<td class="n">{{ "%.2f" | format(p.begin_s) }} s<td class="n">{{
 "%.2f" | format(p.seconds) }} s</tr>
{% endfor %}</table>{% endif %}
<h2>Canaries</h2>
<p>{{ canaries }}</p>
{% if d.checks %}<h2>Checks</h2>
<table><tr><th>check<th>result<th>detail</tr>
{% for c in d.checks %}<tr><td>{{ c.name }}
<td><span class="verdict {{ c.ok | checked }}">{{ c.ok | checked }}</span><td>{{ c.detail }}</tr>
{% endfor %}</table>{% endif %}
{% if d.notes %}<h2>Notes</h2><ul>{% for note in d.notes %}<li>{{ note }}{% endfor %}</ul>{% endif %}
<h2>Evidence</h2>
<table>
{% for name, value in facts %}<tr><th>{{ name }}<td>{{ value }}</tr>
{% endfor %}</table>
<p class="faint">SHA-256 over the JSON document of this drill without this line: <code>{{ d.sha256 }}</code></p>
</html>
"""


def html(document: Mapping[str, Any]) -> str:
    """One page with everything inside; every value is escaped."""
    from markupsafe import Markup

    return _template().render(
        d=document,
        words=WORDS[document["verdict"]],
        # Of our own making, and it escapes what it takes from the document.
        timeline=Markup(plot.timeline(document)),
        canaries=canaries(document["canaries"]),
        facts=facts(document),
    )


def markdown(document: Mapping[str, Any]) -> str:
    """The same without the plot."""
    d = document
    lines = [
        f"# {d['scenario'].capitalize()} drill: {d['verdict']}",
        "",
        f"{d['platform']}/{d['environment']}, {d['injected']}, row {d['row']}: the drill {WORDS[d['verdict']]}.",
        _cell(d["fault"]),
        "",
        "## Objectives",
        "",
        *_table(
            ["objective", "promised", "measured", "verdict", "why"],
            [
                [o["name"], duration(o["objective_s"]), measured(o["measured_s"]), o["verdict"], o["reason"]]
                for o in d["objectives"]
            ],
        ),
    ]
    if d["phases"]:
        rows = [[p["name"], f"{p['begin_s']:.2f} s", f"{p['seconds']:.2f} s"] for p in d["phases"]]
        lines += ["", "## Phases", "", *_table(["phase", "begins after the fault", "takes"], rows)]
    lines += ["", "## Canaries", "", canaries(d["canaries"])]
    if d["checks"]:
        rows = [[c["name"], checked(c["ok"]), c["detail"]] for c in d["checks"]]
        lines += ["", "## Checks", "", *_table(["check", "result", "detail"], rows)]
    if d["notes"]:
        lines += ["", "## Notes", "", *(f"- {_cell(note)}" for note in d["notes"])]
    lines += ["", "## Evidence", "", *_table(["what", "value"], [[name, value] for name, value in facts(d)])]
    lines += ["", f"SHA-256 over the JSON document of this drill without this line: `{d[HASH]}`", ""]
    return "\n".join(lines)


def facts(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Who, where, when, with what."""
    named = (
        "id",
        "operator",
        "host",
        "command",
        "backup",
        "load",
        "started",
        "injected",
        "finished",
        "aborted",
    )
    found = [(name, str(document[name])) for name in named if document[name]]
    return found + [(f"version of {name}", str(value)) for name, value in document["versions"].items()]


def canaries(found: Mapping[str, Any]) -> str:
    """What became of them, in a sentence or two."""
    if not found["before"]:
        return "No canary was acknowledged before the fault, so nothing can be said of what was lost."
    lost, before = list(found["lost"]), found["before"]
    text = f"{len(lost)} of {before} acknowledged before the fault are lost"
    if lost:
        text += f" (the first is {lost[0]})"
    if found["resolution_s"] is not None:
        text += f"; they were at most {found['resolution_s']:.2f} s apart"
    if found["unknown"]:
        text += f". Of {found['unknown']} more nobody was told what became of them; they count neither way"
    return text + "."


def measured(seconds: float | None) -> str:
    """A measured duration with two digits behind the point while they tell anything."""
    if seconds is None:
        return "-"
    return f"{seconds:.2f} s" if seconds < 120 else duration(seconds)


def checked(ok: bool | None) -> str:
    return "INCONCLUSIVE" if ok is None else "PASS" if ok else "FAIL"


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters |= {"duration": duration, "measured": measured, "checked": checked}
    return environment.from_string(PAGE)


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return head + ["| " + " | ".join(_cell(str(value)) for value in row) + " |" for row in rows]


def _cell(text: str) -> str:
    """Text that cannot end a cell, a line, or begin a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
