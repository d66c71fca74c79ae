"""What the servers' answers are read into."""

from __future__ import annotations

import pytest

from wmsctl.clients.pgbouncer import Console, PooledDatabase, parse_database, parse_pool
from wmsctl.clients.postgres import _reason, lsn_bytes, lsn_text
from wmsctl.clients.redis import parse_nodes
from wmsctl.errors import Failed, Usage
from wmsctl.status.observe import parse_stats, sum_pools

NODES = """\
07c3 127.40.4.2:6379@16379,redis-2 slave e7d1 0 1426238317239 4 connected
e7d1 127.40.4.1:6379@16379 myself,master - 0 0 1 connected 0-5460 5462
67ed 127.40.4.3:6379@16379 master,fail - 1 2 3 disconnected 5461 [93-<-292f]
"""


def test_cluster_nodes() -> None:
    peers, myself = parse_nodes(NODES)
    assert myself == "e7d1"
    replica, master, failed = peers
    assert (replica.is_master, replica.master_id, replica.slots, replica.epoch) == (False, "e7d1", 0, 4)
    assert (master.address, master.port, master.slots) == ("127.40.4.1", 6379, 5462)
    assert (failed.failing, failed.slots, failed.link) == (True, 1, "disconnected")


STATS = """\
# pxname,svname,qcur,qmax,scur,smax,status,
write,FRONTEND,,,7,9,OPEN,
write,pg-1,0,0,7,9,UP,
write,pg-2,0,0,0,0,DOWN,
write,BACKEND,0,0,7,9,UP,
read,pg-1,0,0,0,0,DOWN 1/2,
read,pg-2,0,0,3,4,UP 1/2,
read,pg-1-primary,0,0,0,0,no check,
read,BACKEND,0,0,3,4,UP,
stats,FRONTEND,,,1,1,OPEN,
"""


def test_haproxy_statistics() -> None:
    read, write = parse_stats(STATS)
    assert (read.name, read.up, read.servers, read.sessions) == ("read", 2, 3, 3)
    assert (write.name, write.up, write.servers, write.sessions) == ("write", 1, 2, 7)


@pytest.mark.parametrize("text", ["", "<html>", '{"a": 1}'])
def test_something_else_on_the_statistics_port(text: str) -> None:
    with pytest.raises(Failed, match="not with HAProxy"):
        parse_stats(text)


POOL = {
    "database": "wms",
    "user": "a",
    "cl_active": 3,
    "cl_waiting": 1,
    "sv_active": 2,
    "sv_idle": 1,
    "sv_used": 1,
    "maxwait": 1,
    "maxwait_us": 250000,
}


def test_pools_are_added_up_per_database() -> None:
    row = {
        "name": "wms",
        "host": "h",
        "port": 5000,
        "pool_size": 20,
        "current_connections": 4,
        "paused": 1,
        "disabled": 0,
    }
    pools = tuple(parse_pool({**POOL, "user": user}) for user in "ab")
    empty = PooledDatabase("wms_read", "", 0, 1, 0, False, False)
    busy, idle = sum_pools(pools, (parse_database(row), empty))
    assert (busy.clients_active, busy.clients_waiting, busy.servers_idle, busy.max_wait_ms) == (6, 2, 4, 1250)
    assert busy.paused
    assert (idle.database, idle.clients_active, idle.paused) == ("wms_read", 0, False)


def test_only_a_plain_name_goes_into_a_console_command() -> None:
    with pytest.raises(Usage):
        Console("proxy-1", None)._command("PAUSE", "wms; SHUTDOWN")


def test_wal_positions() -> None:
    assert lsn_bytes("16/B374D848") == 0x16B374D848
    assert lsn_text(lsn_bytes("16/B374D848")) == "16/B374D848"
    with pytest.raises(ValueError, match="WAL position"):
        lsn_bytes("unknown")


def test_a_driver_message_is_cut_to_its_reason() -> None:
    text = (
        'connection failed: connection to server at "1.2.3.4", port 5432 failed: Connection refused\n'
        "\tIs the server running on that host and accepting TCP/IP connections?"
    )
    assert _reason(text) == "Connection refused"
    assert _reason("connection timeout expired") == "connection timeout expired"
