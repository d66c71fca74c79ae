"""Authority: the platform's private CA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta

from stacks.local.provider import certificates
from stacks.local.provider.difference import Change
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values


class AuthorityInputs(Inputs, frozen=True, kw_only=True):
    common_name: str
    days: int = 3650
    renew_before_days: int = 365
    generation: int = 1
    """Raise it for a new CA now."""


class AuthorityHandler(Handler[AuthorityInputs]):
    """Outputs: cert_pem, key_pem (secret), bundle_pem (all CAs to trust, newest first), chain_pem (the new CA
    signed by the one before: servers append it to their certificate; "" before the first rotation), not_after
    (ISO 8601), serial (hexadecimal), revision (how many CAs there have been).
    """

    inputs_type = AuthorityInputs
    outputs = ("cert_pem", "key_pem", "bundle_pem", "chain_pem", "not_after", "serial", "revision")
    secret_outputs = frozenset({"key_pem"})

    def __init__(self, clock: Callable[[], datetime] = certificates.now) -> None:
        self.clock = clock

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "common_name" in inputs and not 0 < len(inputs["common_name"]) <= 48:
            yield Problem(
                "common_name", "must have 1 to 48 characters (a number is appended; X.509 allows 64)"
            )
        if inputs.get("days", 1) < 1:
            yield Problem("days", "must be at least 1")
        if not 0 <= inputs.get("renew_before_days", 0) < inputs.get("days", 10**9):
            yield Problem("renew_before_days", "must be less than days, and not negative")

    def make(self, name: str, inputs: AuthorityInputs) -> Made:
        return Made(name, self.issue(inputs, None))

    def change(self, resource_id: str, state: Values, inputs: AuthorityInputs) -> Values:
        if self.renews(state, inputs.common_name, inputs.days, inputs.renew_before_days, inputs.generation):
            return self.issue(inputs, state)
        return {key: state[key] for key in self.outputs}

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        if state is None or any(
            key not in inputs for key in ("common_name", "days", "renew_before_days", "generation")
        ):
            return {}
        if self.renews(
            state, inputs["common_name"], inputs["days"], inputs["renew_before_days"], inputs["generation"]
        ):
            return {}
        return {key: state[key] for key in self.outputs if key in state}

    def drift(self, state: Values, inputs: Values) -> Iterator[tuple[str, Change]]:
        if certificates.due(state.get("not_after", ""), inputs["renew_before_days"], self.clock()):
            yield "not_after", Change("update", by_input=False)

    def renews(
        self, state: Values, common_name: object, days: object, before: object, generation: object
    ) -> bool:
        """Whether a new CA is to be made: another name or validity, a raised generation,
        or the end is near.
        """
        wanted = {"common_name": common_name, "days": days, "generation": generation}
        if any(state.get(key) != value for key, value in wanted.items()):
            return True
        return certificates.due(
            state.get("not_after", ""), before if isinstance(before, int) else 0, self.clock()
        )

    def issue(self, inputs: AuthorityInputs, state: Values | None) -> Values:
        """A new CA; trusts those of `state` that have not expired, and is cross-signed
        by the last of them.
        """
        start = self.clock()
        end = start + timedelta(days=inputs.days)
        revision = int(state["revision"]) + 1 if state else 1
        key = certificates.new_key()
        # Each CA has a name of its own: verifiers look issuers up by name.
        name = certificates.named(f"{inputs.common_name} {revision}")
        own = certificates.authority_certificate(name, key, name, key, start, end)
        before = [
            each
            for each in certificates.read_certificates(state["bundle_pem"] if state else "")
            if each.not_valid_after_utc > start
        ]
        chain = ""
        if state and before:
            old = certificates.read_certificates(state["cert_pem"])[0]
            if old.not_valid_after_utc > start:
                cross = certificates.authority_certificate(
                    name,
                    key,
                    old.subject,
                    certificates.read_key(state["key_pem"]),
                    start,
                    old.not_valid_after_utc,
                )
                chain = certificates.certificate_text(cross)
        return {
            "cert_pem": certificates.certificate_text(own),
            "key_pem": certificates.key_text(key),
            "bundle_pem": "".join(certificates.certificate_text(each) for each in (own, *before)),
            "chain_pem": chain,
            "not_after": certificates.when(own),
            "serial": f"{own.serial_number:x}",
            "revision": revision,
        }
