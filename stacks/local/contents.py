"""What the servers hold once they run: users of the store, shared configuration, database roles and schemas."""

from __future__ import annotations

from pathlib import Path

import pulumi

from stacks import topology
from stacks.engines import patroni, pgbackrest, redis
from stacks.local import resources
from stacks.local.vault import Vault
from stacks.render import Site
from stacks.spec import Platform

GONE_WITH_THE_HOME = (
    resources.File,
    resources.EtcdAuth,
    resources.PatroniConfig,
    resources.RedisCluster,
    resources.Bucket,
    resources.Job,
    resources.DatabaseRole,
    resources.Database,
    resources.DatabaseExtension,
    resources.DatabaseScript,
)
SQL = Path(__file__).resolve().parents[1] / "sql"


def goes_with(supervisor: pulumi.Resource) -> None:
    """What servers hold, and their files, need no removal of their own when the supervisor goes, and all folders with
    it: a platform can be removed whatever state its servers are in, and without a call for each of some hundred files.
    For resources that are declared after this call.
    """

    def transform(args: pulumi.ResourceTransformArgs) -> pulumi.ResourceTransformResult | None:
        if not args.custom or args.type_ not in {f"wms:index:{kind.__name__}" for kind in GONE_WITH_THE_HOME}:
            return None
        if args.props.get("owner") == "operator":  # passwords and the inventory: beside the folders that go
            return None
        options = pulumi.ResourceOptions.merge(args.opts, pulumi.ResourceOptions(deleted_with=supervisor))
        return pulumi.ResourceTransformResult(props=args.props, opts=options)

    pulumi.runtime.register_resource_transform(transform)


def store_users(
    platform: Platform, site: Site, vault: Vault, needs: list[pulumi.Resource]
) -> resources.EtcdAuth:
    """Root and Patroni's user in etcd; from here on nobody reads or writes it without a password."""
    return resources.EtcdAuth(
        "etcd-auth",
        endpoints=[
            f"https://{m.address}:{platform.etcd.client_port}" for m in topology.of_role(platform, "etcd")
        ],
        ca=site.ca,
        root_password=vault.value("etcd/root"),
        user="patroni",
        password=vault.value("etcd/patroni"),
        prefix=f"/{patroni.NAMESPACE}/",
        opts=pulumi.ResourceOptions(depends_on=needs),
    )


def shared_configuration(
    platform: Platform, site: Site, vault: Vault, needs: list[pulumi.Resource]
) -> resources.PatroniConfig:
    """The configuration all PostgreSQL members share."""
    return resources.PatroniConfig(
        "patroni-config",
        urls=[
            f"https://{m.address}:{platform.patroni.api_port}" for m in topology.of_role(platform, "postgres")
        ],
        ca=site.ca,
        user="patroni",
        password=vault.value("patroni/rest"),
        config=patroni.dynamic(platform),
        opts=pulumi.ResourceOptions(depends_on=needs),
    )


def cache_cluster(
    platform: Platform, site: Site, vault: Vault, needs: list[pulumi.Resource]
) -> resources.RedisCluster:
    """The cluster that the running Redis nodes form."""
    return resources.RedisCluster(
        "redis-cluster",
        nodes=[
            {"address": n.address, "port": platform.redis.port} for n in topology.of_role(platform, "redis")
        ],
        replicas=platform.redis.replicas_per_master,
        user=redis.ADMIN,
        password=vault.value("redis/admin"),
        ca=site.ca,
        opts=_after(needs),
    )


def backup_buckets(
    platform: Platform, site: Site, vault: Vault, needs: list[pulumi.Resource]
) -> list[pulumi.Resource]:
    """Where backups go."""
    (store,) = topology.of_role(platform, "storage")
    return [
        resources.Bucket(
            f"backup-bucket-{repository.number}" if repository.long_term else "backup-bucket",
            endpoint=f"https://{store.address}:{platform.storage.port}",
            name=repository.bucket,
            access_key=vault.value("s3/access_key"),
            secret_key=vault.value("s3/secret_key"),
            ca=site.ca,
            force_destroy=True,
            opts=_after(needs),
        )
        for repository in pgbackrest.repositories(platform)
    ]


UNLOCKED = """\
for attempt in $(seq 60); do
    "$@" && exit
    code=$?
    [ $code -eq 50 ] || break
    sleep 0.5
done
exit $code"""
"""Runs pgBackRest again while another one holds a lock that it needs (exit code 50), for half a minute: PostgreSQL's
archiver, which begins as soon as there is a leader, and has nowhere to send to yet, holds it now and then."""


