"""Each rendered file is accepted by the server that is to read it; the same file with a wrong line is not."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from stacks import spec
from stacks.engines import pgbackrest
from tests.support.sandbox import Sandbox, sandbox

CHECKS = {
    "proxy-1/haproxy": ("haproxy.cfg", ("/usr/sbin/haproxy", "-c", "-f", "haproxy.cfg")),
    "edge-1/edge-tls": ("haproxy.cfg", ("/usr/sbin/haproxy", "-c", "-f", "haproxy.cfg")),
    "gateway-1/nginx": (
        "nginx.conf",
        ("/usr/sbin/nginx", "-e", "stderr", "-p", ".", "-c", "{folder}/nginx.conf", "-t"),
    ),
    "edge-1/varnish": (
        "default.vcl",
        ("/usr/sbin/varnishd", "-C", "-n", "{folder}/check", "-f", "{folder}/default.vcl"),
    ),
    "monitor-1/prometheus": ("prometheus.yml", ("/usr/bin/promtool", "check", "config", "prometheus.yml")),
    "monitor-1/alertmanager": ("alertmanager.yml", ("/usr/bin/amtool", "check-config", "alertmanager.yml")),
    "monitor-1/blackbox-exporter": (
        "blackbox.yml",
        ("/usr/bin/prometheus-blackbox-exporter", "--config.check", "--config.file=blackbox.yml"),
    ),
}
"""Process → (the file to spoil, the command that checks it)."""

STARTED = {
    "etcd-1/etcd": "etcd.yml",
    "proxy-1/pgbouncer": "pgbouncer.ini",
    "pg-1/pgbackrest": "pgbackrest.conf",
    "redis-1/redis": "redis.conf",
    "monitor-1/redis-exporter": "",
    "monitor-1/node-exporter": "",
    "pg-1/postgres-exporter": "",
    "gateway-1/nginx-exporter": "",
}
"""Servers that check their file only by starting → the file to spoil, where they have one."""


@pytest.fixture(scope="module")
def home() -> Iterator[Sandbox]:
    # A network of its own, so that test runs side by side do not meet.
    with sandbox(spec.load("local", {"network": f"127.{100 + os.getpid() % 100}"})) as made:
        yield made


@pytest.mark.parametrize("key", CHECKS)
def test_the_server_accepts_its_file(home: Sandbox, key: str) -> None:
    done = _check(home, key)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("key", CHECKS)
def test_the_server_refuses_a_wrong_line(home: Sandbox, key: str) -> None:
    with _spoilt(home, key, CHECKS[key][0]):
        assert _check(home, key).returncode != 0


@pytest.mark.parametrize("key", STARTED)
def test_the_server_starts_and_answers(home: Sandbox, key: str) -> None:
    # The nginx exporter asks its nginx before it listens.
    with home.started("gateway-1/nginx") if key.startswith("gateway") else _nothing(), home.started(key):
        home.wait(key)


@pytest.mark.parametrize("key", [key for key, name in STARTED.items() if name])
def test_the_server_does_not_start_with_a_wrong_line(home: Sandbox, key: str) -> None:
    with _spoilt(home, key, STARTED[key]):
        done = home.run(key, *home.processes[key].command, timeout=20)
        assert done.returncode != 0


def test_patroni_accepts_its_file(home: Sandbox) -> None:
    """Patroni's validation also asks the store, so that must be there."""
    stores = [key for key in home.processes if key.endswith("/etcd")]
    command = (home.site.python, "-m", "patroni", "--validate-config", "patroni.yml")
    with home.started(*stores):
        for store in stores:
            home.wait(store)
        done = home.run("pg-2/patroni", *command)
        assert done.returncode == 0, done.stdout
        path = home.folder("pg-2/patroni") / "patroni.yml"
        whole = path.read_text()
        path.write_text(whole.replace("data_dir:", "data_directory:"))
        try:
            assert home.run("pg-2/patroni", *command).returncode != 0
        finally:
            path.write_text(whole)


@pytest.mark.parametrize("name", [pgbackrest.CONFIG, pgbackrest.ARCHIVE_CONFIG, pgbackrest.LONG_TERM_CONFIG])
def test_pgbackrest_knows_every_line_of_its_files(home: Sandbox, name: str) -> None:
    """Every command reads the whole file; of an option that it does not know it only warns. `start` asks no server."""
    path = home.folder("pg-1/pgbackrest") / name

    def start() -> str:
        command = (pgbackrest.PROGRAM, f"--config={path}", "--stanza=wms", "start")
        done = home.run("pg-1/pgbackrest", *command)
        assert done.returncode == 0, done.stdout
        return done.stdout

    assert [line for line in start().splitlines() if "stop file does not exist" not in line] == []
    whole = path.read_text()
    path.write_text(whole.replace("start-fast=", "start-quick="))
    try:
        assert "WARN: configuration file contains invalid option 'start-quick'" in start()
    finally:
        path.write_text(whole)


def test_the_reload_script_of_varnish_is_shell(home: Sandbox) -> None:
    done = home.run("edge-1/varnish", "/bin/sh", "-n", "reload.sh")
    assert done.returncode == 0, done.stdout


def _check(home: Sandbox, key: str) -> subprocess.CompletedProcess[str]:
    return home.run(key, *(part.format(folder=home.folder(key)) for part in CHECKS[key][1]))


@contextlib.contextmanager
def _spoilt(home: Sandbox, key: str, name: str) -> Iterator[None]:
    path = home.folder(key) / name
    whole = path.read_text()
    path.write_text(f"no-such-setting: {{\n{whole}")
    try:
        yield
    finally:
        path.write_text(whole)


@contextlib.contextmanager
def _nothing() -> Iterator[None]:
    yield
