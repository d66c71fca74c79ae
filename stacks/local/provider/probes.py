"""Readiness probes: whether a server answers as it should. One attempt each; waiting is the caller's."""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import subprocess
from collections.abc import Mapping
from typing import Literal

import msgspec

from stacks.local.provider.accounts import Account
from stacks.local.provider.handler import Inputs
from stacks.local.provider.supervision import PATH, become

ATTEMPT_SECONDS = 5.0
"""Longest single attempt."""


class Probe(Inputs, frozen=True, kw_only=True):
    """How to find out that a process is ready.

    tcp connects (with `tls`: shakes hands); http GETs `path` and wants one of the statuses `expect`; exec
    runs `command` as the service user and wants exit code 0; none is content with the process running.
    """

    kind: Literal["tcp", "http", "exec", "none"] = "none"
    address: str = ""
    port: int = 0
    path: str = "/"
    tls: bool = False
    ca: str = ""
    cert: str = ""
    key: str = ""
    expect: list[int] = msgspec.field(default_factory=lambda: [200])
    command: list[str] = msgspec.field(default_factory=list)
    timeout_s: float = 60.0
    interval_s: float = 0.25


def probe_problem(probe: Probe) -> str:
    """Why `probe` makes no sense, or ""."""
    if probe.timeout_s <= 0 or probe.interval_s <= 0:
        return "timeout_s and interval_s must be greater than 0"
    if probe.kind in ("tcp", "http") and (not probe.address or not 0 < probe.port < 65536):
        return f"kind {probe.kind} needs an address and a port between 1 and 65535"
    if probe.kind == "exec" and not (probe.command and os.path.isabs(probe.command[0])):
        return "kind exec needs a command that begins with an absolute path"
    if probe.kind == "http" and not probe.expect:
        return "expect must name at least one status code"
    return ""


def context(ca: str, cert: str = "", key: str = "") -> ssl.SSLContext:
    """A TLS context that trusts only the CA bundle at `ca`."""
    made = ssl.create_default_context(cafile=ca or None)
    if cert:
        made.load_cert_chain(cert, key or None)
    return made


def attempt(probe: Probe, folder: str, environment: Mapping[str, str], account: Account) -> str:
    """Try once. Returns "" when ready, else in a few words what is wrong; never raises for a server that is
    not.
    """
    try:
        if probe.kind == "tcp":
            return try_tcp(probe)
        if probe.kind == "http":
            return try_http(probe)
        if probe.kind == "exec":
            return run_command(probe.command, folder, environment, account)
    except (OSError, http.client.HTTPException) as error:
        return f"{target(probe)}: {reason(error)}"
    return ""


def target(probe: Probe) -> str:
    """What a probe looks at."""
    if probe.kind == "exec":
        return probe.command[0]
    return f"{probe.address}:{probe.port}{probe.path if probe.kind == 'http' else ''}"


def reason(error: BaseException) -> str:
    """The cause in words that hold no data of ours."""
    if isinstance(error, ssl.SSLError):
        return f"TLS: {error.reason or 'handshake failed'}"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return type(error).__name__


def try_tcp(probe: Probe) -> str:
    """Connect."""
    with socket.create_connection((probe.address, probe.port), ATTEMPT_SECONDS) as plain:
        if probe.tls:
            with context(probe.ca, probe.cert, probe.key).wrap_socket(plain, server_hostname=probe.address):
                pass
    return ""


def try_http(probe: Probe) -> str:
    """GET and compare the status."""
    connection: http.client.HTTPConnection
    if probe.tls:
        trust = context(probe.ca, probe.cert, probe.key)
        connection = http.client.HTTPSConnection(
            probe.address, probe.port, timeout=ATTEMPT_SECONDS, context=trust
        )
    else:
        connection = http.client.HTTPConnection(probe.address, probe.port, timeout=ATTEMPT_SECONDS)
    try:
        connection.request("GET", probe.path)
        status = connection.getresponse().status
    finally:
        connection.close()
    return "" if status in probe.expect else f"{target(probe)} answers {status} instead of {probe.expect}"


def run_command(
    command: list[str],
    folder: str,
    environment: Mapping[str, str],
    account: Account,
    seconds: float = ATTEMPT_SECONDS,
) -> str:
    """Run `command` in `folder` as the service user with the process's environment; "" or what went wrong."""
    try:
        done = subprocess.run(
            [*become(account), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"PATH": PATH, "LANG": "C.UTF-8", "HOME": folder, **environment},
            timeout=seconds,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return f"{command[0]} did not end within {seconds:g} s"
    except OSError as error:
        return f"{command[0]} cannot be run: {reason(error)}"
    said = " / ".join(done.stdout.strip().splitlines()[-3:])
    return (
        ""
        if done.returncode == 0
        else f"{command[0]} exits with {done.returncode}{f': {said}' if said else ''}"
    )
