"""The one place that prints: results on stdout as a table, JSON or YAML; progress and messages on stderr.

A result is a document: plain data with `"schema": "wmsctl.<thing>/v1"`, described in docs/wmsctl-json.md, and
a view that draws the same data for a person. Table output may change at any time; a schema only with its
version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TextIO

from wmsctl.errors import Refused

WIDTH = 100
"""Columns that tables are laid out for."""

ANSI = {"good": "32", "warn": "33", "bad": "31;1", "dim": "2", "bold": "1"}


class Format(StrEnum):
    table = "table"
    json = "json"
    yaml = "yaml"


@dataclass(frozen=True, slots=True)
class Styled:
    """Text of a table cell with one of the styles good, warn, bad, dim, bold."""

    text: str
    style: str


Cell = str | int | float | bool | None | Styled


class Printer:
    """Writes results and messages in the way that the global options ask for."""

    def __init__(
        self,
        form: Format = Format.table,
        *,
        color: bool | None = None,
        quiet: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
    ) -> None:
        self.form = form
        self.quiet = quiet
        self._color = color
        self._stdout, self._stderr = stdout, stderr

    # Looked up at each use, so that a test or a pager that replaces sys.stdout is honoured.
    @property
    def stdout(self) -> TextIO:
        return self._stdout or sys.stdout

    @property
    def stderr(self) -> TextIO:
        return self._stderr or sys.stderr

    def document(
        self,
        thing: str,
        data: Any,
        view: Callable[[Printer], None] | None = None,
        *,
        version: int = 1,
        stream: bool = False,
    ) -> None:
        """Print one result.

        `data` is a msgspec struct, a dataclass or a mapping (its fields stand beside `schema`), or a sequence
        (it becomes `items`). `view` draws it for people; without one a table run prints a plain listing. With
        `stream` a JSON document takes exactly one line (for --watch).
        """
        if self.form is Format.table:
            if view is not None:
                view(self)
            else:
                self._listing(document(thing, data, version))
            self.stdout.flush()
            return
        whole = document(thing, data, version)
        if self.form is Format.json:
            import json

            text = json.dumps(whole, separators=(",", ":")) if stream else json.dumps(whole, indent=2)
        else:
            import yaml

            text = yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, explicit_start=stream).rstrip(
                "\n"
            )
        self.stdout.write(text + "\n")
        self.stdout.flush()

    def text(self, line: str = "", style: str = "") -> None:
        """A line of a view, on stdout."""
        self.stdout.write(self.styled(line, style, self.stdout) + "\n")

    def table(
        self, columns: Sequence[str], rows: Iterable[Sequence[Cell]], *, title: str = "", indent: int = 0
    ) -> None:
        """A table of a view: columns as wide as their content, numbers to the right, None as "-"."""
        body = [[self._cell(cell) for cell in row] for row in rows]
        right = [bool(body) and all(row[i][2] for row in body) for i in range(len(columns))]
        widths = [max([len(name), *(len(row[i][0]) for row in body)]) for i, name in enumerate(columns)]
        margin = " " * indent
        if title:
            self.text(margin + title, "bold")
        heads = [
            name.rjust(w) if r else name.ljust(w) for name, w, r in zip(columns, widths, right, strict=True)
        ]
        self.text(margin + "  ".join(heads).rstrip(), "dim")
        for row in body:
            parts = []
            for (text, style, _), width, to_right in zip(row, widths, right, strict=True):
                padding = " " * (width - len(text))
                shown = self.styled(text, style, self.stdout)
                parts.append(padding + shown if to_right else shown + padding)
            self.stdout.write((margin + "  ".join(parts)).rstrip() + "\n")

    def progress(self, message: str) -> None:
        """What is being done now, on stderr; silent with --quiet."""
        if not self.quiet:
            self._say(message)

    def warn(self, message: str) -> None:
        """Something the operator should know, on stderr, also with --quiet."""
        self._say(f"warning: {message}", "warn")

    def error(self, message: str, hint: str = "", *, code: int = 1) -> None:
        """An error on stderr: text for people, one JSON line (schema wmsctl.error/v1) with -o json."""
        if self.form is Format.json:
            import json

            whole = {"schema": "wmsctl.error/v1", "error": message, "hint": hint, "exit_code": code}
            self._say(json.dumps(whole))
            return
        self._say(f"error: {message}", "bad")
        if hint:
            self._say(f"  next: {hint}")

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before a destructive step; returns when the answer is yes.

        `yes` is the command's --yes. Raises Refused when the answer is no, or when there is nobody to ask.
        """
        if yes:
            return
        if not sys.stdin.isatty():
            raise Refused(
                f"not confirmed: {question}", hint="add --yes to answer beforehand, or --dry-run to look only"
            )
        self.stderr.write(f"{question} [y/N] ")
        self.stderr.flush()
        if sys.stdin.readline().strip().lower() not in ("y", "yes"):
            raise Refused("not confirmed; nothing was changed")

    def clear(self) -> None:
        """Begin a new screen in a view that repeats; nothing when stdout is not a terminal."""
        if self.stdout.isatty():
            self.stdout.write("\x1b[H\x1b[2J")

    def styled(self, text: str, style: str, stream: TextIO) -> str:
        """`text` in its colour, if this stream gets colour at all."""
        if not style or not self._colored(stream):
            return text
        return f"\x1b[{ANSI[style]}m{text}\x1b[0m"

    def _colored(self, stream: TextIO) -> bool:
        if self._color is not None:
            return self._color and stream.isatty()
        return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"

    def _say(self, message: str, style: str = "") -> None:
        self.stderr.write(self.styled(message, style, self.stderr) + "\n")
        self.stderr.flush()

    def _listing(self, whole: Mapping[str, Any]) -> None:
        items = whole.get("items")
        if isinstance(items, list):
            columns = list(items[0]) if items else []
            if columns:
                self.table(
                    [name.upper() for name in columns],
                    [[_flat(item[name]) for name in columns] for item in items],
                )
            return
        for name, value in whole.items():
            if name != "schema":
                self.text(f"{name}: {_flat(value)}")

    @staticmethod
    def _cell(cell: Cell) -> tuple[str, str, bool]:
        """(text, style, is a number)"""
        style = ""
        if isinstance(cell, Styled):
            style, number = cell.style, cell.text.replace(".", "", 1).isdigit()
            return cell.text, style, number or cell.text == "-"
        if cell is None:
            return "-", "dim", True
        if isinstance(cell, bool):
            return ("yes" if cell else "no"), style, False
        if isinstance(cell, int | float):
            return (f"{cell:.1f}" if isinstance(cell, float) else str(cell)), style, True
        return cell, style, False


def document(thing: str, data: Any, version: int = 1) -> dict[str, Any]:
    """The data as JSON-able builtins under its schema name: {"schema": "wmsctl.<thing>/v<version>", …}."""
    import msgspec

    plain = msgspec.to_builtins(data)
    head = {"schema": f"wmsctl.{thing}/v{version}"}
    return {**head, **plain} if isinstance(plain, dict) else {**head, "items": plain}


def size(number: int | None) -> str:
    """Bytes for people: 0 B, 512 kB, 1.5 MB (powers of 1024, as PostgreSQL prints them)."""
    if number is None:
        return "-"
    amount, units = float(number), ["B", "kB", "MB", "GB", "TB"]
    while amount >= 1024 and len(units) > 1:
        amount /= 1024
        units.pop(0)
    return (
        f"{amount:.0f} {units[0]}" if units[0] in ("B", "kB") or amount >= 100 else f"{amount:.1f} {units[0]}"
    )


def duration(seconds: float) -> str:
    """Seconds for people: 42 s, 7 min, 3 h 5 min."""
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


def _flat(value: Any) -> Cell:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value)
    if isinstance(value, dict):
        return ", ".join(f"{name}={item}" for name, item in value.items())
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)
