"""The commands of wmsctl, as its own definition has them."""

from __future__ import annotations

from collections.abc import Mapping

import typer

from wmsctl import main


def command_lines() -> dict[tuple[str, ...], bool]:
    """Every command line of wmsctl without its options; True for a group."""
    found: dict[tuple[str, ...], bool] = {}

    def walk(line: tuple[str, ...], command: object) -> None:
        below: Mapping[str, object] = getattr(command, "commands", {})
        found[line] = bool(below)
        for name, sub in below.items():
            walk((*line, name), sub)

    for name, (module, _) in main.COMMANDS.items():
        walk((name,), typer.main.get_command(__import__(module, fromlist=["app"]).app))
    return found
