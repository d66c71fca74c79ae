"""Connection strings, without passwords: those travel beside them and so never reach a log."""

from __future__ import annotations

from psycopg.conninfo import make_conninfo

from wms.settings import DatabaseSettings


def conninfo(settings: DatabaseSettings, database: str, application: str) -> str:
    """The libpq connection string for `database` over all hosts, tried in random order.

    The keepalives end a connection whose other side vanished without a word after about 10 s.
    """
    return make_conninfo(
        "",
        host=",".join(host for host, _ in settings.hosts),
        port=",".join(str(port) for _, port in settings.hosts),
        load_balance_hosts="random",
        dbname=database,
        user=settings.user,
        sslmode=settings.sslmode,
        sslrootcert=str(settings.ca) if settings.ca else None,
        connect_timeout=settings.connect_timeout_s,
        application_name=application,
        keepalives_idle=5,
        keepalives_interval=2,
        keepalives_count=3,
        tcp_user_timeout=10_000,
    )
