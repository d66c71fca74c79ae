"""The provider's resource types for stores, against real servers of this machine on loopback addresses of
their own.

Handlers are called directly: what Pulumi adds is tested in test_provider.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from stacks.local.provider import patroni, rediscluster
from stacks.local.provider.accounts import service
from stacks.local.provider.errors import ProviderError
from stacks.local.provider.handler import Handler
from stacks.local.provider.handlers.bucket import BucketHandler
from stacks.local.provider.handlers.database import DatabaseHandler
from stacks.local.provider.handlers.database_extension import DatabaseExtensionHandler
from stacks.local.provider.handlers.database_role import DatabaseRoleHandler
from stacks.local.provider.handlers.database_script import DatabaseScriptHandler
from stacks.local.provider.handlers.etcd_auth import EtcdAuthHandler
from stacks.local.provider.handlers.patroni_config import PatroniConfigHandler
from stacks.local.provider.handlers.redis_cluster import RedisClusterHandler
from stacks.local.provider.leadership import Leader, leads, relieve
from stacks.local.provider.supervision import become
from stacks.local.provider.values import Values
from toolchain.env import process_environment

ACCOUNT = service("wms-platform" if os.geteuid() == 0 else "")
NETWORK = "127.41.78"
POSTGRES = Path("/usr/lib/postgresql/15/bin")
ROOT_PASSWORD = "rootroot-of-etcd"

pytestmark = pytest.mark.live


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that belongs to the service user."""
    made = Path(tempfile.mkdtemp(prefix="wms-stores-", dir="/var/tmp"))
    os.chown(made, ACCOUNT.uid, ACCOUNT.gid)
    made.chmod(0o755)
    try:
        yield made
    finally:
        shutil.rmtree(made)


