"""The resource types of the provider `wms` as the stack's program uses them.

Each class is thin: its keyword arguments are the inputs of the handler of the same name in
provider/handlers/, its attributes the outputs. None means "the handler's default".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pulumi

from stacks.local.provider.handlers.release import digest

__all__ = ["digest"]

Text = pulumi.Input[str]
Count = pulumi.Input[int]
Flag = pulumi.Input[bool]
Texts = pulumi.Input[Sequence[pulumi.Input[str]]]
Table = pulumi.Input[Mapping[str, pulumi.Input[str]]]
Part = pulumi.Input[Mapping[str, Any]]
Parts = pulumi.Input[Sequence[pulumi.Input[Mapping[str, Any]]]]


class Resource(pulumi.CustomResource):
    """Base: the token is wms:index:<class>; outputs are named so that they become attributes."""

    OUTPUTS: tuple[str, ...] = ()

    def __init__(self, name: str, inputs: Mapping[str, Any], opts: pulumi.ResourceOptions | None) -> None:
        properties = {**inputs, **dict.fromkeys(self.OUTPUTS)}
        super().__init__(f"wms:index:{type(self).__name__}", name, properties, opts)


class Supervisor(Resource):
    """The platform's folder and its supervisord."""

    OUTPUTS = ("socket", "state")
    home: pulumi.Output[str]
    socket: pulumi.Output[str]
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        home: Text,
        python: Text,
        user: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(resource_name, {"home": home, "python": python, "user": user}, opts)


class File(Resource):
    """One text file below the platform's folder."""

    OUTPUTS = ("sha256", "ownership")
    path: pulumi.Output[str]
    content: pulumi.Output[str]
    sha256: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        home: Text,
        path: Text,
        content: Text,
        mode: Text | None = None,
        owner: Text | None = None,
        user: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {"home": home, "path": path, "content": content, "mode": mode, "owner": owner, "user": user}
        super().__init__(resource_name, inputs, opts)


class Process(Resource):
    """One supervised server of a node."""

    OUTPUTS = ("program", "identity", "environment_hash", "log", "state")
    program: pulumi.Output[str]
    identity: pulumi.Output[str]
    log: pulumi.Output[str]
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        home: Text,
        node: Text,
        name: Text,
        command: Texts,
        user: Text | None = None,
        environment: Table | None = None,
        restart_on: Table | None = None,
        reload_on: Table | None = None,
        reload: Part | None = None,
        stop_signal: Text | None = None,
        stop_seconds: Count | None = None,
        start_seconds: Count | None = None,
        autorestart: Flag | None = None,
        rollout: Part | None = None,
        probe: Part | None = None,
        listens: Parts | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "home": home,
            "node": node,
            "name": name,
            "command": command,
            "user": user,
            "environment": environment,
            "restart_on": restart_on,
            "reload_on": reload_on,
            "reload": reload,
            "stop_signal": stop_signal,
            "stop_seconds": stop_seconds,
            "start_seconds": start_seconds,
            "autorestart": autorestart,
            "rollout": rollout,
            "probe": probe,
            "listens": listens,
        }
        super().__init__(resource_name, inputs, opts)


class Password(Resource):
    """A generated secret."""

    OUTPUTS = ("value",)
    value: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        length: Count | None = None,
        generation: Count | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(resource_name, {"length": length, "generation": generation}, opts)


class Authority(Resource):
    """The platform's private CA."""

    OUTPUTS = ("cert_pem", "key_pem", "bundle_pem", "chain_pem", "not_after", "serial", "revision")
    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]
    bundle_pem: pulumi.Output[str]
    chain_pem: pulumi.Output[str]
    not_after: pulumi.Output[str]
    serial: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        common_name: Text,
        days: Count | None = None,
        renew_before_days: Count | None = None,
        generation: Count | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "common_name": common_name,
            "days": days,
            "renew_before_days": renew_before_days,
            "generation": generation,
        }
        super().__init__(resource_name, inputs, opts)


class Certificate(Resource):
    """A key pair signed by the CA."""

    OUTPUTS = ("cert_pem", "key_pem", "not_after", "serial")
    cert_pem: pulumi.Output[str]
    key_pem: pulumi.Output[str]
    not_after: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        ca_cert_pem: Text,
        ca_key_pem: Text,
        common_name: Text,
        ca_chain_pem: Text | None = None,
        sans: Texts | None = None,
        usages: Texts | None = None,
        days: Count | None = None,
        renew_before_days: Count | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "ca_cert_pem": ca_cert_pem,
            "ca_key_pem": ca_key_pem,
            "common_name": common_name,
            "ca_chain_pem": ca_chain_pem,
            "sans": sans,
            "usages": usages,
            "days": days,
            "renew_before_days": renew_before_days,
        }
        super().__init__(resource_name, inputs, opts)


