"""Contexts: which platform a command speaks to.

The configuration folder ($WMSCTL_CONFIG, else $XDG_CONFIG_HOME/wmsctl, else ~/.config/wmsctl) holds `current`
(a name) and `contexts/<name>.json` (an inventory) or `contexts/<name>.link` (the path of one, read anew each
time).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wmsctl.errors import Failed, Refused, Usage

if TYPE_CHECKING:
    from wmsctl.inventory import Inventory

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
IMPORT_HINT = (
    "import one with: wmsctl context import INVENTORY.json (a local platform writes it as inventory.json)"
)


def config_directory() -> Path:
    """The folder of the contexts."""
    if explicit := os.environ.get("WMSCTL_CONFIG"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "wmsctl"


def state_directory(context: str) -> Path:
    """The folder of one context's journal and audit log: $WMSCTL_STATE/<context>, else under
    $XDG_STATE_HOME/wmsctl.
    """
    if explicit := os.environ.get("WMSCTL_STATE"):
        return Path(explicit) / context
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "wmsctl" / context


@dataclass(frozen=True)
class Context:
    """A stored context. `source` is where its inventory is read from."""

    name: str
    source: Path
    linked: bool
    current: bool


class Contexts:
    """The stored contexts of this user."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = config_directory() if directory is None else directory
        self.folder = self.directory / "contexts"

    def names(self) -> list[str]:
        """All names, sorted. A missing folder means none."""
        if not self.folder.is_dir():
            return []
        return sorted(
            p.stem for p in self.folder.iterdir() if p.suffix in (".json", ".link") and NAME.match(p.stem)
        )

    def current(self) -> str:
        """The chosen name, empty when none is."""
        try:
            return (self.directory / "current").read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise Failed(f"cannot read {self.directory / 'current'}: {error.strerror}") from error

    def all(self) -> list[Context]:
        return [self.get(name) for name in self.names()]

    def get(self, name: str) -> Context:
        """The context called `name`. Raises Usage listing those that exist."""
        link, copy = self.folder / f"{name}.link", self.folder / f"{name}.json"
        if NAME.match(name):
            if link.exists():
                return Context(name, Path(link.read_text().strip()), True, name == self.current())
            if copy.exists():
                return Context(name, copy, False, name == self.current())
        raise Usage(f"no context {name!r}; {self._existing()}", hint=IMPORT_HINT)

    def choose(self, explicit: str = "") -> Context:
        """The context of this run: --context, else $WMSCTL_CONTEXT, else the current one.

        Raises Usage when none is chosen or the chosen one does not exist. Nothing is guessed, even if only
        one exists.
        """
        name = explicit or os.environ.get("WMSCTL_CONTEXT", "") or self.current()
        if not name:
            hint = "choose one: wmsctl context use NAME" if self.names() else IMPORT_HINT
            raise Usage(f"no context is chosen; {self._existing()}", hint=hint)
        return self.get(name)

    def use(self, name: str) -> Context:
        """Make `name` the current context. Raises Usage when it does not exist."""
        context = self.get(name)
        _write(self.directory / "current", name + "\n")
        return Context(name, context.source, context.linked, True)

    def remove(self, name: str) -> Context:
        """Forget a context; the inventory that a link leads to stays. Raises Usage when it does not exist."""
        context = self.get(name)
        try:
            for suffix in ("link", "json"):
                (self.folder / f"{name}.{suffix}").unlink(missing_ok=True)
            if context.current:
                (self.directory / "current").unlink(missing_ok=True)
        except OSError as error:
            raise Failed(f"cannot remove {error.filename}: {error.strerror}") from error
        return context

    def load(self, context: Context) -> Inventory:
        """The inventory of a context. Raises InventoryError (a Usage) when it is missing or malformed."""
        from wmsctl import inventory

        return inventory.load(context.source)

    def store(
        self, text: bytes, source: str, *, name: str = "", link: Path | None = None, replace: bool = False
    ) -> Context:
        """Validate the inventory `text` (called `source` in errors) and store it, as a copy or as a link to
        `link`.

        `name` defaults to the inventory's environment. The first context stored becomes the current one.
        Raises InventoryError when it is malformed, Usage for a bad name, Refused when the name already means
        another platform (unless `replace`).
        """
        from wmsctl import inventory

        document = inventory.decode(text, source)
        name = name or document.environment
        if not NAME.match(name):
            raise Usage(
                f"{name!r} is no name for a context",
                hint="letters, digits, dot, dash and underscore, at most 63",
            )
        if name in self.names() and not replace:
            self._refuse_another(name, document)
        try:
            self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise Failed(f"cannot make {self.folder}: {error.strerror}", hint="set WMSCTL_CONFIG") from error
        copy, reference = self.folder / f"{name}.json", self.folder / f"{name}.link"
        if link is not None:
            _write(reference, f"{link.resolve()}\n")
            copy.unlink(missing_ok=True)
        else:
            _write(copy, inventory.encode(document) + "\n")
            reference.unlink(missing_ok=True)
        if not self.current():
            self.use(name)
        return self.get(name)

    def _refuse_another(self, name: str, document: Inventory) -> None:
        from wmsctl import inventory

        try:
            existing = self.load(self.get(name))
        except inventory.InventoryError:
            return  # what cannot be read is not worth protecting
        if (existing.platform, existing.environment) != (document.platform, document.environment):
            raise Refused(
                f"the context {name!r} means the platform {existing.platform}/{existing.environment},"
                f" not {document.platform}/{document.environment}",
                hint="give another --name, or --yes to replace it",
            )

    def _existing(self) -> str:
        names = self.names()
        return f"there are: {', '.join(names)}" if names else f"there is none in {self.folder}"


def complete(incomplete: str) -> list[str]:
    """Shell completion of context names. Never fails: a broken configuration completes to nothing."""
    try:
        return [name for name in Contexts().names() if name.startswith(incomplete)]
    except Exception:
        return []


def complete_node(incomplete: str) -> list[str]:
    """Shell completion of node names in the chosen context."""
    try:
        contexts = Contexts()
        return [n.name for n in contexts.load(contexts.choose()).nodes if n.name.startswith(incomplete)]
    except Exception:
        return []


def _write(path: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner only. Raises Failed."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise Failed(
            f"cannot write {path}: {error.strerror}", hint="free space or set WMSCTL_CONFIG"
        ) from error
