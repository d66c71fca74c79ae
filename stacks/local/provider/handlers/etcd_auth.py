"""EtcdAuth: users and roles of etcd, and its authentication switched on. By etcd's JSON gateway (/v3/…)."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

from stacks.local.provider.errors import ProviderError, Unreachable
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values
from stacks.local.provider.waiting import until
from stacks.local.provider.web import request

READY_SECONDS = 60.0


class EtcdAuthInputs(Inputs, frozen=True, kw_only=True):
    endpoints: list[str]
    root_password: str
    user: str
    password: str
    prefix: str
    """Keys that `user` may read and write."""
    ca: str = ""


class EtcdAuthHandler(Handler[EtcdAuthInputs]):
    """Output: state (enabled, disabled, password changed, permission missing, unreachable).

    `user` has a role of the same name with readwrite on the prefix; root has everything.
    """

    inputs_type = EtcdAuthInputs
    outputs = ("state",)
    healthy = "enabled"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        for url in inputs.get("endpoints", ["http://"]) or [""]:
            if not url.startswith(("http://", "https://")):
                yield Problem("endpoints", f"{url!r} must be an http or https URL; at least one is needed")
        if inputs.get("user") == "root":
            yield Problem("user", "root is made anyway; name the user that Patroni logs in as")
        if inputs.get("prefix") == "":
            yield Problem("prefix", "must not be empty: it limits what the user can touch")

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        return {"state": "enabled"}

    def make(self, name: str, inputs: EtcdAuthInputs) -> Made:
        return Made(name, self.put(inputs, ()))

    def change(self, resource_id: str, state: Values, inputs: EtcdAuthInputs) -> Values:
        return self.put(inputs, (state.get("root_password", ""),))

    def observe(self, resource_id: str, inputs: EtcdAuthInputs, state: Values) -> Values | None:
        gateway = Gateway(inputs)
        if not gateway.enabled():
            return {"state": "disabled"}
        token = gateway.login("root", inputs.root_password)
        if token is None or gateway.login(inputs.user, inputs.password) is None:
            return {"state": "password changed"}
        return {"state": "enabled" if gateway.may_use_prefix(token) else "permission missing"}

    def remove(self, resource_id: str, inputs: EtcdAuthInputs, state: Values) -> None:
        gateway = Gateway(inputs)
        try:
            if gateway.enabled():
                token = gateway.login("root", inputs.root_password)
                if token is None:
                    raise ProviderError(
                        "etcd refuses the password of root", "Disable authentication by hand: etcdctl"
                    )
                gateway.call("auth/disable", {}, token)
        except Unreachable:
            # The store goes with the stack.
            return

    @staticmethod
    def put(inputs: EtcdAuthInputs, earlier: tuple[str, ...]) -> Values:
        """Make users, roles, permission; switch authentication on. `earlier`: root passwords that may still
        hold.
        """
        gateway = Gateway(inputs)
        until(
            gateway.ready,
            seconds=READY_SECONDS,
            interval=0.3,
            what="etcd answering with a quorum",
            do="See its logs",
        )
        token = ""
        if gateway.enabled():
            for password in (inputs.root_password, *earlier):
                found = gateway.login("root", password)
                if found is not None:
                    token = found
                    break
            else:
                raise ProviderError(
                    f"etcd at {inputs.endpoints[0]} refuses the password of root",
                    "It was changed outside of the stack: set it back by etcdctl user passwd root",
                )
        gateway.user("root", inputs.root_password, token)
        if token:
            # Changing a password ends the tokens that were given for it.
            token = gateway.login("root", inputs.root_password) or ""
        gateway.role("root", token)
        gateway.grant("root", "root", token)
        gateway.role(inputs.user, token)
        gateway.call("auth/role/grant", {"name": inputs.user, "perm": permission(inputs.prefix)}, token)
        gateway.user(inputs.user, inputs.password, token)
        gateway.grant(inputs.user, inputs.user, token)
        if not token:
            gateway.call("auth/enable", {}, "")
        return {"state": "enabled"}


class Gateway:
    """etcd's gateway, at the first endpoint that answers."""

    def __init__(self, inputs: EtcdAuthInputs) -> None:
        self.inputs = inputs

    def ask(self, path: str, body: dict[str, Any], token: str = "") -> tuple[int, Any]:
        """(status, body) of POST /v3/<path>. Raises Unreachable when no endpoint answers."""
        last: Unreachable | None = None
        for endpoint in self.inputs.endpoints:
            try:
                answer = request(
                    "POST", f"{endpoint.rstrip('/')}/v3/{path}", ca=self.inputs.ca, token=token, body=body
                )
            except Unreachable as error:
                last = error
                continue
            return answer.status, answer.body
        raise last or ProviderError("no endpoint of etcd is given")

    def call(self, path: str, body: dict[str, Any], token: str, tolerated: str = "") -> Any:
        """The body of a successful call; an error whose text holds `tolerated` is a
        success too (body: None).
        """
        status, answer = self.ask(path, body, token)
        if status == 200:
            return answer
        said = answer.get("error") or answer.get("message") if isinstance(answer, dict) else answer
        if tolerated and tolerated in str(said):
            return None
        raise ProviderError(f"etcd refuses {path}: {said}", "See etcd's logs in the folder supervisor/log")

    def ready(self) -> bool:
        """Whether a quorum answers: a linearizable read works, or is refused only for want of a login."""
        try:
            status, answer = self.ask("kv/range", {"key": encoded(self.inputs.prefix), "limit": "1"})
        except Unreachable:
            return False
        return status == 200 or "user name is empty" in str(answer)

    def enabled(self) -> bool:
        """Whether authentication is on. (etcd 3.4 has no status call for it: a read
        without a login tells.)
        """
        status, answer = self.ask("kv/range", {"key": encoded(self.inputs.prefix), "limit": "1"})
        if status == 200:
            return False
        if "user name is empty" in str(answer):
            return True
        raise Unreachable(f"etcd at {self.inputs.endpoints[0]} has no quorum", "Start its other members")

    def login(self, name: str, password: str) -> str | None:
        """A token, or None when the password is wrong."""
        if not password:
            return None
        status, answer = self.ask("auth/authenticate", {"name": name, "password": password})
        return str(answer["token"]) if status == 200 and answer.get("token") else None

    def user(self, name: str, password: str, token: str) -> None:
        """Make a user, or set the password of one that exists."""
        if token and self.login(name, password) is not None:
            return
        exists = (
            self.call("auth/user/add", {"name": name, "password": password}, token, "already exists") is None
        )
        if exists:
            self.call("auth/user/changepw", {"name": name, "password": password}, token)

    def role(self, name: str, token: str) -> None:
        """Make a role."""
        self.call("auth/role/add", {"role": name, "name": name}, token, "already exists")

    def grant(self, user: str, role: str, token: str) -> None:
        """Give a role to a user."""
        self.call("auth/user/grant", {"user": user, "role": role}, token)

    def may_use_prefix(self, token: str) -> bool:
        """Whether the user has its role, and the role the prefix."""
        user = self.call("auth/user/get", {"name": self.inputs.user}, token) or {}
        role = self.call("auth/role/get", {"role": self.inputs.user}, token, "not found") or {}
        return self.inputs.user in user.get("roles", ()) and permission(self.inputs.prefix) in role.get(
            "perm", ()
        )


def encoded(text: str) -> str:
    """Base64, as the gateway wants keys."""
    return base64.b64encode(text.encode()).decode()


def permission(prefix: str) -> dict[str, str]:
    """Readwrite on all keys that begin with `prefix`: up to the next text of that length
    (etcd: range_end).
    """
    raw = bytearray(prefix.encode())
    raw[-1] += 1
    return {
        "permType": "READWRITE",
        "key": encoded(prefix),
        "range_end": base64.b64encode(bytes(raw)).decode(),
    }
