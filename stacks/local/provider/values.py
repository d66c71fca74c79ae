"""Property values of Pulumi <-> plain Python values. The only place that knows how secrets and unknowns
travel.

A decoded map is a plain dict plus the set of paths that are secret; a path is a tuple of dict keys. A secret
inside a list makes the whole list secret, because positions in a list shift.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Final, cast

from pulumi.provider.experimental.property_value import Computed, PropertyValue
from pulumi.runtime import rpc

Values = dict[str, Any]
"""Plain values: None, bool, int, float, str, list, dict, and UNKNOWN during a preview."""

Path = tuple[str, ...]


class Unknown:
    """The type of UNKNOWN: a value that a preview cannot know yet."""

    def __repr__(self) -> str:
        return "UNKNOWN"

    def __bool__(self) -> bool:
        raise TypeError("an unknown value has no truth: test `is UNKNOWN` first")


UNKNOWN: Final = Unknown()

# The engine marks an unknown by one of these texts, depending on the type it expects there
# (sdk/go/common/resource/plugin/rpc.go of Pulumi).
MARKS = frozenset(
    {
        rpc.UNKNOWN,
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",
        "030794c1-ac77-496b-92df-f27374a8bd58",
        "e48ece36-62e2-4504-bad9-02848725956a",
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",
    }
)


def decode(properties: Mapping[str, PropertyValue]) -> tuple[Values, frozenset[Path]]:
    """The plain values of `properties` and the paths of those that are secret. Top-level
    nulls are left out.
    """
    secrets: set[Path] = set()
    values = {key: plain(item, (key,), secrets) for key, item in properties.items()}
    return {key: value for key, value in values.items() if value is not None}, frozenset(secrets)


def plain(item: PropertyValue, path: Path, secrets: set[Path]) -> Any:
    """One plain value; adds to `secrets` the paths at or below `path` that are secret."""
    if item.is_secret:
        secrets.add(path)
    value = item.value
    if isinstance(value, Computed) or (isinstance(value, str) and value in MARKS):
        return UNKNOWN
    if isinstance(value, float):
        return int(value) if value.is_integer() else value
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, Mapping):
        children: Any = value
        return {key: plain(child, (*path, key), secrets) for key, child in children.items()}
    if isinstance(value, Sequence):
        inside: set[Path] = set()
        result = [plain(child, path, inside) for child in cast(Sequence[PropertyValue], value)]
        if inside:
            secrets.add(path)
        return result
    raise TypeError(f"{'.'.join(path)}: assets, archives and resources cannot be inputs here")


def encode(values: Mapping[str, Any], secrets: Collection[Path] = ()) -> dict[str, PropertyValue]:
    """Properties of `values`, those at the paths `secrets` marked secret.

    A path that leads nowhere marks its nearest existing ancestor: better one field too many than a leak.
    """
    found = {nearest(values, path) for path in secrets}
    return {key: wrap(value, (key,), found) for key, value in values.items()}


def nearest(values: Mapping[str, Any], path: Path) -> Path:
    """The longest prefix of `path` that exists in `values`."""
    here: Any = values
    for depth, key in enumerate(path):
        if not isinstance(here, Mapping) or key not in here:
            return path[:depth]
        here = here[key]
    return path


def wrap(value: Any, path: Path, secrets: Collection[Path]) -> PropertyValue:
    """One property value, marked secret when `path` is in `secrets`."""
    secret = path in secrets
    if value is UNKNOWN:
        return PropertyValue(rpc.UNKNOWN, is_secret=secret)
    if isinstance(value, Mapping):
        return PropertyValue({k: wrap(v, (*path, k), secrets) for k, v in value.items()}, is_secret=secret)
    if isinstance(value, list | tuple):
        return PropertyValue([wrap(child, (), ()) for child in value], is_secret=secret)
    if isinstance(value, int) and not isinstance(value, bool):
        return PropertyValue(float(value), is_secret=secret)
    return PropertyValue(value, is_secret=secret)


def contains_unknown(value: Any) -> bool:
    """Whether UNKNOWN is `value` or somewhere inside it."""
    if isinstance(value, Mapping):
        return any(contains_unknown(child) for child in value.values())
    if isinstance(value, list | tuple):
        return any(contains_unknown(child) for child in value)
    return value is UNKNOWN


def texts_at(values: Mapping[str, Any], secrets: Collection[Path]) -> Iterator[str]:
    """Every text at or below one of the paths `secrets`."""
    for path in secrets:
        here: Any = values
        for key in path:
            here = here.get(key) if isinstance(here, Mapping) else None
        yield from texts(here)


def texts(value: Any) -> Iterator[str]:
    """Every text inside `value`."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for child in value.values():
            yield from texts(child)
    elif isinstance(value, list | tuple):
        for child in value:
            yield from texts(child)


def redacted(message: str, values: Mapping[str, Any], secrets: Collection[Path]) -> str:
    """`message` without the secret texts of `values`: the last line of defence for words that libraries
    choose.

    Texts under 6 characters stay: replacing them would make messages unreadable and hide nothing worth
    hiding.
    """
    for text in sorted(set(texts_at(values, secrets)), key=len, reverse=True):
        if len(text) >= 6:
            message = message.replace(text, "[secret]")
    return message
