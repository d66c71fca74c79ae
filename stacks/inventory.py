"""The inventory of a platform: what wmsctl needs to know of it, built from the spec and the topology."""

from __future__ import annotations

from stacks import engines, topology
from stacks.engines import nginx, patroni, pgbackrest, pgbouncer, redis, service, varnish, versitygw
from stacks.render import Site
from stacks.spec import Platform
from wmsctl import inventory as contract
from wmsctl.inventory import Endpoint, Inventory, Login


def inventory(platform: Platform, site: Site, secrets_path: str) -> Inventory:
    """The contract for the local target; `secrets_path` is the operator's file with the passwords."""
    p = platform
    processes: dict[str, list[str]] = {}
    for process in engines.processes(p, site):
        processes.setdefault(process.node, []).append(process.name)
    return Inventory(
        version="wms.inventory/v1",
        platform=p.name,
        environment=p.environment,
        target="local",
        secrets=f"file:{secrets_path}",
        ca=site.ca,
        nodes=tuple(
            contract.Node(
                name=node.name,
                role=node.role,
                zone=node.zone,
                address=node.address,
                processes=tuple(processes.get(node.name, ())),
            )
            for node in topology.nodes(p)
        ),
        postgres=_postgres(p),
        pools=contract.Pools(
            poolers=tuple(
                contract.Pooler(node=n.name, address=n.address, port=p.pooler.port)
                for n in topology.of_role(p, "proxy")
            ),
            admin=Login(user=pgbouncer.ADMIN, secret="pgbouncer/admin"),
            write_database=p.postgres.database,
            read_database=f"{p.postgres.database}_read",
            max_client_connections=p.pooler.max_client_connections,
        ),
        proxies=contract.Proxies(
            stats=_endpoints(p, "proxy", p.proxy.stats_port, path="/metrics"),
            write_port=p.proxy.write_port,
            read_port=p.proxy.read_port,
            role_ports={role.name: role.port for role in p.postgres.replica_roles},
        ),
        redis=contract.Redis(
            nodes=_endpoints(p, "redis", p.redis.port, tls=True),
            admin=Login(user=redis.ADMIN, secret="redis/admin"),
            masters=p.redis.masters,
        ),
        store=contract.ObjectStore(
            endpoint=_endpoints(p, "storage", p.storage.port, tls=True, path=versitygw.HEALTH)[0],
            bucket=p.storage.bucket,
            region=p.storage.region,
            access_key="s3/access_key",
            secret_key="s3/secret_key",
        ),
        partitions=contract.Partitions(
            login=Login(user="wms_partitions", secret="postgres/partitions"),
            owner="wms_owner",
            tables=tuple(
                contract.PartitionedTable(
                    table=each.table,
                    interval=each.interval,
                    premake=each.premake,
                    online_months=each.online_months,
                    archive=each.archive,
                    keep_days=each.keep_days,
                    archive_months=each.archive_months,
                    carry=each.carry,
                )
                for each in p.partitions.tables
            ),
            prefix=p.partitions.prefix,
        ),
        backup=_backup(p),
        web=contract.Web(
            edges=_endpoints(p, "edge", p.edge.port, tls=True, path=varnish.HEALTH),
            gateways=_endpoints(p, "gateway", p.gateway.port, tls=True, path=nginx.HEALTH),
            services=_endpoints(p, "app", p.service.port, tls=True, path=service.READY),
            purge=varnish.PURGE,
        ),
        monitoring=contract.Monitoring(
            prometheus=_endpoints(p, "monitor", p.monitor.prometheus_port, path="/-/ready")[0],
            alertmanager=_endpoints(p, "monitor", p.monitor.alertmanager_port, path="/-/ready")[0],
        ),
        hosts=contract.LocalHosts(home=site.home, supervisor=f"{site.home}/supervisor/supervisor.sock"),
        thresholds=contract.Thresholds(
            replication_lag_ms=p.thresholds.replication_lag_ms,
            replication_lag_bytes=p.thresholds.replication_lag_mb * 1024 * 1024,
            rto_s=p.thresholds.rto_s,
            rpo_s=p.thresholds.rpo_s,
        ),
    )


def _postgres(p: Platform) -> contract.Postgres:
    return contract.Postgres(
        scope=patroni.SCOPE,
        version=p.postgres.version,
        members=tuple(
            contract.Member(
                node=n.name,
                address=n.address,
                port=p.postgres.port,
                api_port=p.patroni.api_port,
                replica_role=patroni.replica_role(p, n.index),
            )
            for n in topology.of_role(p, "postgres")
        ),
        database=p.postgres.database,
        superuser=Login(user="postgres", secret="postgres/superuser"),
        operator=Login(user="wms_ops", secret="postgres/ops"),
        api=Login(user="patroni", secret="patroni/rest"),
        dcs=contract.Dcs(
            endpoints=_endpoints(p, "etcd", p.etcd.client_port, tls=True),
            login=Login(user="root", secret="etcd/root"),
            prefix=f"/{patroni.NAMESPACE}/{patroni.SCOPE}/",
        ),
        synchronous_nodes=p.postgres.synchronous_nodes,
        ttl_s=p.patroni.ttl_s,
        loop_wait_s=p.patroni.loop_wait_s,
    )


def _backup(p: Platform) -> contract.Backup:
    schedule, retention = p.backup.schedule, p.backup.retention
    return contract.Backup(
        stanza=p.backup.stanza,
        process=pgbackrest.NAME,
        program=pgbackrest.PROGRAM,
        config=pgbackrest.CONFIG,
        archive_config=pgbackrest.ARCHIVE_CONFIG,
        long_term_config=pgbackrest.LONG_TERM_CONFIG,
        primary=pgbackrest.PRIMARY,
        port=p.backup.port,
        repositories=tuple(
            contract.Repository(
                number=each.number,
                bucket=each.bucket,
                long_term=each.long_term,
                passphrase=each.passphrase,
                path=f"/repo{each.number}",
            )
            for each in pgbackrest.repositories(p)
        ),
        schedule=contract.BackupSchedule(
            daily=schedule.daily, full_day=schedule.full_day, incremental=schedule.incremental
        ),
        retention=contract.Retention(
            daily_days=retention.daily_days,
            weekly_weeks=retention.weekly_weeks,
            monthly_months=retention.monthly_months,
            archive_years=retention.archive_years,
        ),
        wal_wait_s=p.backup.wal_wait_s,
        newest_age_s=p.backup.newest_age_alert_s,
    )


def _endpoints(
    p: Platform, role: str, port: int, *, tls: bool = False, path: str = ""
) -> tuple[Endpoint, ...]:
    return tuple(
        Endpoint(node=n.name, address=n.address, port=port, tls=tls, path=path)
        for n in topology.of_role(p, role)
    )
