"""Password: a generated secret that stays the same until the program asks for a new one."""

from __future__ import annotations

import secrets
import string
from collections.abc import Iterator

from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.values import Values

ALPHABET = string.ascii_letters + string.digits
"""Needs no quoting in URLs, shells, INI, YAML or SQL. 5.95 bits each: 32 characters hold 190 bits."""
SHORTEST = 16


class PasswordInputs(Inputs, frozen=True, kw_only=True):
    length: int = 32
    generation: int = 1
    """Raise it for a new value."""


class PasswordHandler(Handler[PasswordInputs]):
    """Output: value (secret)."""

    inputs_type = PasswordInputs
    outputs = ("value",)
    secret_outputs = frozenset({"value"})

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "length" in inputs and not SHORTEST <= inputs["length"] <= 256:
            yield Problem("length", f"{inputs['length']} must be between {SHORTEST} and 256")

    def make(self, name: str, inputs: PasswordInputs) -> Made:
        return Made(name, {"value": generate(inputs.length)})

    def change(self, resource_id: str, state: Values, inputs: PasswordInputs) -> Values:
        same = state.get("length") == inputs.length and state.get("generation") == inputs.generation
        return {"value": state["value"] if same and "value" in state else generate(inputs.length)}


def generate(length: int) -> str:
    """A random password of `length` characters of ALPHABET."""
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
