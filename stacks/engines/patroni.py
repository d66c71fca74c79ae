"""PostgreSQL under Patroni: the node's own file here, what the whole cluster shares in `dynamic`.

Patroni keeps the shared part in the DCS, so that one change reaches every member; it reloads what can be reloaded and
flags what needs a restart.
"""

from __future__ import annotations

from typing import Any

from stacks import topology
from stacks.engines import pgbackrest
from stacks.render import Probe, Process, Site, fingerprint, nothing, secret, template
from stacks.spec import Platform

SCOPE = "postgres"
NAMESPACE = "wms"


def processes(platform: Platform, site: Site) -> list[Process]:
    """One Patroni per PostgreSQL node. Its file is reloaded by SIGHUP; a restart is only needed for the command."""
    return [
        Process(
            node=node.name,
            name="patroni",
            command=(site.python, "-m", "agent", f"{site.folder(node.name, 'patroni')}/patroni.yml"),
            files={
                "patroni.yml": template(
                    "patroni.yml.j2",
                    node=node,
                    spec=platform,
                    scope=SCOPE,
                    namespace=NAMESPACE,
                    role=replica_role(platform, node.index),
                    folder=site.folder(node.name, "patroni"),
                    certificate=site.certificate(node.name),
                    ca=site.ca,
                    bin_dir=site.postgres_bin,
                    etcd=topology.of_role(platform, "etcd"),
                    clients=site.clients,
                    archive_command=pgbackrest.archive_command(platform, site, node.name),
                    restore_command=pgbackrest.restore_command(platform, site, node.name),
                    dynamic=dynamic(platform),
                )
            },
            environment={
                # Patroni removes these from its environment as soon as it has read them.
                "PATRONI_SUPERUSER_USERNAME": "postgres",
                "PATRONI_SUPERUSER_PASSWORD": secret("postgres/superuser"),
                "PATRONI_REPLICATION_USERNAME": "replicator",
                "PATRONI_REPLICATION_PASSWORD": secret("postgres/replication"),
                "PATRONI_REWIND_USERNAME": "rewinder",
                "PATRONI_REWIND_PASSWORD": secret("postgres/rewind"),
                "PATRONI_RESTAPI_USERNAME": "patroni",
                "PATRONI_RESTAPI_PASSWORD": secret("patroni/rest"),
                # Patroni reads the store's login from here only when another of the store's settings is here too.
                "PATRONI_ETCD3_PROTOCOL": "https",
                "PATRONI_ETCD3_USERNAME": "patroni",
                "PATRONI_ETCD3_PASSWORD": secret("etcd/patroni"),
                "PYTHONPATH": site.agent,
                "WMS_STOP_POLL_MS": str(
                    platform.patroni.stop_poll_ms if platform.patroni.shorten_waits else 0
                ),
                # The first node makes a new cluster and leads it at the start; the others let it go ahead.
                "WMS_BOOTSTRAP_DELAY_S": "0" if node.index == 1 else "2",
                "WMS_HEARTBEAT_DATABASE": platform.postgres.database,
                "WMS_ARCHIVE_COMMAND": " ".join(
                    pgbackrest.command(platform, site, node.name, pgbackrest.ARCHIVE_CONFIG)
                ),
                "WMS_ARCHIVE_FALLBACK": f"{site.folder(node.name, pgbackrest.NAME)}/{pgbackrest.FALLBACK}",
                # By then a failover is over: lease, race and promotion.
                "WMS_ARCHIVE_FALLBACK_S": str(platform.patroni.ttl_s + 10),
            },
            restart_only=nothing,
            reload_signal="HUP",
            # liveness: the agent answers; whether there is a leader is the cluster's readiness, not one member's.
            probe=Probe("http", node.address, platform.patroni.api_port, "/liveness", tls=True, timeout_s=60),
            stop_s=60,
            rollout="patroni",
            leader="patroni",
        )
        for node in topology.of_role(platform, "postgres")
    ]


