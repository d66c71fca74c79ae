"""The cache folder: one writer at a time, and a folder in it is either complete or absent."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toolchain.errors import ToolchainError

LOCK = "lock"
held: set[int] = set()
"""Descriptors of the locks that this process holds. Long jobs inherit them (see process.run): when we are
killed, the lock lasts until the orphaned pip or go is done too, and the next run does not work beside it."""
PARTIAL = ".partial-"
"""Prefix of folders under construction; whoever holds the lock may remove any that it finds."""


@contextmanager
def locked(cache: Path, timeout: float = 1800.0) -> Iterator[None]:
    """Hold the cache's lock, waiting up to `timeout` seconds for another run.

    The kernel drops the lock with its last holder, so a killed run leaves none behind. Raises ToolchainError
    when the folder cannot be written or the other run takes too long.
    """
    try:
        cache.mkdir(parents=True, exist_ok=True, mode=0o755)
        descriptor = os.open(cache / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ToolchainError(
            f"{cache}: cannot write ({error.strerror}); free it, or set WMS_CACHE to a folder of yours"
        ) from error
    try:
        until, told = time.monotonic() + timeout, False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                if time.monotonic() > until:
                    raise ToolchainError(
                        f"{cache / LOCK}: held by process {holder}, or a job that it started, for "
                        f"over {timeout:.0f} s; wait for it or end it (fuser -v {cache / LOCK})"
                    ) from None
                if not told:
                    print(
                        f"another run (process {holder}) is installing into {cache}; waiting for it",
                        flush=True,
                    )
                    told = True
                time.sleep(0.2)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        held.add(descriptor)
        yield
    finally:
        held.discard(descriptor)
        os.close(descriptor)


@contextmanager
def published(target: Path) -> Iterator[Path]:
    """A new empty folder that becomes `target` when the block ends well, and vanishes when it does not.

    To be used under the lock, for a `target` that is absent or damaged: a complete version in the cache never
    changes.
    """
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    work = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=target.parent))
    try:
        yield work
        work.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        work.rename(target)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def sweep(cache: Path) -> None:
    """Remove what killed runs left half-built. To be used under the lock."""
    for folder in (cache, cache / "tools"):
        for left in folder.glob(f"{PARTIAL}*"):
            shutil.rmtree(left, ignore_errors=True)
