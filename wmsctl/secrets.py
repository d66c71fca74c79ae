"""Passwords: where they come from, and a wrapper that keeps them out of logs, tracebacks and arguments."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Protocol

from wmsctl.errors import Refused, Usage

SCHEME = "file:"


class Secret:
    """A value whose text appears only where `reveal` is called."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The plain text, for the one call that needs it."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a Secret is not pickled")


class HasSecret(Protocol):
    """Anything that names a secret, such as inventory.Login."""

    @property
    def secret(self) -> str: ...


class Secrets:
    """The secrets of one platform, by name."""

    def __init__(self, values: dict[str, str], source: str) -> None:
        self._values = {name: Secret(value) for name, value in values.items()}
        self._source = source

    @classmethod
    def load(cls, reference: str) -> Secrets:
        """Read the secrets that an inventory refers to as `file:<path>`: one flat JSON object of strings.

        Raises Usage when the reference, the file or its content is wrong; Refused when others may read the
        file.
        """
        if not reference.startswith(SCHEME):
            raise Usage(
                f"cannot read secrets from {reference!r}",
                hint="the inventory's `secrets` has to be file:<path of a 0600 JSON object>",
            )
        path = Path(reference.removeprefix(SCHEME))
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
                if mode & 0o077:
                    raise Refused(
                        f"the secrets file {path} is open to others (mode {mode:04o})",
                        hint=f"run: chmod 600 {path}",
                    )
                content = file.read()
        except OSError as error:
            raise Usage(
                f"cannot read the secrets file {path}: {error.strerror}",
                hint="run wmsctl as the user who made the platform, or import the context again",
            ) from error
        return cls(_parse(content, path), str(path))

    def get(self, name: str) -> Secret:
        """The secret called `name`. Raises Usage naming the missing key and the file."""
        try:
            return self._values[name]
        except KeyError:
            raise Usage(
                f"the secret {name!r} is missing in {self._source}",
                hint="bring the platform up again (make up), so that its secrets are written anew",
            ) from None

    def of(self, login: HasSecret) -> Secret:
        """The password of an inventory login."""
        return self.get(login.secret)

    def __repr__(self) -> str:
        return f"Secrets({self._source}, {len(self._values)} names)"


def _parse(content: bytes, path: Path) -> dict[str, str]:
    # The decoder's own exception carries the document: it must not be chained, or a traceback could show
    # passwords.
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Usage(
            f"the secrets file {path} is not a JSON object", hint="bring the platform up again (make up)"
        )
    wrong = sorted(name for name, value in document.items() if not isinstance(value, str))
    if wrong:
        raise Usage(f"the secrets file {path} has values that are not strings: {', '.join(wrong)}")
    return document
