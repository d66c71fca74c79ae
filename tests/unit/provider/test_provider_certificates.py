"""The private CA: what it issues works in real TLS handshakes, also while it is being rotated."""

from __future__ import annotations

import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from stacks.local.provider import certificates
from stacks.local.provider.handlers.authority import AuthorityHandler
from stacks.local.provider.handlers.certificate import CertificateHandler
from stacks.local.provider.values import Values

NOW = datetime(2026, 6, 1, tzinfo=UTC)


class Clock:
    """A clock that tests move."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at


def authority(clock: Clock, **inputs: object) -> tuple[AuthorityHandler, Values, Values]:
    handler = AuthorityHandler(clock)
    filled, problems = handler.check({"common_name": "test", "days": 100, "renew_before_days": 10, **inputs})
    assert problems == []
    return handler, filled, handler.create("ca", filled)[1]


def certificate(clock: Clock, ca: Values, **inputs: object) -> tuple[CertificateHandler, Values, Values]:
    handler = CertificateHandler(clock)
    filled, problems = handler.check(
        {
            "ca_cert_pem": ca["cert_pem"],
            "ca_key_pem": ca["key_pem"],
            "ca_chain_pem": ca["chain_pem"],
            "common_name": "pg-1",
            "sans": ["pg-1", "localhost", "127.0.0.1"],
            "days": 50,
            "renew_before_days": 5,
            **inputs,
        }
    )
    assert problems == []
    return handler, filled, handler.create("leaf", filled)[1]


def handshake(folder: Path, server: Values, trusted: str, name: str = "127.0.0.1") -> None:
    """A TLS handshake on loopback; raises ssl.SSLError when the client does not trust the server."""
    (folder / "cert").write_text(server["cert_pem"], encoding="ascii")
    (folder / "key").write_text(server["key_pem"], encoding="ascii")
    accepting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    accepting.load_cert_chain(folder / "cert", folder / "key")
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            with accepting.wrap_socket(listener.accept()[0], server_side=True) as peer:
                peer.recv(1)
        except OSError:
            return

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        with (
            socket.create_connection(listener.getsockname(), 5) as plain,
            ssl.create_default_context(cadata=trusted).wrap_socket(plain, server_hostname=name),
        ):
            pass
    finally:
        listener.close()
        thread.join(5)


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime.now(UTC))


def test_a_certificate_is_trusted_for_its_names(tmp_path: Path, clock: Clock) -> None:
    _, _, ca = authority(clock)
    _, _, leaf = certificate(clock, ca)
    handshake(tmp_path, leaf, ca["bundle_pem"])
    handshake(tmp_path, leaf, ca["bundle_pem"], "localhost")
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, leaf, ca["bundle_pem"], "elsewhere.example")
    _, _, stranger = authority(clock)
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(tmp_path, leaf, stranger["bundle_pem"])


def test_a_rotation_breaks_nobody(tmp_path: Path, clock: Clock) -> None:
    handler, inputs, old = authority(clock)
    _, _, old_leaf = certificate(clock, old)
    changed = {**inputs, "generation": 2}
    assert list(handler.diff({**old}, changed).changes) == ["generation"]
    new = handler.update("ca", old, changed)
    assert new["cert_pem"] != old["cert_pem"]
    assert new["revision"] == 2
    _, _, new_leaf = certificate(clock, new)
    for server in (old_leaf, new_leaf):
        for client in (old, new):
            handshake(tmp_path, server, client["bundle_pem"])


def test_an_expired_ca_leaves_the_bundle() -> None:
    clock = Clock(NOW)
    handler, inputs, old = authority(clock)
    clock.at = NOW + timedelta(days=200)
    new = handler.update("ca", old, inputs)
    assert len(certificates.read_certificates(new["bundle_pem"])) == 1
    assert new["chain_pem"] == ""


def test_both_are_renewed_before_they_end() -> None:
    clock = Clock(NOW)
    handler, inputs, ca = authority(clock)
    leaf_handler, leaf_inputs, leaf = certificate(clock, ca)
    assert not handler.diff(ca, inputs)
    assert not leaf_handler.diff(leaf, leaf_inputs)
    clock.at = NOW + timedelta(days=46)
    assert not handler.diff(ca, inputs)
    assert list(leaf_handler.diff(leaf, leaf_inputs).changes) == ["not_after"]
    assert leaf_handler.foresee(leaf, leaf_inputs) == {}
    renewed = leaf_handler.update("leaf", leaf, leaf_inputs)
    assert renewed["serial"] != leaf["serial"]
    assert not leaf_handler.diff(renewed, leaf_inputs)
    clock.at = NOW + timedelta(days=91)
    assert list(handler.diff(ca, inputs).changes) == ["not_after"]
    assert handler.update("ca", ca, inputs)["revision"] == 2


def test_nothing_is_renewed_without_need() -> None:
    clock = Clock(NOW)
    handler, inputs, ca = authority(clock)
    assert handler.update("ca", ca, {**inputs, "renew_before_days": 9})["serial"] == ca["serial"]
    leaf_handler, leaf_inputs, leaf = certificate(clock, ca)
    assert (
        leaf_handler.update("leaf", leaf, {**leaf_inputs, "renew_before_days": 4})["serial"] == leaf["serial"]
    )
    assert leaf_handler.update("leaf", leaf, {**leaf_inputs, "sans": ["other"]})["serial"] != leaf["serial"]


def test_a_certificate_never_outlives_its_ca() -> None:
    clock = Clock(NOW)
    _, _, ca = authority(clock)
    _, _, leaf = certificate(clock, ca, days=1000)
    found = x509.load_pem_x509_certificate(leaf["cert_pem"].encode())
    assert found.not_valid_after_utc == NOW + timedelta(days=100)


@pytest.mark.parametrize(
    ("inputs", "property_name"),
    [
        ({"sans": ["not a name"]}, "sans"),
        ({"usages": []}, "usages"),
        ({"usages": ["code"]}, "usages"),
        ({"days": 5, "renew_before_days": 5}, "renew_before_days"),
    ],
)
def test_wrong_inputs_are_named(inputs: Values, property_name: str) -> None:
    base = {"ca_cert_pem": "", "ca_key_pem": "", "common_name": "x"}
    assert [p.property for p in CertificateHandler().check({**base, **inputs})[1]] == [property_name]
