"""A throw-away S3 gateway on one address, with versions kept, as an unprivileged user."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.sandbox import service_user
from toolchain.env import process_environment

ACCESS, SECRET = "test-access-key", "test-secret-key-of-a-gateway"
PORT = 7070


@dataclass(frozen=True)
class Gateway:
    """Where it is, and where its files are."""

    address: str
    data: Path
    versions: Path

    @property
    def options(self) -> dict[str, Any]:
        """What a client of boto3 needs."""
        return {
            "endpoint_url": f"http://{self.address}:{PORT}",
            "region_name": "us-east-1",
            "aws_access_key_id": ACCESS,
            "aws_secret_access_key": SECRET,
        }

    def files(self) -> list[Path]:
        """Every file that it keeps, old versions included."""
        return [p for root in (self.data, self.versions) for p in sorted(root.rglob("*")) if p.is_file()]


@contextlib.contextmanager
def gateway(address: str) -> Iterator[Gateway]:
    """A running gateway, removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="wmss-"))
    account = pwd.getpwnam(user) if (user := service_user()) else None
    found = Gateway(address, home / "data", home / "versions")
    found.data.mkdir()
    found.versions.mkdir()
    if account:
        for path in (home, found.data, found.versions):
            os.chown(path, account.pw_uid, account.pw_gid)
    identity: dict[str, Any] = (
        {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": ()} if account else {}
    )
    log = home / "log"
    with log.open("wb") as file:
        child = subprocess.Popen(
            [
                process_environment()["WMS_VERSITYGW"],
                "--port", f"{address}:{PORT}", "--region", "us-east-1", "--quiet", "posix",
                "--versioning-dir", found.versions, found.data,
            ],
            cwd=home, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
            env={"PATH": "/usr/bin:/bin", "ROOT_ACCESS_KEY": ACCESS, "ROOT_SECRET_KEY": SECRET}, **identity,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError):
                socket.create_connection((address, PORT), timeout=1).close()
                break
            if child.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"the gateway does not answer on {address}:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield found
    finally:
        child.terminate()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(10)
        shutil.rmtree(home, ignore_errors=True)
