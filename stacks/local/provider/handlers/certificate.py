"""Certificate: a key pair for a server or a client, signed by the platform's CA."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec

from stacks.local.provider import certificates
from stacks.local.provider.difference import Change
from stacks.local.provider.errors import ProviderError
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import UNKNOWN, Values, contains_unknown

HOST = re.compile(
    r"(\*\.)?([A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*\Z"
)


class CertificateInputs(Inputs, frozen=True, kw_only=True):
    ca_cert_pem: str
    ca_key_pem: str
    common_name: str
    ca_chain_pem: str = ""
    """The Authority's chain_pem, sent along until every client trusts the new CA."""
    sans: list[str] = msgspec.field(default_factory=list)
    usages: list[str] = msgspec.field(default_factory=lambda: ["server", "client"])
    days: int = 365
    renew_before_days: int = 60


class CertificateHandler(Handler[CertificateInputs]):
    """Outputs: cert_pem (with the CA's chain behind it), key_pem (secret), not_after (ISO 8601), serial."""

    inputs_type = CertificateInputs
    outputs = ("cert_pem", "key_pem", "not_after", "serial")
    secret_outputs = frozenset({"key_pem"})

    def __init__(self, clock: Callable[[], datetime] = certificates.now) -> None:
        self.clock = clock

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "common_name" in inputs and not 0 < len(inputs["common_name"]) <= 64:
            yield Problem("common_name", "must have 1 to 64 characters")
        for name in inputs.get("sans", ()):
            if not HOST.match(name) and ":" not in name:
                yield Problem("sans", f"{name!r} is neither a DNS name nor an IP address")
        usages = inputs.get("usages")
        if usages is not None and (not usages or not set(usages) <= {"server", "client"}):
            yield Problem("usages", f"{usages!r} must hold server, client or both")
        if inputs.get("days", 1) < 1:
            yield Problem("days", "must be at least 1")
        if not 0 <= inputs.get("renew_before_days", 0) < inputs.get("days", 10**9):
            yield Problem("renew_before_days", "must be less than days, and not negative")

    def make(self, name: str, inputs: CertificateInputs) -> Made:
        return Made(name, self.issue(inputs))

    def change(self, resource_id: str, state: Values, inputs: CertificateInputs) -> Values:
        old = self.lenient(state)
        renewed = certificates.due(state.get("not_after", ""), inputs.renew_before_days, self.clock())
        watched = ("ca_cert_pem", "ca_key_pem", "ca_chain_pem", "common_name", "sans", "usages", "days")
        if renewed or any(getattr(old, field) != getattr(inputs, field) for field in watched):
            return self.issue(inputs)
        return {key: state[key] for key in self.outputs}

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        if state is None or contains_unknown(inputs):
            return {}
        same = all(state.get(key) == value for key, value in inputs.items() if key != "renew_before_days")
        if not same or certificates.due(
            state.get("not_after", ""), inputs["renew_before_days"], self.clock()
        ):
            return {}
        return {key: state[key] for key in self.outputs if key in state}

    def drift(self, state: Values, inputs: Values) -> Iterator[tuple[str, Change]]:
        before = inputs["renew_before_days"]
        if before is not UNKNOWN and certificates.due(state.get("not_after", ""), before, self.clock()):
            yield "not_after", Change("update", by_input=False)

    def issue(self, inputs: CertificateInputs) -> Values:
        """A new key and certificate."""
        try:
            authority = certificates.read_certificates(inputs.ca_cert_pem)[0]
            authority_key = certificates.read_key(inputs.ca_key_pem)
        except (ValueError, TypeError, IndexError):
            raise ProviderError(
                f"the CA of certificate {inputs.common_name} is unreadable",
                "Pass cert_pem and key_pem of the Authority resource",
            ) from None
        key = certificates.new_key()
        made = certificates.leaf_certificate(
            inputs.common_name,
            inputs.sans,
            inputs.usages,
            key,
            authority,
            authority_key,
            self.clock(),
            inputs.days,
        )
        return {
            "cert_pem": certificates.certificate_text(made) + inputs.ca_chain_pem,
            "key_pem": certificates.key_text(key),
            "not_after": certificates.when(made),
            "serial": f"{made.serial_number:x}",
        }