class Release(Resource):
    """A copy of the code that servers run."""

    OUTPUTS = ("path", "previous", "state")
    path: pulumi.Output[str]
    digest: pulumi.Output[str]
    previous: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        home: Text,
        name: Text,
        sources: Texts,
        digest: Text,
        user: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        super().__init__(
            resource_name,
            {"home": home, "name": name, "sources": sources, "digest": digest, "user": user},
            opts,
        )


class Job(Resource):
    """A command that runs to its end, again whenever a trigger changes."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        command: Texts,
        check: Texts | None = None,
        environment: Table | None = None,
        triggers: Table | None = None,
        user: Text | None = None,
        folder: Text | None = None,
        timeout_s: Count | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "command": command,
            "check": check,
            "environment": environment,
            "triggers": triggers,
            "user": user,
            "folder": folder,
            "timeout_s": timeout_s,
        }
        super().__init__(resource_name, inputs, opts)


class Bucket(Resource):
    """A bucket of an S3 store."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        endpoint: Text,
        name: Text,
        access_key: Text,
        secret_key: Text,
        ca: Text | None = None,
        region: Text | None = None,
        force_destroy: Flag | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "endpoint": endpoint,
            "name": name,
            "access_key": access_key,
            "secret_key": secret_key,
            "ca": ca,
            "region": region,
            "force_destroy": force_destroy,
        }
        super().__init__(resource_name, inputs, opts)


class EtcdAuth(Resource):
    """Users of etcd and its authentication."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        endpoints: Texts,
        root_password: Text,
        user: Text,
        password: Text,
        prefix: Text,
        ca: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "endpoints": endpoints,
            "root_password": root_password,
            "user": user,
            "password": password,
            "prefix": prefix,
            "ca": ca,
        }
        super().__init__(resource_name, inputs, opts)


class PatroniConfig(Resource):
    """The dynamic configuration that all PostgreSQL members share."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        urls: Texts,
        config: Part,
        ca: Text | None = None,
        user: Text | None = None,
        password: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "urls": urls,
            "config": config,
            "ca": ca,
            "user": user,
            "password": password,
        }
        super().__init__(resource_name, inputs, opts)


class DatabaseRole(Resource):
    """A role of PostgreSQL."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        connection: Part,
        name: Text,
        password: Text | None = None,
        login: Flag | None = None,
        options: Part | None = None,
        member_of: Texts | None = None,
        settings: Table | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "connection": connection,
            "name": name,
            "password": password,
            "login": login,
            "options": options,
            "member_of": member_of,
            "settings": settings,
        }
        super().__init__(resource_name, inputs, opts)


class Database(Resource):
    """A database of PostgreSQL."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        connection: Part,
        name: Text,
        owner: Text,
        connection_limit: Count | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "connection": connection,
            "name": name,
            "owner": owner,
            "connection_limit": connection_limit,
        }
        super().__init__(resource_name, inputs, opts)


class DatabaseExtension(Resource):
    """An extension in one database."""

    OUTPUTS = (
        "installed",
        "state",
    )
    installed: pulumi.Output[str]
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        connection: Part,
        name: Text,
        schema: Text | None = None,
        version: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "connection": connection,
            "name": name,
            "schema": schema,
            "version": version,
        }
        super().__init__(resource_name, inputs, opts)


class DatabaseScript(Resource):
    """Idempotent SQL."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        connection: Part,
        sql: Text,
        fingerprint: Text | None = None,
        check_sql: Text | None = None,
        drop_sql: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "connection": connection,
            "sql": sql,
            "fingerprint": fingerprint,
            "check_sql": check_sql,
            "drop_sql": drop_sql,
        }
        super().__init__(resource_name, inputs, opts)


class RedisCluster(Resource):
    """The cluster that running Redis nodes form."""

    OUTPUTS = ("state",)
    state: pulumi.Output[str]

    def __init__(
        self,
        resource_name: str,
        *,
        nodes: Parts,
        replicas: Count | None = None,
        user: Text | None = None,
        password: Text | None = None,
        ca: Text | None = None,
        opts: pulumi.ResourceOptions | None = None,
    ) -> None:
        inputs = {
            "nodes": nodes,
            "replicas": replicas,
            "user": user,
            "password": password,
            "ca": ca,
        }
        super().__init__(resource_name, inputs, opts)