def backup_stanza(platform: Platform, site: Site, user: str, needs: list[pulumi.Resource]) -> resources.Job:
    """The stanza in every repository; until it is there, no WAL is archived. The first node finds whoever leads."""
    node = topology.of_role(platform, "postgres")[0].name
    command = pgbackrest.command(platform, site, node)
    return resources.Job(
        "backup-stanza",
        command=["/bin/sh", "-c", UNLOCKED, "sh", *command, "stanza-create"],
        # Only these two codes of its status say that the stanza is not there; the others speak of backups.
        check=["/bin/sh", "-c", '! "$@" --output=json info | grep -Eq \'"code":[13]\'', "sh", *command],
        triggers={"identity": patroni.identity(platform)},
        user=user,
        folder=site.folder(node, pgbackrest.NAME),
        opts=_after(needs),
    )


def service_schema(
    platform: Platform, site: Site, vault: Vault, user: str, needs: list[pulumi.Resource]
) -> resources.Job:
    """The service's schema, by its own migrations."""
    poolers = ",".join(f"{n.address}:{platform.pooler.port}" for n in topology.of_role(platform, "proxy"))
    python = [site.python, "-m", "wms.migrations"]
    return resources.Job(
        "schema",
        command=[*python, "up"],
        check=[*python, "status"],
        environment={
            "PYTHONPATH": site.service,
            "WMS_DB_HOSTS": poolers,
            "WMS_DB_WRITE_NAME": platform.postgres.database,
            "WMS_DB_CA": site.ca,
            "WMS_OWNER_PASSWORD": vault.value("postgres/owner"),
        },
        triggers={"release": site.service},
        user=user,
        opts=_after(needs),
    )


class Database:
    """Roles, schemas and extensions of the platform's database, made through the proxies' write port."""

    def __init__(self, platform: Platform, site: Site, vault: Vault, needs: list[pulumi.Resource]) -> None:
        self._platform, self._site, self._vault = platform, site, vault
        name = platform.postgres.database
        owner = self._role("wms_owner", "postgres/owner", needs)
        self.roles: list[pulumi.Resource] = [
            self._role("rewinder", "postgres/rewind", needs),
            self._role("pgbouncer", "postgres/pooler", needs),
            owner,
            # Without rights until it says SET ROLE wms_owner: only an owner may detach concurrently (docs/adr/0031).
            self._role(
                "wms_partitions",
                "postgres/partitions",
                [owner],
                member_of=["wms_owner"],
                options={"inherit": False, "connection_limit": 8},
            ),
            # Its rows are those of the tenant that the transaction names; it owns nothing and bypasses nothing.
            self._role("wms_app", "postgres/app", needs),
            # What the service does for all tenants; it bypasses nothing either: some functions are all it has.
            self._role("wms_worker", "postgres/worker", needs),
            self._role("wms_ops", "postgres/ops", needs, member_of=["pg_monitor"]),
            self._role("exporter", "postgres/exporter", needs, member_of=["pg_monitor"]),
        ]
        self.database = resources.Database(
            name,
            connection=self._connection("postgres"),
            name=name,
            owner="wms_owner",
            opts=_after(self.roles),
        )
        self.ready: list[pulumi.Resource] = [
            resources.DatabaseExtension(
                "pg_stat_statements",
                connection=self._connection(name),
                name="pg_stat_statements",
                opts=_after([self.database]),
            ),
            self._script("pooler", name, [self.database]),
            self._script("ops", name, [self.database]),
            self._script("rewind", "postgres", self.roles),
        ]

    def _connection(self, dbname: str) -> dict[str, pulumi.Input[object]]:
        proxies = topology.of_role(self._platform, "proxy")
        return {
            "host": ",".join(p.address for p in proxies),
            "port": self._platform.proxy.write_port,
            "dbname": dbname,
            "user": "postgres",
            "password": self._vault.value("postgres/superuser"),
            "sslrootcert": self._site.ca,
        }

    def _role(
        self,
        name: str,
        secret: str,
        needs: list[pulumi.Resource],
        member_of: list[str] | None = None,
        options: dict[str, object] | None = None,
    ) -> resources.DatabaseRole:
        return resources.DatabaseRole(
            f"role/{name}",
            connection=self._connection("postgres"),
            name=name,
            password=self._vault.value(secret),
            member_of=member_of or [],
            options=options,
            opts=_after(needs),
        )

    def _script(self, name: str, dbname: str, needs: list[pulumi.Resource]) -> resources.DatabaseScript:
        return resources.DatabaseScript(
            f"sql/{name}",
            connection=self._connection(dbname),
            sql=(SQL / f"{name}.sql").read_text(),
            opts=_after(needs),
        )


def _after(needs: list[pulumi.Resource]) -> pulumi.ResourceOptions:
    return pulumi.ResourceOptions(depends_on=needs)
