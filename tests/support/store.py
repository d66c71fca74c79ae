"""A throw-away S3 gateway with TLS and one bucket, as an unprivileged user; its objects are files in a folder."""

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
from pathlib import Path
from typing import Any

from tests.support.pki import Authority
from tests.support.sandbox import service_user
from toolchain.env import process_environment

PORT = 7070
BUCKET = "wms-backup"
ACCESS_KEY, SECRET_KEY = "access-of-the-store", "secret-of-the-store"


class Store:
    """The gateway; its files are below `home`."""

    def __init__(self, home: Path, address: str) -> None:
        self.home, self.address = home, address
        user = service_user()
        self._account = pwd.getpwnam(user) if user else None
        self._process: subprocess.Popen[bytes] | None = None
        authority = Authority("store authority")
        authority.write_bundle(home / "ca.crt")
        authority.write_node(home / "server.pem", ("storage-1",), address)
        for name in ("data", "versions"):
            (home / name).mkdir()
        for path in (home, *home.iterdir()):
            path.chmod(0o755 if path.is_dir() or path.suffix == ".crt" else 0o600)
            if self._account:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self.start()
        self.client().create_bucket(Bucket=BUCKET)

    def start(self) -> None:
        """Start it and wait for its port. Raises TimeoutError with its log."""
        log = self.home / "log"
        identity: dict[str, Any] = {}
        if self._account:
            identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [
                    process_environment()["WMS_VERSITYGW"], "--port", f"{self.address}:{PORT}",
                    "--cert", str(self.home / "server.pem"), "--key", str(self.home / "server.pem"),
                    "--region", "us-east-1", "--quiet", "posix", "--versioning-dir", str(self.home / "versions"),
                    str(self.home / "data"),
                ],
                cwd=self.home, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True,
                env={"PATH": os.environ["PATH"], "ROOT_ACCESS_KEY": ACCESS_KEY, "ROOT_SECRET_KEY": SECRET_KEY},
                **identity,
            )  # fmt: skip
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                socket.create_connection((self.address, PORT), timeout=1).close()
                return
            time.sleep(0.05)
        raise TimeoutError(
            f"the gateway does not answer on {self.address}:{PORT}:\n{log.read_text()[-2000:]}"
        )

    def stop(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def client(self) -> Any:
        """A boto3 client."""
        import boto3
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=f"https://{self.address}:{PORT}",
            region_name="us-east-1",
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            verify=str(self.home / "ca.crt"),
            config=Config(s3={"addressing_style": "path"}),
        )

    def objects(self, prefix: str = "") -> dict[str, Path]:
        """Key → file of every object."""
        bucket = self.home / "data" / BUCKET
        found = {str(path.relative_to(bucket)): path for path in bucket.rglob("*") if path.is_file()}
        return {key: path for key, path in sorted(found.items()) if key.startswith(prefix)}


@contextlib.contextmanager
def store(address: str) -> Iterator[Store]:
    """A Store on `address`, removed at the end."""
    home = Path(tempfile.mkdtemp(prefix="wms-store-"))
    made: Store | None = None
    try:
        made = Store(home, address)
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(home, ignore_errors=True)