@contextmanager
def server(
    command: list[str], folder: Path, ready: Callable[[], object], environment: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server as the service user in `folder` until the block ends; `ready` raises or is false before it
    is up.
    """
    with (folder / "log").open("wb") as log:
        child = subprocess.Popen(
            [*become(ACCOUNT), *command],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(folder), **(environment or {})},
        )
    try:
        wait(ready, f"{command[0]}: see {folder}/log", child)
        yield child
    finally:
        child.terminate()
        try:
            child.wait(15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait(5)


def wait(
    ready: Callable[[], object], what: str, child: subprocess.Popen[bytes] | None = None, seconds: float = 60
) -> None:
    """Until `ready` returns something true."""
    limit = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except Exception as error:
            if time.monotonic() > limit:
                raise AssertionError(what) from error
        assert child is None or child.poll() is None, f"{what} ended"
        assert time.monotonic() < limit, what
        time.sleep(0.1)


def subfolder(folder: Path, name: str) -> Path:
    """A folder of the service user."""
    made = folder / name
    made.mkdir(mode=0o700)
    os.chown(made, ACCOUNT.uid, ACCOUNT.gid)
    return made


def answers(address: str, port: int) -> bool:
    """Whether something listens."""
    import socket

    socket.create_connection((address, port), 1).close()
    return True


def look(handler: Handler[Any], identity: str, state: Values) -> Values:
    """read, of a resource that is there."""
    found = handler.read(identity, state)
    assert found is not None, f"{identity} is gone"
    return found


def create(handler: Handler[Any], inputs: Values) -> tuple[str, Values]:
    """check and create, as the engine does."""
    filled, problems = handler.check(inputs)
    assert problems == []
    return handler.create("test", filled)


def filled(handler: Handler[Any], inputs: Values) -> Values:
    """Inputs with their defaults."""
    return handler.check(inputs)[0]


# -- PostgreSQL --


@pytest.fixture(scope="module")
def connection(folder: Path) -> Iterator[Values]:
    place = subfolder(folder, "postgres")
    address = f"{NETWORK}.10"
    secret = place / "password"
    secret.write_text("superuser-password\n", encoding="utf-8")
    secret.chmod(0o644)
    subprocess.run(
        [*become(ACCOUNT), str(POSTGRES / "initdb"), "-D", str(place / "data"), "-U", "postgres",
         "-A", "scram-sha-256", "--pwfile", str(secret), "--no-sync"],
        cwd=place, check=True, capture_output=True,
    )  # fmt: skip
    options = [
        "-c",
        f"listen_addresses={address}",
        "-c",
        f"unix_socket_directories={place}",
        "-c",
        "fsync=off",
    ]
    command = [str(POSTGRES / "postgres"), "-D", str(place / "data"), *options, "-c", "log_statement=all"]
    with server(command, place, lambda: answers(address, 5432)):
        yield {"host": address, "port": 5432, "user": "postgres", "password": "superuser-password"}


def sql(connection: Values, statement: str, **other: str) -> list[tuple[Any, ...]]:
    """Run one statement."""
    import psycopg

    with psycopg.connect(**{**connection, "dbname": "postgres", **other}, autocommit=True) as database:
        cursor = database.execute(statement)
        return cursor.fetchall() if cursor.description else []


def test_role_is_made_watched_changed_and_dropped(connection: Values, folder: Path) -> None:
    handler = DatabaseRoleHandler()
    inputs = filled(
        handler,
        {
            "connection": connection,
            "name": "wms_app",
            "password": "clear-password-1",
            "member_of": ["pg_monitor"],
            "options": {"connection_limit": 7},
            "settings": {"lock_timeout": "5s", "search_path": "wms, public"},
        },
    )
    identity, state = create(handler, inputs)
    assert sql({**connection, "user": "wms_app", "password": "clear-password-1"}, "SHOW search_path") == [
        ("wms, public",)
    ]
    assert "clear-password-1" not in (folder / "postgres/log").read_text(encoding="utf-8", errors="replace")
    assert not handler.diff(state, inputs)
    again = look(handler, identity, state)
    assert not handler.diff(again, inputs), handler.diff(again, inputs)

    sql(connection, "ALTER ROLE wms_app BYPASSRLS CONNECTION LIMIT 9")
    sql(connection, "ALTER ROLE wms_app SET lock_timeout = '1min'")
    sql(connection, "ALTER ROLE wms_app SET work_mem = '1GB'")
    sql(connection, "REVOKE pg_monitor FROM wms_app")
    sql(connection, "ALTER ROLE wms_app PASSWORD 'somebody-elses'")
    seen = look(handler, identity, state)
    assert set(handler.diff(seen, inputs).changes) == {
        "options.bypassrls",
        "options.connection_limit",
        "settings.lock_timeout",
        "settings.work_mem",
        "member_of[0]",
        "state",
    }
    state = handler.update(identity, seen, inputs)
    repaired = look(handler, identity, state)
    assert not handler.diff(repaired, inputs)

    rotated = {**inputs, "password": "clear-password-2"}
    state = handler.update(identity, state, rotated)
    assert sql({**connection, "user": "wms_app", "password": "clear-password-2"}, "SELECT 1") == [(1,)]

    sql(connection, "GRANT SELECT ON pg_class TO wms_app")
    handler.delete(identity, state)
    assert sql(connection, "SELECT 1 FROM pg_roles WHERE rolname = 'wms_app'") == []
    handler.delete(identity, state)


def test_role_that_owns_something_is_not_dropped(connection: Values) -> None:
    handler = DatabaseRoleHandler()
    identity, state = create(handler, {"connection": connection, "name": "holder"})
    sql(connection, "CREATE TABLE held (); ")
    sql(connection, "ALTER TABLE held OWNER TO holder")
    with pytest.raises(ProviderError, match="owns objects in postgres"):
        handler.delete(identity, state)
    sql(connection, "DROP TABLE held")
    handler.delete(identity, state)


def test_database_extension_and_script(connection: Values) -> None:
    role, database = DatabaseRoleHandler(), DatabaseHandler()
    _, owner = create(role, {"connection": connection, "name": "wms_owner"})
    identity, made = create(database, {"connection": connection, "name": "wms", "owner": "wms_owner"})
    inside = {**connection, "dbname": "wms"}

    extension = DatabaseExtensionHandler()
    wanted = filled(extension, {"connection": inside, "name": "pg_trgm", "schema": "search"})
    extension_id, installed = create(extension, wanted)
    assert sql(connection, "SELECT similarity('a', 'a')", dbname="wms", options="-c search_path=search") == [
        (1.0,)
    ]
    sql(connection, "ALTER EXTENSION pg_trgm SET SCHEMA public", dbname="wms")
    seen = look(extension, extension_id, installed)
    assert list(extension.diff(seen, wanted).changes) == ["schema"]
    extension.update(extension_id, seen, wanted)
    sql(connection, "DROP EXTENSION pg_trgm", dbname="wms")
    assert extension.read(extension_id, installed) is None

    script = DatabaseScriptHandler()
    text = (
        "CREATE SCHEMA IF NOT EXISTS ops;"
        "CREATE OR REPLACE FUNCTION ops.two() RETURNS int LANGUAGE sql AS 'SELECT 2';"
    )
    run = filled(
        script,
        {
            "connection": inside,
            "sql": text,
            "check_sql": "SELECT to_regproc('ops.two') IS NOT NULL",
            "drop_sql": "DROP SCHEMA IF EXISTS ops CASCADE",
        },
    )
    script_id, applied = create(script, run)
    sql(connection, "DROP FUNCTION ops.two()", dbname="wms")
    seen = look(script, script_id, applied)
    assert list(script.diff(seen, run).changes) == ["state"]
    script.update(script_id, seen, run)
    assert sql(connection, "SELECT ops.two()", dbname="wms") == [(2,)]
    with pytest.raises(ProviderError, match='relation "nowhere" does not exist') as caught:
        create(script, {"connection": inside, "sql": "SELECT 'hidden-word' FROM nowhere"})
    assert "hidden-word" not in str(caught.value)
    script.delete(script_id, applied)

    sql(connection, "ALTER DATABASE wms OWNER TO postgres")
    seen = look(database, identity, made)
    assert seen["owner"] == "postgres"
    database.delete(identity, made)
    assert database.read(identity, made) is None
    assert script.read(script_id, applied) is None
    assert extension.read(extension_id, installed) is None
    script.delete(script_id, applied)
    extension.delete(extension_id, installed)
    role.delete("wms_owner", owner)


def test_a_server_that_is_away_is_drift_and_no_obstacle_to_a_delete() -> None:
    away = {"host": f"{NETWORK}.99", "port": 5432, "user": "postgres", "password": "irrelevant"}
    handler = DatabaseRoleHandler()
    state = {**filled(handler, {"connection": away, "name": "gone"}), "state": "present"}
    seen = look(handler, "gone", state)
    assert seen["state"] == "unreachable"
    assert list(handler.diff(seen, filled(handler, {"connection": away, "name": "gone"})).changes) == [
        "state"
    ]
    handler.delete("gone", state)


def test_a_wrong_password_is_told_at_once(connection: Values) -> None:
    wrong = {**connection, "password": "not-that-one"}
    begun = time.monotonic()
    with pytest.raises(ProviderError, match="refuses the password of postgres") as caught:
        create(DatabaseRoleHandler(), {"connection": wrong, "name": "nobody"})
    assert time.monotonic() - begun < 5
    assert "not-that-one" not in str(caught.value)


# -- etcd and Patroni --


@pytest.fixture(scope="module")
def etcd(folder: Path) -> Iterator[str]:
    place, address = subfolder(folder, "etcd"), f"{NETWORK}.20"
    client, peer = f"http://{address}:2379", f"http://{address}:2380"
    command = [
        "etcd", "--name", "one", "--data-dir", str(place / "data"), "--listen-client-urls", client,
        "--advertise-client-urls", client, "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer,
        "--initial-cluster", f"one={peer}", "--unsafe-no-fsync",
    ]  # fmt: skip
    with server(command, place, lambda: answers(address, 2379), {"ETCD_UNSUPPORTED_ARCH": ""}):
        yield client


def store_inputs(etcd: str, **changes: Any) -> Values:
    base = {
        "endpoints": ["http://127.41.78.98:2379", etcd],
        "root_password": ROOT_PASSWORD,
        "user": "patroni",
        "password": "patroni-in-etcd",
        "prefix": "/service/",
    }
    return filled(EtcdAuthHandler(), {**base, **changes})


def test_etcd_authentication(etcd: str) -> None:
    handler = EtcdAuthHandler()
    inputs = store_inputs(etcd)
    identity, state = create(handler, inputs)
    seen = look(handler, identity, state)
    assert not handler.diff(seen, inputs), seen
    create(handler, inputs)  # a create that was killed after its work is repeated

    rotated = store_inputs(etcd, root_password="another-root-password", password="another-for-patroni")
    seen = look(handler, identity, {**rotated, "state": "enabled"})
    assert seen["state"] == "password changed"
    state = handler.update(identity, state, rotated)
    seen = look(handler, identity, state)
    assert seen["state"] == "enabled"
    with pytest.raises(ProviderError, match="refuses the password of root") as caught:
        handler.update(identity, inputs, inputs)
    assert ROOT_PASSWORD not in str(caught.value)

    handler.delete(identity, state)
    seen = look(handler, identity, state)
    assert seen["state"] == "disabled"


@pytest.fixture(scope="module")
def members(folder: Path, etcd: str) -> Iterator[list[str]]:
    """Two Patroni members, synchronous; yields their REST URLs."""
    with ExitStack() as stack:
        urls = []
        for index in (1, 2):
            place, address = subfolder(folder, f"pg-{index}"), f"{NETWORK}.3{index}"
            urls.append(f"http://{address}:8008")
            config = {
                "scope": "live",
                "namespace": "/patroni-test/",
                "name": f"pg-{index}",
                "restapi": {
                    "listen": f"{address}:8008",
                    "connect_address": f"{address}:8008",
                    "authentication": {"username": "patroni", "password": "rest-password"},
                },
                "etcd3": {"hosts": [etcd.removeprefix("http://")]},
                "bootstrap": {
                    "dcs": {"ttl": 20, "loop_wait": 1, "retry_timeout": 5, "synchronous_mode": True},
                    "initdb": [{"auth-host": "trust"}, {"auth-local": "trust"}, "no-sync", "data-checksums"],
                },
                "postgresql": {
                    "listen": f"{address}:5432",
                    "connect_address": f"{address}:5432",
                    "data_dir": str(place / "data"),
                    "bin_dir": str(POSTGRES),
                    "use_unix_socket": True,
                    "pg_hba": [
                        "local all all trust",
                        "host all all 127.0.0.0/8 trust",
                        "host replication all 127.0.0.0/8 trust",
                    ],
                    "parameters": {"unix_socket_directories": str(place), "fsync": "off"},
                    "authentication": {
                        "superuser": {"username": "postgres"},
                        "replication": {"username": "postgres"},
                    },
                },
            }
            path = place / "patroni.yml"
            path.write_text(yaml.safe_dump(config), encoding="utf-8")
            path.chmod(0o644)
            url = urls[-1]
            command = [process_environment()["WMS_PYTHON"], "-m", "patroni", str(path)]
            stack.enter_context(server(command, place, lambda url=url: runs(url)))  # type: ignore[misc]
        access = patroni.Access(tuple(urls))
        wait(lambda: patroni.candidate(patroni.view(access), leader_name(access)), "a synchronous standby")
        yield urls


def runs(url: str) -> bool:
    """Whether that member's PostgreSQL serves."""
    import urllib.request

    with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:
        return bool(answer.status == 200)


def leader_name(access: patroni.Access) -> str:
    """The leader; "" while there is none."""
    found = patroni.view(access).leader
    return found.name if found else ""


def test_patroni_configuration(members: list[str]) -> None:
    handler = PatroniConfigHandler()
    login = {"urls": members, "user": "patroni", "password": "rest-password"}
    first = filled(
        handler,
        {
            **login,
            "config": {
                "loop_wait": 1,
                "postgresql": {"parameters": {"work_mem": "8MB", "max_connections": 90}},
            },
        },
    )
    identity, state = create(handler, first)
    access = patroni.Access(tuple(members), user="patroni", password="rest-password")
    assert not [m.name for m in patroni.view(access).members if m.pending_restart]
    assert sql({"host": f"{NETWORK}.31", "port": 5432, "user": "postgres"}, "SHOW max_connections") == [
        ("90",)
    ]
    assert sql({"host": f"{NETWORK}.32", "port": 5432, "user": "postgres"}, "SHOW max_connections") == [
        ("90",)
    ]
    seen = look(handler, identity, state)
    assert not handler.diff(seen, first), handler.diff(seen, first)

    access.ask("PATCH", "/config", {"postgresql": {"parameters": {"work_mem": "64MB"}}})
    # A member answers from what it knew in its last turn.
    drifted = ["config.postgresql.parameters.work_mem"]
    wait(
        lambda: list(handler.diff(look(handler, identity, state), first).changes) == drifted,
        "the drift of work_mem",
    )
    seen = look(handler, identity, state)

    second = filled(
        handler, {**login, "config": {"loop_wait": 1, "postgresql": {"parameters": {"max_connections": 90}}}}
    )
    handler.update(identity, seen, second)
    wait(
        lambda: "work_mem" not in access.ask("GET", "/config").body["postgresql"]["parameters"],
        "the removal of what the stack no longer manages",
    )

    access.ask("PATCH", "/config", {"pause": True})
    wait(lambda: access.ask("GET", "/config").body.get("pause"), "the pause")
    with pytest.raises(ProviderError, match="Patroni is paused"):
        handler.update(identity, state, second)
    access.ask("PATCH", "/config", {"pause": None})


def test_the_leader_is_relieved_before_its_restart(members: list[str]) -> None:
    access = patroni.Access(tuple(members))
    wait(lambda: patroni.candidate(patroni.view(access), leader_name(access)), "a synchronous standby")
    name = leader_name(access)
    url = members[int(name[-1]) - 1]
    leader = Leader(kind="patroni", url=url, user="patroni", password="rest-password")
    assert leads(leader, name)
    relieve(leader, name)
    assert not leads(leader, name)
    assert leader_name(access) not in ("", name)


# -- Redis --


@pytest.fixture(scope="module")
def redis_places(folder: Path) -> Iterator[list[tuple[str, int]]]:
    with ExitStack() as stack:
        places = []
        for index in range(1, 7):
            place, address = subfolder(folder, f"redis-{index}"), f"{NETWORK}.4{index}"
            config = place / "redis.conf"
            config.write_text(
                # Without a source address of its own a node is taken for 127.0.0.1 by those it meets.
                f"bind {address}\nbind-source-addr {address}\nport 6379\ndir {place}\nsave ''\n"
                "cluster-enabled yes\ncluster-node-timeout 2000\n"
                "user default off\nuser admin on >redis-admin-password ~* &* +@all\n"
                "masteruser admin\nmasterauth redis-admin-password\n",
                encoding="utf-8",
            )
            config.chmod(0o644)
            stack.enter_context(
                server(["redis-server", str(config)], place, lambda address=address: answers(address, 6379))  # type: ignore[misc]
            )
            places.append((address, 6379))
        yield places


def test_redis_cluster_is_formed_finished_and_watched(redis_places: list[tuple[str, int]]) -> None:
    handler = RedisClusterHandler()
    nodes = [
        {"address": address, "port": port, "zone": "abc"[index % 3]}
        for index, (address, port) in enumerate(redis_places)
    ]
    inputs = filled(handler, {"nodes": nodes, "user": "admin", "password": "redis-admin-password"})
    access = rediscluster.Access("admin", "redis-admin-password")
    # Half formed: two nodes have met, and one owns a few slots.
    access.ask(redis_places[0], "CLUSTER", "MEET", *redis_places[3])
    access.ask(redis_places[0], "CLUSTER", "ADDSLOTSRANGE", 0, 99)

    identity, state = create(handler, inputs)
    view = rediscluster.view(access, redis_places[0])
    assert sum(node.is_master for node in view) == 3
    zones = {(node["address"], node["port"]): node["zone"] for node in nodes}
    owners = {node.id: node.place for node in view if node.is_master}
    assert all(zones[node.place] != zones[owners[node.master]] for node in view if node.master)
    seen = look(handler, identity, state)
    assert not handler.diff(seen, inputs), seen
    create(handler, inputs)

    # A replica was lost with its folder and comes back empty: the same address, another id.
    replica = next(node for node in view if node.master)
    access.ask(replica.place, "CLUSTER", "RESET", "HARD")
    seen = look(handler, identity, state)
    assert handler.diff(seen, inputs), "a lost replica is not seen"
    state = handler.update(identity, seen, inputs)
    seen = look(handler, identity, state)
    assert seen["state"] == "ok"

    # A planned restart of a master first hands its slots to its replica.
    master = next(node for node in rediscluster.view(access, redis_places[0]) if node.is_master)
    leader = Leader(
        kind="redis",
        address=master.place[0],
        port=master.place[1],
        user="admin",
        password="redis-admin-password",
    )
    assert leads(leader, "any")
    relieve(leader, "any")
    assert not leads(leader, "any")


# -- S3 --


@pytest.fixture(scope="module")
def s3(folder: Path) -> Iterator[Values]:
    place, address = subfolder(folder, "s3"), f"{NETWORK}.50"
    subfolder(place, "data")
    gateway = shutil.which("versitygw") or next(
        iter(map(str, Path("/var/cache/wms-platform/tools").glob("versitygw*/versitygw"))), ""
    )
    assert gateway, "the S3 gateway is not installed: make toolchain"
    keys = {"ROOT_ACCESS_KEY": "access", "ROOT_SECRET_KEY": "secret-of-the-store"}
    command = [gateway, "--port", f"{address}:7070", "posix", str(place / "data")]
    with server(command, place, lambda: answers(address, 7070), keys):
        yield {
            "endpoint": f"http://{address}:7070",
            "access_key": "access",
            "secret_key": "secret-of-the-store",
        }


def test_bucket(s3: Values) -> None:
    handler = BucketHandler()
    inputs = filled(handler, {**s3, "name": "backups"})
    identity, state = create(handler, inputs)
    create(handler, inputs)
    assert handler.read(identity, state) == state

    import boto3

    client = boto3.client(
        "s3",
        endpoint_url=s3["endpoint"],
        aws_access_key_id="access",
        aws_secret_access_key="secret-of-the-store",
        region_name="us-east-1",
    )
    client.put_object(Bucket="backups", Key="a/b", Body=b"x")
    with pytest.raises(ProviderError, match="holds objects and is not deleted"):
        handler.delete(identity, state)
    handler.delete(identity, {**state, "force_destroy": True})
    assert handler.read(identity, state) is None
    handler.delete(identity, state)
    # A store that is gone, as after a reboot, does not hold up the removal of the stack.
    handler.delete(identity, {**state, "endpoint": f"https://{NETWORK}.99:9"})

    with pytest.raises(ProviderError, match="refuses") as caught:
        create(handler, {**s3, "name": "backups", "secret_key": "a-wrong-secret-key"})
    assert "a-wrong-secret-key" not in str(caught.value)
