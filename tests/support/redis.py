"""A throw-away Redis Cluster of three masters with TLS and the platform's own ACL rules."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import redis

from tests.support.pki import Authority
from tests.support.sandbox import service_user

PORT = 6379
PASSWORDS = {"admin": "pw-redis-admin", "app": "pw-redis-app"}
ACL = Path(__file__).resolve().parents[2] / "stacks/templates/users.acl.j2"
_CONFIG = """
bind {address}
protected-mode no
port 0
tls-port 6379
tls-cluster yes
tls-auth-clients no
tls-cert-file {home}/server.pem
tls-key-file {home}/server.pem
tls-ca-cert-file {ca}
cluster-enabled yes
cluster-config-file nodes.conf
cluster-port 16379
cluster-node-timeout 2000
cluster-announce-ip {address}
cluster-require-full-coverage no
aclfile {home}/users.acl
dir {home}
save ""
appendonly yes
appendfsync everysec
"""


def rendered_acl() -> str:
    """The platform's rules with the passwords of PASSWORDS; the users without one cannot log in."""
    rules = re.sub(r"{#.*?#}\n", "", ACL.read_text(), flags=re.DOTALL)
    text = re.sub(r"{{ (admin|app|replication|exporter) }}", r"\1", rules)
    return re.sub(
        r"{{ secret_sha256\('redis/(\w+)'\) }}",
        lambda found: hashlib.sha256(PASSWORDS.get(found[1], os.urandom(8).hex()).encode()).hexdigest(),
        text,
    )


class Cluster:
    """Three masters; their files are below `home`."""

    def __init__(self, home: Path, addresses: tuple[str, str, str]) -> None:
        self.home, self.addresses = home, addresses
        self.ca = home / "ca.crt"
        user = service_user()
        self._account = pwd.getpwnam(user) if user else None
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        authority = Authority()
        authority.write_bundle(self.ca)
        for address in addresses:
            folder = home / address
            folder.mkdir()
            authority.write_node(folder / "server.pem", ("redis",), address)
            (folder / "users.acl").write_text(rendered_acl())
            (folder / "redis.conf").write_text(_CONFIG.format(address=address, home=folder, ca=self.ca))
        for path in (home, *home.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
            if self._account:
                os.chown(path, self._account.pw_uid, self._account.pw_gid)
        self.start(*addresses)
        self._join()

    def start(self, *addresses: str) -> None:
        """Start nodes and wait until each answers. Raises TimeoutError with its log."""
        identity: dict[str, Any] = {}
        if self._account:
            identity = {"user": self._account.pw_uid, "group": self._account.pw_gid, "extra_groups": ()}
        for address in addresses:
            with (self.home / address / "log").open("ab") as log:
                self._running[address] = subprocess.Popen(
                    ["/usr/bin/redis-server", str(self.home / address / "redis.conf")],
                    cwd=self.home / address, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    start_new_session=True, **identity,
                )  # fmt: skip
        deadline = time.monotonic() + 20
        for address in addresses:
            while True:
                try:
                    with self.client(address) as client:
                        client.ping()
                    break
                except redis.RedisError:
                    if time.monotonic() > deadline or self._running[address].poll() is not None:
                        said = (self.home / address / "log").read_text()[-2000:]
                        raise TimeoutError(f"Redis does not answer on {address}:\n{said}") from None
                    time.sleep(0.05)

    def client(self, address: str, user: str = "admin") -> redis.Redis:
        """A connection to one node."""
        return redis.Redis(
            host=address, port=PORT, username=user, password=PASSWORDS[user], ssl=True,
            ssl_ca_certs=str(self.ca), socket_timeout=5, socket_connect_timeout=5,
        )  # fmt: skip

    def cluster(self, user: str = "admin") -> redis.RedisCluster:
        """A client of the whole cluster."""
        return redis.RedisCluster(
            host=self.addresses[0], port=PORT, username=user, password=PASSWORDS[user], ssl=True,
            ssl_ca_certs=str(self.ca), socket_timeout=5, socket_connect_timeout=5,
        )  # fmt: skip

    def kill(self, *addresses: str) -> None:
        """End nodes at once."""
        for address in addresses:
            child = self._running.pop(address)
            child.kill()
            child.wait(10)

    def freeze(self, address: str) -> None:
        """Let a node hang: its connections stay, nothing answers."""
        self._running[address].send_signal(signal.SIGSTOP)

    def thaw(self, address: str) -> None:
        """Let it go on."""
        self._running[address].send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End all nodes."""
        self.kill(*list(self._running))

    def wait_ok(self) -> None:
        """Until every node finds the cluster whole. Raises TimeoutError."""
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                if all(self._state(address) == ("ok", "3") for address in self.addresses):
                    return
            time.sleep(0.05)
        raise TimeoutError("the cluster was not formed")

    def environment(self) -> dict[str, str]:
        """What the service needs to use it."""
        return {
            "WMS_REDIS_NODES": ",".join(f"{address}:{PORT}" for address in self.addresses),
            "WMS_REDIS_USER": "app",
            "WMS_REDIS_PASSWORD": PASSWORDS["app"],
            "WMS_REDIS_CA": str(self.ca),
        }

    def _state(self, address: str) -> tuple[str, str]:
        with self.client(address) as client:
            raw: Any = client.execute_command("CLUSTER INFO")
        if not isinstance(raw, dict):
            raw = dict(line.split(":", 1) for line in raw.decode().split("\r\n") if ":" in line)
        return raw["cluster_state"], raw["cluster_known_nodes"]

    def _join(self) -> None:
        edges = [0, 5461, 10923, 16384]
        for index, address in enumerate(self.addresses):
            with self.client(address) as client:
                client.execute_command("CLUSTER ADDSLOTSRANGE", edges[index], edges[index + 1] - 1)
                client.execute_command("CLUSTER SET-CONFIG-EPOCH", index + 1)
        with self.client(self.addresses[0]) as client:
            for address in self.addresses[1:]:
                client.execute_command("CLUSTER MEET", address, PORT, 16379)
        self.wait_ok()


@contextlib.contextmanager
def cluster(*addresses: str) -> Iterator[Cluster]:
    """A Cluster on three addresses, removed at the end."""
    first, second, third = addresses
    home = Path(tempfile.mkdtemp(prefix="wms-redis-"))
    made: Cluster | None = None
    try:
        made = Cluster(home, (first, second, third))
        yield made
    finally:
        if made is not None:
            made.stop()
        shutil.rmtree(home, ignore_errors=True)
