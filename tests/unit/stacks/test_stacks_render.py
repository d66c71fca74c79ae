"""Rendered text and the markers in it that stand for secrets."""

from __future__ import annotations

import hashlib

import jinja2
import pytest

from stacks import engines, render, spec
from stacks.render import TEMPLATES, fingerprint, keeping, nothing, reveal, secret, secret_sha256, secrets_in
from tests.stacks.golden import SITE

PROCESSES = engines.processes(spec.load("local"), SITE)
TEXTS = {
    f"{process.key}: {name}": text
    for process in PROCESSES
    for name, text in (*process.files.items(), *process.environment.items())
}
NAMES = sorted({name for text in TEXTS.values() for name in secrets_in(text)})


def test_a_marker_becomes_the_value_and_the_rest_stays() -> None:
    text = f'user "{secret("postgres/app")}" #{secret_sha256("redis/app")} $HOME ${{other}}'
    assert secrets_in(text) == {"postgres/app", "redis/app"}
    found = reveal(text, {"postgres/app": "p", "redis/app": "r", "unused": "u"})
    assert found == f'user "p" #{hashlib.sha256(b"r").hexdigest()} $HOME ${{other}}'


def test_the_same_secret_is_put_everywhere() -> None:
    assert reveal(f"{secret('a')}{secret('a')}-{secret('b')}", {"a": "1", "b": "2"}) == "11-2"


def test_text_without_a_marker_needs_no_value() -> None:
    assert reveal("$secret ${secret} {secret:a}", {}) == "$secret ${secret} {secret:a}"


def test_an_unknown_secret_is_named_and_nothing_is_guessed() -> None:
    with pytest.raises(KeyError, match="postgres/app"):
        reveal(f"{secret('postgres/owner')} {secret('postgres/app')}", {"postgres/owner": "x"})


def test_a_value_that_looks_like_a_marker_is_not_looked_into() -> None:
    """Else whoever chooses one password could read another out of a configuration file."""
    assert reveal(secret("a"), {"a": secret("b"), "b": "hidden"}) == secret("b")


@pytest.mark.parametrize("value", ["\\1", "\\g<0>", "a\\b", "$1", "&", "{{ x }}", "q\"uo'te", "ü€"])
def test_no_character_of_a_value_is_special(value: str) -> None:
    assert reveal(f"<{secret('a')}>", {"a": value}) == f"<{value}>"


def test_a_marker_within_a_marker_refers_to_the_inner_one_only() -> None:
    assert secrets_in("${secret:${secret:a}}") == {"a"}


@pytest.mark.parametrize("name", ["Postgres/app", "redis-admin", "", "a b", "a}b", "a\n"])
@pytest.mark.parametrize("marker", [secret, secret_sha256], ids=["clear", "hash"])
def test_a_name_that_no_marker_can_hold_is_refused(marker: object, name: str) -> None:
    """Its marker would be overlooked, and stand in a server's configuration as the password."""
    assert callable(marker)
    with pytest.raises(ValueError, match="secret"):
        marker(name)


@pytest.mark.parametrize("key", sorted(TEXTS))
def test_no_marker_is_left_in_what_a_server_reads(key: str) -> None:
    values = {name: f"value-of-{name}" for name in NAMES}
    clear = reveal(TEXTS[key], values)
    assert "${secret" not in clear
    assert "secret(" not in clear, "a call outside of the template's braces"
    assert "{%" not in clear


def test_no_text_holds_a_password_by_itself() -> None:
    """What is rendered is kept in plain sight: each place for a password is a marker."""
    assert len(NAMES) > 12
    for key, text in TEXTS.items():
        for name in secrets_in(text):
            changed = reveal(text, {n: "x" if n == name else "y" for n in NAMES})
            assert changed != reveal(text, dict.fromkeys(NAMES, "y")), f"{key}: {name}"


def test_no_secret_is_among_the_arguments_of_a_process() -> None:
    for process in PROCESSES:
        for part in (*process.command, *process.reload_command, *process.probe.command, process.probe.path):
            assert "${secret" not in part, process.key


def test_every_process_is_complete() -> None:
    keys = [process.key for process in PROCESSES]
    assert len(set(keys)) == len(keys)
    for process in PROCESSES:
        assert process.command[0].startswith("/"), process.key
        assert process.probe.kind in ("tcp", "http", "exec"), process.key
        assert process.probe.timeout_s > 0, process.key
        assert not (process.reload_signal and process.reload_command), process.key
        assert all(not name.startswith(("/", "..")) for name in process.files), process.key


def test_servers_of_one_kind_are_restarted_in_turn() -> None:
    for process in PROCESSES:
        peers = [p for p in PROCESSES if p.name == process.name]
        # A scrape that fails while all exporters restart is no outage.
        if len(peers) > 1 and not process.name.endswith("-exporter"):
            assert {p.rollout for p in peers} == {process.rollout}, process.key
            assert process.rollout, process.key


def test_every_template_is_used() -> None:
    used = "\n".join(path.read_text() for path in (TEMPLATES.parent / "engines").glob("*.py"))
    assert [path.name for path in sorted(TEMPLATES.glob("*.j2")) if path.name not in used] == []


def test_a_template_with_a_hole_is_refused() -> None:
    with pytest.raises(jinja2.UndefinedError):
        render.template("etcd.yml.j2")


def test_an_unknown_template_is_refused() -> None:
    with pytest.raises(jinja2.TemplateNotFound, match=r"no-such\.j2"):
        render.template("no-such.j2")


def test_a_fingerprint_is_stable_short_and_sensitive() -> None:
    assert fingerprint("a") == fingerprint("a")
    assert fingerprint("a") != fingerprint("a ")
    assert len(fingerprint("x" * 10**6)) == 16


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("port 6379\nmaxmemory 1\n", "port 6379"),
        ("  port = 1\nports 2\n#port 3\n", "  port = 1"),
        ("maxmemory 1\n", ""),
        ("tls-port: 1\nport: 2\n", "tls-port: 1\nport: 2"),
    ],
)
def test_keeping_sees_only_the_lines_of_its_keys(text: str, kept: str) -> None:
    assert keeping("port", "tls-port")("any.conf", text) == kept


def test_a_key_is_no_pattern() -> None:
    assert keeping("a.b")("x", "a.b 1\naxb 2\n") == "a.b 1"


def test_where_every_change_is_applied_nothing_needs_a_restart() -> None:
    assert nothing("haproxy.cfg", "anything") == ""
