"""The documents say what is there: links, make targets, commands, decisions and requirements that they name exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import import_module
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import typer.main

from wmsctl import main

ROOT = Path(__file__).resolve().parents[2]
DECISIONS = ROOT / "docs" / "adr"

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```\w*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
REQUIREMENT = re.compile(r"\b[CODHKAFTMRQG]\d\b")
"""The form of a requirement's id, as in "row R2"."""


@cache
def documents() -> tuple[Path, ...]:
    """Every Markdown file that is committed or about to be."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    return tuple(ROOT / line for line in sorted(set(listed.stdout.splitlines())))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


EVERY = pytest.mark.parametrize("path", documents(), ids=name)


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings make, as GitHub forms them."""
    return {
        re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower()).replace(" ", "-")
        for heading in HEADING.findall(FENCE.sub("", text))
    }


def typed(text: str) -> list[str]:
    """The commands to type: the `$ ` lines of a page's blocks."""
    return [line[2:] for block in FENCE.findall(text) for line in block.splitlines() if line.startswith("$ ")]


def mentioned(text: str) -> list[str]:
    """What stands between backticks in its sentences."""
    return SPAN.findall(FENCE.sub("", text))


def named(commands: Iterable[str], program: str) -> list[str]:
    """The commands of `program` among them, each from its name up to a pipe or the end."""
    found = []
    for command in commands:
        for part in re.split(r"\s*(?:\||&&|;)\s*(?=[a-z])", command):
            if part.startswith(f"{program} "):
                found.append(part)
    return found


# Links


@EVERY
def test_links_lead_somewhere(path: Path) -> None:
    broken = []
    for target in LINK.findall(FENCE.sub("", path.read_text())):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        page = (path.parent / file).resolve() if file else path
        if not page.exists() or (anchor and anchor not in anchors(page.read_text())):
            broken.append(target)
    assert not broken


@EVERY
def test_nothing_of_one_machine_is_named(path: Path) -> None:
    text = path.read_text()
    private = [
        rf"(?<![\w.]){re.escape(str(ROOT))}(?!\w)",
        r"(?<![\w./~])/work/",
        r"(?<![\w./])/root/",
        r"\b(?:proxy\.golang\.org|pypi\.org|files\.pythonhosted\.org|deb\.debian\.org|registry\.npmjs\.org)\b",
    ]
    assert not [found for pattern in private for found in re.findall(pattern, text)]


# Commands


@EVERY
def test_named_make_targets_exist(path: Path) -> None:
    targets = {
        target
        for line in re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        for target in line.split()
    }
    wrong = []
    text = path.read_text()
    for command in named([*typed(text), *mentioned(text)], "make"):
        words = [word for word in shlex.split(command)[1:] if not word.startswith("-") and "=" not in word]
        wrong += [command] if not words or words[0] not in targets else []
    assert not wrong


OPEN = re.compile(r"…|\.\.\.|\[:")
"""What marks a command as a pattern, not one to type."""


def alternatives(command: str) -> Iterator[str]:
    """`node kill|thaw` as two commands."""
    words = command.split(" ")
    for place, word in enumerate(words):
        if re.fullmatch(r"[a-z-]+(?:\|[a-z-]+)+", word):
            for choice in word.split("|"):
                yield from alternatives(" ".join([*words[:place], choice, *words[place + 1 :]]))
            return
    yield command


def sample(word: str) -> str:
    """A value for a placeholder: NODE, SECONDS, FILE …"""
    return {"SECONDS": "2", "N": "2"}.get(word, word)


AT_ONCE = ("--install-completion", "--show-completion", "--version")
"""Options that act while they are parsed (the first changes the user's shell): looked up here, never parsed."""


def complaint(command: str, *, mentioned: bool = False) -> str:
    """Why the command line would be refused before it does anything; empty when it would not.

    Walks the same tree that wmsctl runs, and lets each command parse its own arguments and options. One that is only
    `mentioned` in a sentence need not name its arguments.
    """
    words = [sample(word) for word in shlex.split(command)[1:]]
    words = list(takewhile(lambda word: word not in (">", "2>", "<"), words))
    words = main.hoist(words)
    if (option := next((word for word in words if word in AT_ONCE), "")) and len(words) == 1:
        known = {each for param in typer.main.get_command(main.app).params for each in param.opts}
        return "" if option in known else f"no option {option}"
    root: Any = typer.main.get_command(main.app)
    try:
        context = root.make_context("wmsctl", words)
        rest = remaining(context)
        if not rest:
            return ""
        if rest[0] not in main.COMMANDS:
            return f"no command {rest[0]!r}"
        current: Any = typer.main.get_command(import_module(main.COMMANDS[rest[0]][0]).app)
        while True:
            context = current.make_context(rest[0], rest[1:], parent=context)
            following = remaining(context)
            if not hasattr(current, "commands") or not following:
                return ""
            if following[0] not in current.commands:
                return f"no command {following[0]!r}"
            current, rest = current.commands[following[0]], following
    except Exception as error:
        if type(error).__name__ in ("Exit", "NoArgsIsHelpError"):  # help is an answer, too
            return ""
        said = getattr(error, "format_message", None)
        if said is None:  # nothing of the option parser's: the walk itself is broken
            raise
        if mentioned and type(error).__name__ == "MissingParameter":
            return ""
        return str(said())