def replica_role(platform: Platform, index: int) -> str:
    """The kind of read traffic that PostgreSQL node `index` (from 1) serves first; empty for the first node."""
    return "" if index == 1 else platform.postgres.replica_roles[index - 2].name


def dynamic(platform: Platform) -> dict[str, Any]:
    """The configuration all members share, in the form of Patroni's /config.

    Of the parameters only what differs from PostgreSQL's default or is a decision of ours.
    """
    pg, patroni, timeouts = platform.postgres, platform.patroni, platform.timeouts
    return {
        "ttl": patroni.ttl_s,
        "loop_wait": patroni.loop_wait_s,
        "retry_timeout": patroni.retry_timeout_s,
        "primary_start_timeout": patroni.primary_start_timeout_s,
        "maximum_lag_on_failover": patroni.maximum_lag_on_failover_mb * 1024 * 1024,
        "synchronous_mode": "quorum",
        "synchronous_mode_strict": patroni.synchronous_mode_strict,
        "synchronous_node_count": pg.synchronous_nodes,
        "failsafe_mode": patroni.failsafe_mode,
        "member_slots_ttl": "30min",
        "postgresql": {
            "use_pg_rewind": True,
            "use_slots": True,
            "parameters": {
                "max_connections": pg.max_connections,
                "superuser_reserved_connections": pg.superuser_reserved_connections,
                "shared_buffers": f"{pg.shared_buffers_mb}MB",
                "effective_cache_size": f"{pg.effective_cache_size_mb}MB",
                "work_mem": f"{pg.work_mem_mb}MB",
                "maintenance_work_mem": f"{pg.maintenance_work_mem_mb}MB",
                "max_wal_size": f"{pg.max_wal_size_mb}MB",
                "min_wal_size": f"{pg.min_wal_size_mb}MB",
                "wal_keep_size": f"{pg.wal_keep_size_mb}MB",
                "max_slot_wal_keep_size": f"{pg.max_slot_wal_keep_size_mb}MB",
                "wal_retrieve_retry_interval": f"{pg.wal_retrieve_retry_ms}ms",
                "checkpoint_timeout": f"{pg.checkpoint_timeout_s}s",
                "checkpoint_completion_target": 0.9,
                "wal_level": "replica",
                "wal_log_hints": "on",
                "archive_mode": "on",
                "archive_timeout": f"{platform.backup.switch_wal_s}s",
                "wal_compression": "lz4",
                "hot_standby": "on",
                "hot_standby_feedback": "on",
                "max_standby_streaming_delay": f"{pg.max_standby_streaming_delay_s}s",
                "max_wal_senders": 12,
                "max_replication_slots": 12,
                "wal_receiver_timeout": "10s",
                "wal_sender_timeout": "10s",
                "wal_receiver_status_interval": "1s",
                "statement_timeout": f"{round(timeouts.statement_s * 1000)}ms",
                "lock_timeout": f"{round(timeouts.lock_s * 1000)}ms",
                "idle_in_transaction_session_timeout": f"{round(timeouts.idle_in_transaction_s * 1000)}ms",
                "tcp_keepalives_idle": 5,
                "tcp_keepalives_interval": 2,
                "tcp_keepalives_count": 3,
                "tcp_user_timeout": "10s",
                "password_encryption": "scram-sha-256",
                "random_page_cost": 1.1,
                "jit": "off",
                "track_io_timing": "on",
                "shared_preload_libraries": "pg_stat_statements",
                "pg_stat_statements.max": 2000,
                "log_min_duration_statement": f"{pg.log_min_duration_statement_ms}ms",
                "log_checkpoints": "on",
                "log_lock_waits": "on",
                "log_autovacuum_min_duration": "1s",
                "log_line_prefix": "%m [%p] %q%u@%d %a ",
                "log_timezone": "UTC",
                "timezone": "UTC",
                **pg.settings,
            },
        },
    }


def identity(platform: Platform) -> str:
    """Fingerprint of what a running cluster cannot change: its scope and its PostgreSQL version."""
    return fingerprint(f"{NAMESPACE}/{SCOPE}/{platform.postgres.version}")
