"""Settings: a wrong variable is named with what was found and what is allowed; no password is shown."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from wms import settings
from wms.settings import SettingsError, load, load_owner

ROOT = Path(__file__).resolve().parents[3]
LEAST = {"WMS_DB_PASSWORD": "secret-word", "WMS_WORKER_PASSWORD": "other-word", "WMS_DB_SSLMODE": "disable"}


def wrong(**variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        load(LEAST | variables)
    return str(caught.value)


def test_the_defaults_need_only_passwords_and_a_ca(tmp_path: Path) -> None:
    (tmp_path / "ca.crt").touch()
    passwords = {"WMS_DB_PASSWORD": "x", "WMS_WORKER_PASSWORD": "y"}
    found = load({**passwords, "WMS_DB_CA": str(tmp_path / "ca.crt"), "WMS_NODE": "app-1"})
    assert found.instance == "app-1"
    app, worker = found.app, found.worker
    assert app.database.sslmode == "verify-ca"
    assert app.database.hosts == (("127.0.0.1", 6432),)
    assert (app.database.user, app.read_name, app.write_name) == ("wms_app", "wms_read", "wms")
    assert (worker.read_name, worker.write_name) == ("wms_worker_read", "wms_worker")
    assert worker.database == replace(app.database, user="wms_worker", password="y")


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("WMS_BIND_PORT", "80x", "a whole number from 1 to 65535"),
        ("WMS_BIND_PORT", "0", "a whole number from 1 to 65535"),
        ("WMS_BIND_PORT", "1_0", "a whole number"),
        ("WMS_DB_WRITE_POOL", "-3", "a whole number from 1 to 200"),
        ("WMS_WORKER_POOL", "21", "a whole number from 1 to 20"),
        ("WMS_DB_HOSTS", "a:1,b:99999", "host or host:port"),
        ("WMS_DB_HOSTS", ",", "host or host:port"),
        ("WMS_DB_SSLMODE", "prefer", "disable, require, verify-ca, verify-full"),
        ("WMS_ACCESS_LOG", "some", "all, errors, off"),
        ("WMS_TLS_CERT", "/nowhere/x.pem", "the path of a readable file"),
        ("WMS_WRITE_ATTEMPT_MS", "6000", "a whole number from 50 to 5000"),
    ],
)
def test_a_wrong_value_names_variable_found_and_allowed(name: str, value: str, allowed: str) -> None:
    text = wrong(**{name: value})
    assert text.startswith(f"{name}: found ")
    assert f"allowed: {allowed}" in text


def test_all_wrong_values_are_told_at_once() -> None:
    text = wrong(WMS_BIND_PORT="x", WMS_DB_PASSWORD="", WMS_WORKER_PASSWORD="", WMS_DB_SSLMODE="verify-ca")
    assert {line.partition(":")[0] for line in text.splitlines()} == {
        "WMS_BIND_PORT",
        "WMS_DB_PASSWORD",
        "WMS_WORKER_PASSWORD",
        "WMS_DB_CA",
    }


def test_a_certificate_needs_its_key(tmp_path: Path) -> None:
    (tmp_path / "c.pem").touch()
    assert "WMS_TLS_CERT and WMS_TLS_KEY together" in wrong(WMS_TLS_CERT=str(tmp_path / "c.pem"))


def test_a_short_deadline_shortens_its_attempts() -> None:
    assert load(LEAST | {"WMS_WRITE_DEADLINE_MS": "1000"}).write_attempt_s == 1.0


def test_passwords_are_in_no_text() -> None:
    assert "secret-word" not in repr(load(LEAST))
    assert "secret-word" not in repr(load_owner(LEAST | {"WMS_OWNER_PASSWORD": "secret-word"}))
    assert "secret-word" not in wrong(WMS_BIND_PORT="x")


def test_every_variable_read_is_documented_and_every_documented_one_read() -> None:
    source = Path(settings.__file__).read_text()
    documented = set(re.findall(r"^    (WMS_[A-Z_]+) ", settings.__doc__ or "", re.MULTILINE))
    code = source.split('"""', 2)[2]
    assert documented == set(re.findall(r'"(WMS_[A-Z_]+)"', code)) - {"WMS_NODE"}


@pytest.mark.parametrize("module", ["wms.serve", "wms.migrations", "wms.seed"])
def test_wrong_settings_end_with_exit_code_2(module: str) -> None:
    arguments = ["up"] if module == "wms.migrations" else []
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "WMS_DB_SSLMODE": "maybe"},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 2
    assert "WMS_DB_SSLMODE: found 'maybe'" in done.stderr
    assert "Traceback" not in done.stderr