def remaining(context: Any) -> list[str]:
    """What a parsed group has left for its sub-command."""
    return [*getattr(context, "_protected_args", ()), *context.args]


@EVERY
def test_named_commands_of_wmsctl_parse(path: Path) -> None:
    text = path.read_text()
    wrong = {
        line: problem
        for commands, loosely in ((typed(text), False), (mentioned(text), True))
        for command in named(commands, "wmsctl")
        if not OPEN.search(command)
        for line in alternatives(command)
        if (problem := complaint(line, mentioned=loosely))
    }
    assert not wrong


def test_an_option_that_acts_at_once_is_looked_up_and_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert not complaint("wmsctl --install-completion")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        "wmsctl nonsense",
        "wmsctl node explode pg-1",
        "wmsctl status --nonsense",
        "wmsctl failover rejoin",
        "wmsctl failover switchover --deadline soon",
        "wmsctl -o xml status",
    ],
)
def test_a_wrong_command_is_found(command: str) -> None:
    assert complaint(command)


@pytest.mark.parametrize(
    "command",
    [
        "wmsctl status --watch 2",
        "wmsctl node kill pg-1 --yes -o json",
        "wmsctl -c staging replicas",
        "wmsctl --help",
    ],
)
def test_a_right_command_passes(command: str) -> None:
    assert not complaint(command)


def leaves() -> Iterator[str]:
    """Every command of wmsctl that does something."""
    for top, (module, _) in main.COMMANDS.items():
        command: Any = typer.main.get_command(import_module(module).app)
        below = getattr(command, "commands", {})
        if not below or command.invoke_without_command:
            yield f"wmsctl {top}"
        yield from (f"wmsctl {top} {sub}" for sub in below)


def test_readme_names_every_command() -> None:
    text = (ROOT / "README.md").read_text()
    said = "\n".join(
        line
        for command in named([*typed(text), *mentioned(text)], "wmsctl")
        for line in alternatives(command)
    )
    assert not [leaf for leaf in leaves() if leaf not in said]


# Output for programs


def test_every_document_of_wmsctl_is_described() -> None:
    """Names given to Printer.document and to the helpers that pass them on."""
    calls = re.compile(r"(?:\.document|_print)\(\s*(?:invocation,\s*)?\"([a-z.]+)\"")
    found = {
        thing for file in (ROOT / "wmsctl").rglob("*.py") for thing in calls.findall(file.read_text())
    } | {"error"}
    text = (ROOT / "docs" / "wmsctl-json.md").read_text()
    assert {"status", "failover.switchover", "ledger"} <= found
    assert not [thing for thing in sorted(found) if f"wmsctl.{thing}/v1" not in text]


# Decisions


def decisions() -> list[Path]:
    return sorted(DECISIONS.glob("[0-9]*.md"))


@pytest.mark.parametrize("path", decisions(), ids=lambda path: path.stem)
def test_a_decision_is_whole_and_listed(path: Path) -> None:
    text = path.read_text()
    sections = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert {"Status", "Context", "Decision", "Consequences"} <= set(sections)
    assert re.match(rf"# {path.name[:4]}: \S", text)
    assert f"]({path.name})" in (DECISIONS / "README.md").read_text()


def test_decisions_are_numbered_once() -> None:
    numbers = [path.name[:4] for path in decisions()]
    assert numbers == sorted(set(numbers)) and numbers


def test_decisions_that_the_code_names_exist() -> None:
    listed = {path.name[:4] for path in decisions()}
    for folder in ("agent", "stacks", "wms", "wmsctl", "toolchain"):
        for file in (ROOT / folder).rglob("*.py"):
            assert set(re.findall(r"docs/adr/(\d{4})", file.read_text())) <= listed, name(file)


# Requirements


def requirements() -> set[str]:
    """The ids that docs/requirements.md has a row for."""
    return set(re.findall(r"^\| ([A-Z]\d) \|", (ROOT / "docs" / "requirements.md").read_text(), re.MULTILINE))


@EVERY
def test_named_requirements_exist(path: Path) -> None:
    text = re.sub(LINK, "", FENCE.sub("", path.read_text()))
    assert set(REQUIREMENT.findall(text)) <= requirements()


# The changelog


def test_the_changelog_has_a_place_for_what_comes() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    found = re.search(r"^## \[Unreleased\]\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert found and re.search(r"^- \S", found.group(1), re.MULTILINE)
