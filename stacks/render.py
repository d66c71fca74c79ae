"""Spec + node → configuration text. The same text for every target: paths, addresses and sizes enter as data.

A template never holds a password. `{{ secret("postgres/pooler") }}` leaves a marker in the text, and the target puts
the value in at the last moment: the local stack as a Pulumi secret, Kubernetes from a Secret.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import jinja2

TEMPLATES = Path(__file__).parent / "templates"

_NAME = "[a-z0-9_/]+"
_MARKER = re.compile(rf"\$\{{(secret|secret-sha256):({_NAME})\}}")


@dataclass(frozen=True)
class Site:
    """Where things are on the target a configuration is rendered for."""

    home: str
    """Folder of the stack."""
    python: str
    """Interpreter with the locked dependencies."""
    service: str
    """Folder that holds the package `wms` (PYTHONPATH)."""
    agent: str
    """Folder that holds the package `agent` (PYTHONPATH); apart, so that a new service restarts no database."""
    ca: str
    """CA bundle, PEM."""
    clients: tuple[str, ...] = ("127.0.0.0/8",)
    """Networks that PostgreSQL's clients come from."""
    postgres_bin: str = "/usr/lib/postgresql/15/bin"
    web: str = ""
    """Folder of the built frontend; empty while there is none."""
    versitygw: str = "/usr/bin/versitygw"
    """The S3 gateway's binary."""

    def folder(self, node: str, process: str) -> str:
        """Working directory of one process."""
        return f"{self.home}/nodes/{node}/{process}"

    def certificate(self, node: str) -> str:
        """The node's certificate and private key in one PEM file: every server here reads its half of it."""
        return f"{self.home}/nodes/{node}/tls/node.pem"


@dataclass(frozen=True)
class Probe:
    """How one knows that a process is ready, and by when it must be."""

    kind: str
    """tcp, http or exec."""
    address: str = ""
    port: int = 0
    path: str = ""
    tls: bool = False
    expect: tuple[int, ...] = (200,)
    command: tuple[str, ...] = ()
    timeout_s: float = 30


@dataclass(frozen=True)
class Process:
    """One supervised server process, complete: what to run, with which files, and how it is reloaded."""

    node: str
    name: str
    command: tuple[str, ...]
    probe: Probe
    files: Mapping[str, str] = field(default_factory=dict)
    """File name (relative to the process's folder) → text, possibly with secret markers."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variable → value, possibly with secret markers."""
    restart_only: Callable[[str, str], str] | None = None
    """(file name, text) → the part of the text that a reload does not apply; None: any change restarts."""
    reload_signal: str = ""
    """Signal that makes it read its files again; empty: it must be restarted."""
    reload_command: tuple[str, ...] = ()
    stop_signal: str = "TERM"
    stop_s: int = 10
    rollout: str = ""
    """Processes of one rollout are restarted one after another."""
    leader: str = ""
    """patroni or redis: how to tell the rollout's leader, which goes last."""

    @property
    def key(self) -> str:
        """node/name, unique in a platform."""
        return f"{self.node}/{self.name}"


@cache
def _jinja() -> jinja2.Environment:
    # StrictUndefined: a misspelt variable fails the rendering instead of leaving a hole in a server's configuration.
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.globals["secret"] = secret
    environment.globals["secret_sha256"] = secret_sha256
    return environment


def template(name: str, **data: object) -> str:
    """Render the template file `name`. Raises jinja2.UndefinedError when it uses a variable not in `data`."""
    return _jinja().get_template(name).render(**data)


def secret(name: str) -> str:
    """Marker for the value of a secret. Raises ValueError for a name that would be left standing in a file."""
    return _marker("secret", name)


def secret_sha256(name: str) -> str:
    """Marker for the hex SHA-256 of a secret, for servers that keep hashes. Raises ValueError like `secret`."""
    return _marker("secret-sha256", name)


def _marker(kind: str, name: str) -> str:
    if not re.fullmatch(_NAME, name):
        raise ValueError(f"name of a secret: found {name!r}; allowed: {_NAME}")
    return f"${{{kind}:{name}}}"


def secrets_in(text: str) -> frozenset[str]:
    """Names of the secrets that `text` refers to."""
    return frozenset(match.group(2) for match in _MARKER.finditer(text))


def reveal(text: str, values: Mapping[str, str]) -> str:
    """`text` with every marker replaced. Raises KeyError with the name of a secret that is not in `values`."""

    def value(match: re.Match[str]) -> str:
        clear = values[match.group(2)]
        return hashlib.sha256(clear.encode()).hexdigest() if match.group(1) == "secret-sha256" else clear

    return _MARKER.sub(value, text)


def fingerprint(text: str) -> str:
    """Short stable digest of a text, for change detection."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def keeping(*keys: str, separator: str = r"\s*[=\s:]\s*") -> Callable[[str, str], str]:
    """A `restart_only` for line-based files: keeps just the lines that set one of `keys`."""
    pattern = re.compile(rf"^\s*(?:{'|'.join(map(re.escape, keys))}){separator}.*$", re.MULTILINE)
    return lambda _name, text: "\n".join(pattern.findall(text))


def nothing(_name: str, _text: str) -> str:
    """A `restart_only` for servers that apply every change of their files on reload."""
    return ""
