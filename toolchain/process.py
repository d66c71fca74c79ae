"""Running other programs: short questions, and long jobs with progress, a log and a deadline."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from toolchain import store
from toolchain.errors import ToolchainError

HEARTBEAT = 15.0
"""Seconds between two lines of progress."""


def ask(
    command: Sequence[str],
    timeout: float = 10.0,
    *,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str | None:
    """What a quick program prints, or None when it is absent, fails or takes over `timeout` seconds."""
    try:
        result = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=timeout,
            cwd=cwd,
            env=environment,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.decode(errors="replace").strip() if result.returncode == 0 else None


def run(
    command: Sequence[str],
    *,
    what: str,
    log: Path,
    seconds: int,
    deadline: float,
    cwd: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Run a long job. Its output goes to `log` (appended); a line of progress is printed every HEARTBEAT
    seconds.

    `seconds` is the estimate shown, `deadline` the seconds after which the job and its children are ended.
    Raises ToolchainError with the last lines of the log when it fails, and ends the job when this process is
    interrupted.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    with log.open("ab") as output:
        output.write(f"\n$ {' '.join(command)}\n".encode())
        output.flush()
        offset = output.tell()
        try:
            job = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=None if environment is None else dict(environment),
                start_new_session=True,
                pass_fds=tuple(store.held),
            )
        except OSError as error:
            raise ToolchainError(f"{what}: cannot start {command[0]}: {error.strerror}") from error
        try:
            while (status := _wait(job, HEARTBEAT)) is None:
                elapsed = time.monotonic() - started
                if elapsed > deadline:
                    raise ToolchainError(f"{what}: ended after {elapsed:.0f} s without a result; see {log}")
                print(f"    {what}: {elapsed:.0f} s of about {seconds} s", flush=True)
        finally:
            if job.poll() is None:
                _end(job)
    if status != 0:
        raise ToolchainError(
            f"{what}: {command[0]} failed with exit code {status}; "
            f"the last lines of {log}:\n{_tail(log, offset)}"
        )


def _wait(job: subprocess.Popen[bytes], timeout: float) -> int | None:
    try:
        return job.wait(timeout)
    except subprocess.TimeoutExpired:
        return None


def _end(job: subprocess.Popen[bytes]) -> None:
    """End the job's whole process group, politely first, so that apt and dpkg can finish a package."""
    os.killpg(job.pid, signal.SIGTERM)
    if _wait(job, 20.0) is None:
        os.killpg(job.pid, signal.SIGKILL)
        job.wait(20.0)


def _tail(log: Path, offset: int, lines: int = 20) -> str:
    """The last lines that were written after `offset`, indented."""
    with log.open("rb") as stream:
        stream.seek(max(offset, log.stat().st_size - 8192))
        text = stream.read().decode(errors="replace")
    return "\n".join(f"    | {line}" for line in text.splitlines()[-lines:])
