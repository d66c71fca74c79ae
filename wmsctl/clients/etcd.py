"""etcd's v3 JSON gateway: the leader key of the PostgreSQL cluster, and the health of the store.

Keys and values travel base64-coded, 64-bit numbers as strings (the gateway's mapping of protobuf to JSON).
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from typing import Any

from wmsctl.clients.http import Http, StatusError
from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Endpoint, Inventory
from wmsctl.secrets import Secret, Secrets

DEADLINE_S = 2.0


@dataclass(frozen=True)
class KeyValue:
    """A key as of one revision of the store; `lease` 0 means that it never expires."""

    key: str
    value: str
    mod_revision: int
    create_revision: int
    lease: int


@dataclass(frozen=True)
class StoreMember:
    """One member of the store: whether it takes part in a quorum."""

    node: str
    healthy: bool
    leader: bool = False
    trouble: str = ""


class EtcdMember:
    """One member. The token of its login is renewed when it runs out. Not for several threads at once."""

    def __init__(self, http: Http, node: str, user: str, password: Secret) -> None:
        self.http = http
        self.node = node
        self._user = user
        self._password = password
        self._token = ""

    def health(self, *, timeout: float = DEADLINE_S) -> StoreMember:
        """Whether this member is in a quorum (GET /health does a linearizable read there). Never raises."""
        try:
            answer = self.http.get("/health", timeout=timeout, expect=None)
            healthy = answer.status == 200 and str(answer.json().get("health")).lower() == "true"
            if not healthy:
                return StoreMember(
                    self.node, False, trouble=str(answer.json().get("reason") or "it sees no quorum")
                )
            status = self._call("/v3/maintenance/status", {}, timeout)
        except (Unreachable, Failed) as error:
            return StoreMember(self.node, False, trouble=error.message)
        own = status.get("header", {}).get("member_id")
        return StoreMember(self.node, True, leader=bool(own) and own == status.get("leader"))

    def get(self, key: str, *, timeout: float = DEADLINE_S) -> KeyValue | None:
        """The key by a linearizable read, None when it does not exist. Raises Unreachable (also without a
        quorum).
        """
        answer = self._call("/v3/kv/range", {"key": _encode(key)}, timeout)
        found = [parse_key(entry) for entry in answer.get("kvs", [])]
        return found[0] if found else None

    def prefix(self, prefix: str, *, timeout: float = DEADLINE_S) -> tuple[KeyValue, ...]:
        """All keys that start with `prefix` (not empty), sorted."""
        end = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        body = {"key": _encode(prefix), "range_end": _encode(end)}
        return tuple(parse_key(entry) for entry in self._call("/v3/kv/range", body, timeout).get("kvs", []))

    def delete_if_unchanged(self, found: KeyValue, *, timeout: float = DEADLINE_S) -> bool:
        """Delete the key if it still is exactly as `found` (same modification); False when it changed
        meanwhile.

        One transaction in the store, comparing modification and value: between the look and the deletion
        nobody else's new key can be lost. Raises Unreachable when no answer came; then the outcome is unknown
        and the key has to be read again.
        """
        key = _encode(found.key)
        unchanged = [
            {"key": key, "target": "MOD", "result": "EQUAL", "mod_revision": str(found.mod_revision)},
            {"key": key, "target": "VALUE", "result": "EQUAL", "value": _encode(found.value)},
        ]
        body = {"compare": unchanged, "success": [{"request_delete_range": {"key": key}}]}
        return bool(self._call("/v3/kv/txn", body, timeout).get("succeeded", False))

    def lease_left(self, lease: int, *, timeout: float = DEADLINE_S) -> float | None:
        """Seconds until the lease runs out unless renewed; None when it is gone already."""
        left = int(self._call("/v3/lease/timetolive", {"ID": str(lease)}, timeout).get("TTL", 0))
        return float(left) if left > 0 else None

    def close(self) -> None:
        self.http.close()

    def _call(self, path: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
        for attempt in (1, 2):
            if not self._token:
                self._token = self._login(timeout)
            headers = {"Authorization": self._token} if self._token != "-" else {}
            try:
                answer = self.http.request("POST", path, body=body, headers=headers, timeout=timeout)
                document: dict[str, Any] = answer.json()
                return document
            except StatusError as error:
                if attempt == 1 and (
                    "invalid auth token" in error.body or "user name is empty" in error.body
                ):
                    self._token = ""
                    continue
                raise _meaning(error) from error
        raise AssertionError("unreachable")

    def _login(self, timeout: float) -> str:
        """A token, "-" where the store runs without authentication."""
        body = {"name": self._user, "password": self._password.reveal()}
        try:
            document = self.http.request("POST", "/v3/auth/authenticate", body=body, timeout=timeout).json()
        except StatusError as error:
            if "authentication is not enabled" in error.body:
                return "-"
            if "invalid user ID or password" in error.body:
                raise Failed(
                    f"etcd on {self.node} refuses the login of {self._user}",
                    hint="the secrets file is stale: bring the platform up again (make up)",
                ) from None
            raise _meaning(error) from error
        return str(document["token"])


class Etcd:
    """The store, through whichever member answers."""

    def __init__(self, members: tuple[EtcdMember, ...], prefix: str) -> None:
        self.members = members
        self.leader_path = f"{prefix.rstrip('/')}/leader"

    def leader(self, *, timeout: float = DEADLINE_S) -> KeyValue | None:
        """Patroni's leader key: its value is the name of the member that holds the lock.
        Raises Unreachable.
        """
        troubles = []
        for member in self.members:
            try:
                return member.get(self.leader_path, timeout=timeout)
            except (Unreachable, Failed) as error:
                troubles.append(f"{member.node}: {error.message}")
        raise Unreachable("no etcd member answers (" + "; ".join(troubles) + ")", hint="see: wmsctl status")

    def keys(self, *, timeout: float = DEADLINE_S) -> tuple[dict[str, KeyValue], float | None]:
        """Everything that Patroni keeps in the store, as of one revision: name below the prefix → key; and
        the seconds left of the leader's lease (None when nobody holds it). Raises Unreachable.
        """
        folder = self.leader_path.removesuffix("leader")
        troubles = []
        for member in self.members:
            try:
                found = {kv.key.removeprefix(folder): kv for kv in member.prefix(folder, timeout=timeout)}
                leader = found.get("leader")
                return found, member.lease_left(
                    leader.lease, timeout=timeout
                ) if leader and leader.lease else None
            except (Unreachable, Failed) as error:
                troubles.append(f"{member.node}: {error.message}")
        raise Unreachable("no etcd member answers (" + "; ".join(troubles) + ")", hint="see: wmsctl status")

    def delete_leader(self, found: KeyValue, *, timeout: float = DEADLINE_S) -> bool:
        """Delete the leader key if it still is `found`; False when it changed. See
        EtcdMember.delete_if_unchanged.

        Asks the one member that answers a read first, so that a lost answer is never repeated blindly
        elsewhere.
        """
        if found.key != self.leader_path:
            raise ValueError(f"{found.key!r} is not the leader key")
        for member in self.members:
            try:
                member.get(self.leader_path, timeout=timeout)
            except (Unreachable, Failed):
                continue
            return member.delete_if_unchanged(found, timeout=timeout)
        raise Unreachable("no etcd member answers", hint="see: wmsctl status")

    def close(self) -> None:
        for member in self.members:
            member.close()


def etcd_member(
    inventory: Inventory, secrets: Secrets, endpoint: Endpoint, *, timeout: float = DEADLINE_S
) -> EtcdMember:
    login = inventory.postgres.dcs.login
    http = Http(
        f"etcd on {endpoint.node}",
        endpoint.address,
        endpoint.port,
        ca=inventory.ca if endpoint.tls else "",
        timeout=timeout,
    )
    return EtcdMember(http, endpoint.node, login.user, secrets.of(login))


def parse_key(entry: dict[str, Any]) -> KeyValue:
    return KeyValue(
        key=_decode(entry["key"]),
        value=_decode(entry.get("value", "")),
        mod_revision=int(entry["mod_revision"]),
        create_revision=int(entry["create_revision"]),
        lease=int(entry.get("lease", 0)),
    )


def _meaning(error: StatusError) -> Failed | Unreachable:
    """A member without a quorum answers, with "etcdserver: request timed out" or "no leader": that is
    unreachable.
    """
    if error.status == 503 or "timed out" in error.body or "no leader" in error.body:
        return Unreachable(f"{error.message}", hint="the store has no quorum: see wmsctl status")
    return error


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _decode(text: str) -> str:
    return base64.b64decode(text).decode("utf-8", "replace")
