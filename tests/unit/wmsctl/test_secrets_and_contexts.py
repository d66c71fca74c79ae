from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from tests.support import builders
from wmsctl import inventory
from wmsctl.context import Contexts, complete, complete_node, state_directory
from wmsctl.errors import Failed, Refused, Usage
from wmsctl.secrets import Secret, Secrets


@pytest.fixture
def secrets_file(tmp_path: Path) -> Path:
    path = tmp_path / "secrets.json"
    path.write_text(json.dumps({"postgres/ops": "hunter2"}))
    path.chmod(0o600)
    return path


def test_a_secret_shows_itself_only_when_asked(secrets_file: Path) -> None:
    secret = Secrets.load(f"file:{secrets_file}").get("postgres/ops")
    assert secret.reveal() == "hunter2"
    shown = f"{secret} {secret!r} {[secret]} {Secrets({'a': 'hunter2'}, 'x')!r}"
    assert "hunter2" not in shown
    with pytest.raises(TypeError):
        pickle.dumps(Secret("hunter2"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o620])
def test_a_file_that_others_may_touch_is_refused(secrets_file: Path, mode: int) -> None:
    secrets_file.chmod(mode)
    with pytest.raises(Refused) as caught:
        Secrets.load(f"file:{secrets_file}")
    assert str(secrets_file) in caught.value.message
    assert caught.value.hint == f"run: chmod 600 {secrets_file}"


def test_a_missing_secret_is_named(secrets_file: Path) -> None:
    with pytest.raises(Usage, match="redis/admin"):
        Secrets.load(f"file:{secrets_file}").get("redis/admin")


@pytest.mark.parametrize("content", ['["hunter2"]', '{"a": "hunter2"', '{"a": 1, "b": "hunter2"}'])
def test_a_wrong_file_is_an_error_that_shows_no_content(secrets_file: Path, content: str) -> None:
    secrets_file.write_text(content)
    with pytest.raises(Usage) as caught:
        Secrets.load(f"file:{secrets_file}")
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value) + caught.value.hint


def test_other_references_and_missing_files_are_usage_errors(tmp_path: Path) -> None:
    with pytest.raises(Usage, match="vault"):
        Secrets.load("vault:x")
    with pytest.raises(Usage, match="No such file"):
        Secrets.load(f"file:{tmp_path}/none.json")


@pytest.fixture
def contexts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contexts:
    monkeypatch.setenv("WMSCTL_CONFIG", str(tmp_path / "config"))
    monkeypatch.delenv("WMSCTL_CONTEXT", raising=False)
    return Contexts()


def encoded(**changes: object) -> bytes:
    return inventory.encode(builders.inventory(**changes)).encode()


def test_the_first_context_is_chosen_by_itself_the_second_is_not(contexts: Contexts) -> None:
    assert contexts.store(encoded(), "-").current
    assert not contexts.store(encoded(environment="staging"), "-").current
    assert contexts.names() == ["local", "staging"]
    assert contexts.choose().name == "local"
    assert contexts.use("staging").current
    assert contexts.choose().name == "staging"


def test_the_order_of_choice(contexts: Contexts, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two", "three"):
        contexts.store(encoded(), "-", name=name)
    monkeypatch.setenv("WMSCTL_CONTEXT", "two")
    assert contexts.choose().name == "two"
    assert contexts.choose("three").name == "three"


def test_an_unknown_context_lists_the_known(contexts: Contexts) -> None:
    with pytest.raises(Usage, match="there is none") as caught:
        contexts.choose()
    assert "wmsctl context import" in caught.value.hint
    contexts.store(encoded(), "-", name="alpha")
    with pytest.raises(Usage, match="no context 'beta'; there are: alpha"):
        contexts.choose("beta")
    with pytest.raises(Usage):
        contexts.get("../alpha")


def test_a_removed_context_is_forgotten_and_no_longer_chosen(contexts: Contexts, tmp_path: Path) -> None:
    source = tmp_path / "inventory.json"
    source.write_bytes(encoded())
    contexts.store(encoded(), "x", name="gone", link=source)
    contexts.store(encoded(), "x", name="kept")
    contexts.remove("gone")
    assert contexts.names() == ["kept"] and source.exists()
    with pytest.raises(Usage, match="no context is chosen"):
        contexts.choose()
    with pytest.raises(Usage, match="no context 'gone'; there are: kept"):
        contexts.remove("gone")


def test_a_copy_is_private_and_a_link_follows_its_file(contexts: Contexts, tmp_path: Path) -> None:
    source = tmp_path / "inventory.json"
    source.write_bytes(encoded())
    copy = contexts.store(source.read_bytes(), "x", name="copy")
    assert copy.source.stat().st_mode & 0o777 == 0o600
    link = contexts.store(source.read_bytes(), "x", name="link", link=source)
    source.write_bytes(encoded(platform="other"))
    assert contexts.load(contexts.get("copy")).platform == "wms"
    assert contexts.load(link).platform == "other"


def test_a_name_is_not_given_to_another_platform_silently(contexts: Contexts) -> None:
    contexts.store(encoded(), "-", name="prod")
    contexts.store(encoded(), "-", name="prod")
    with pytest.raises(Refused, match="means the platform wms/local, not other/local"):
        contexts.store(encoded(platform="other"), "-", name="prod")
    contexts.store(encoded(platform="other"), "-", name="prod", replace=True)
    assert contexts.load(contexts.get("prod")).platform == "other"


def test_a_wrong_inventory_stores_nothing(contexts: Contexts) -> None:
    with pytest.raises(inventory.InventoryError, match="typo"):
        contexts.store(b'{"version": "wms.inventory/v1", "typo": 1}', "typo.json")
    with pytest.raises(Usage, match="no name for a context"):
        contexts.store(encoded(), "-", name="a/b")
    assert contexts.names() == []


def test_an_unwritable_folder_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Failed) as caught:
        Contexts(tmp_path / "file" / "config").store(encoded(), "-")
    assert "WMSCTL_CONFIG" in caught.value.hint


def test_completion_never_fails(contexts: Contexts) -> None:
    assert complete("") == []
    assert complete_node("") == []
    contexts.store(encoded(), "-")
    assert complete("lo") == ["local"]
    assert complete_node("pg-") == ["pg-1", "pg-2", "pg-3", "pg-4"]


def test_state_is_kept_per_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WMSCTL_STATE", "/s")
    assert state_directory("a") == Path("/s/a")
    monkeypatch.delenv("WMSCTL_STATE")
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert state_directory("a") == Path("/x/wmsctl/a")


def test_inventory_lookups_name_what_exists() -> None:
    whole = builders.inventory()
    assert whole.node("pg-3").role == "postgres"
    assert whole.member("pg-3").replica_role == "reporting"
    with pytest.raises(inventory.InventoryError, match="pg-1, pg-2, pg-3, pg-4"):
        whole.member("etcd-1")
    assert inventory.decode(inventory.encode(whole), "x") == whole
