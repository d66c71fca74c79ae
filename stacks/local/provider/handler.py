"""What a resource type must know how to do. Handlers see plain values only: no Pulumi, no secrets marks, no
gRPC.

A subclass names its inputs by a msgspec type and implements `make`, `observe`, `change` and `remove`. This
base checks types and fills defaults, finds differences, echoes the inputs among the outputs (the engine
compares later inputs with those outputs), and turns an unreachable server during a refresh into drift.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import msgspec

from stacks.local.provider.difference import Change, Difference, differences
from stacks.local.provider.errors import NotReady, ProviderError, Unreachable
from stacks.local.provider.values import UNKNOWN, Values, contains_unknown


class Inputs(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the inputs of a resource type, and of their parts."""

    def __repr__(self) -> str:
        # Inputs hold passwords: a value that ends in a message or a traceback must not show them.
        return f"<{type(self).__name__}>"


InputsT = TypeVar("InputsT", bound=Inputs)


class Problem(NamedTuple):
    """Why an input is not accepted."""

    property: str
    reason: str


class Made(NamedTuple):
    """A resource that now exists: its id and the outputs beyond its inputs."""

    id: str
    outputs: Values


class Handler(Generic[InputsT]):
    """One resource type."""

    inputs_type: type[InputsT]
    outputs: ClassVar[tuple[str, ...]] = ()
    """Outputs beyond the echoed inputs."""
    secret_outputs: ClassVar[frozenset[str]] = frozenset()
    """Outputs that are always secret."""
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {}
    """output -> the inputs it is computed from: it is secret when one of them is."""
    replace_on: ClassVar[frozenset[str]] = frozenset()
    """Inputs whose change needs a new resource."""
    delete_before_replace: ClassVar[bool] = True
    healthy: ClassVar[str] = ""
    """The value of the output `state` that needs no repair; empty when the type has no such output."""

    # -- for a subclass --

    def problems(self, inputs: Values) -> Iterator[Problem]:
        """Semantic problems of `inputs`; those that are unknown yet are absent."""
        yield from ()

    def make(self, name: str, inputs: InputsT) -> Made:
        """Create it, or finish one that was half made. `name`: the resource's name in the program."""
        raise NotImplementedError

    def observe(self, resource_id: str, inputs: InputsT, state: Values) -> Values | None:
        """What is really there: outputs, and inputs that turned out to differ. None: it is gone."""
        return {}

    def change(self, resource_id: str, state: Values, inputs: InputsT) -> Values:
        """Bring an existing one from `state` to `inputs`, and repair it. Returns the outputs."""
        raise NotImplementedError

    def remove(self, resource_id: str, inputs: InputsT, state: Values) -> None:
        """Delete it; one that is gone already is a success."""

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        """Outputs that a preview can know (`state` is None before a create); all others
        are taken as unknown.
        """
        return {}

    def drift(self, state: Values, inputs: Values) -> Iterator[tuple[str, Change]]:
        """Differences that no input explains. By default: a state other than the healthy one."""
        if self.healthy and state.get("state") != self.healthy:
            yield "state", Change("update", by_input=False)

    # -- for the server --

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return self.inputs_type.__struct_fields__

    def check(self, inputs: Values) -> tuple[Values, list[Problem]]:
        """`inputs` with defaults filled in, and what is wrong with them. Unknown values pass until they are
        known.
        """
        filled: Values = {}
        known: Values = {}
        found = [
            Problem(key, f"there is no such input; there are: {', '.join(self.fields)}")
            for key in inputs
            if key not in self.fields
        ]
        for spec in msgspec.structs.fields(self.inputs_type):
            name = spec.name
            if name not in inputs:
                if spec.required:
                    found.append(Problem(name, "is required"))
                    continue
                default = spec.default if spec.default is not msgspec.NODEFAULT else spec.default_factory()
                if default is None:
                    continue
                filled[name] = known[name] = msgspec.to_builtins(default)
                continue
            filled[name] = inputs[name]
            if contains_unknown(inputs[name]):
                continue
            try:
                msgspec.convert(inputs[name], spec.type)
            except msgspec.ValidationError as error:
                found.append(Problem(name, str(error)))
            else:
                known[name] = inputs[name]
        if not found:
            found.extend(self.problems(known))
        return filled, found

    def diff(self, state: Values, inputs: Values) -> Difference:
        """What changes from the recorded `state` to `inputs`."""
        old = {key: state[key] for key in self.fields if key in state}
        changes = {
            path: Change(kind, replace=root(path) in self.replace_on)
            for path, kind in differences(old, inputs).items()
        }
        if not any(change.replace for change in changes.values()):
            for path, change in self.drift(state, inputs):
                changes.setdefault(path, change)
        return Difference(changes)

    def preview(self, state: Values | None, inputs: Values) -> Values:
        """The outputs as a preview shows them."""
        return {**dict.fromkeys(self.outputs, UNKNOWN), **self.foresee(state, inputs), **inputs}

    def create(self, name: str, inputs: Values) -> tuple[str, Values]:
        """(id, outputs). Raises ProviderError; NotReady when it exists but does not work yet."""
        try:
            made = self.make(name, self.typed(inputs))
        except NotReady as error:
            error.outputs = {**error.outputs, **inputs}
            raise
        return made.id, {**made.outputs, **inputs}

    def read(self, resource_id: str, state: Values) -> Values | None:
        """The state refreshed from reality, or None when the resource is gone."""
        if not state:
            raise ProviderError(
                f"{resource_id}: import is not supported by this provider",
                "Let pulumi up create it: it takes over",
            )
        try:
            observed = self.observe(resource_id, self.lenient(state), state)
        except Unreachable:
            if not self.healthy:
                raise
            return {**state, "state": "unreachable"}
        return None if observed is None else {**state, **observed}

    def update(self, resource_id: str, state: Values, inputs: Values) -> Values:
        """The new outputs. Raises as `create` does."""
        try:
            changed = self.change(resource_id, state, self.typed(inputs))
        except NotReady as error:
            error.outputs = {**error.outputs, **inputs}
            raise
        return {**changed, **inputs}

    def delete(self, resource_id: str, state: Values) -> None:
        """Remove it. Raises ProviderError when it cannot be removed."""
        self.remove(resource_id, self.lenient(state), state)

    def typed(self, inputs: Values) -> InputsT:
        """`inputs` as their type. Raises ProviderError naming the first wrong one."""
        try:
            return msgspec.convert(inputs, self.inputs_type)
        except msgspec.ValidationError as error:
            raise ProviderError(f"wrong inputs: {error}") from error

    def lenient(self, state: Values) -> InputsT:
        """The inputs echoed in `state`, which an older version of this provider may have written."""
        return self.typed({key: state[key] for key in self.fields if key in state})


def root(path: str) -> str:
    """The input that a property path is part of."""
    for index, char in enumerate(path):
        if char in ".[":
            return path[:index]
    return path


def secret_paths(
    handler: Handler[Any], inputs_secret: Iterable[tuple[str, ...]], outputs: Mapping[str, Any]
) -> set[tuple[str, ...]]:
    """Which of `outputs` are secret: echoed secret inputs, outputs derived from them, and those that always
    are.
    """
    paths = set(inputs_secret)
    secret_inputs = {path[0] for path in paths}
    paths |= {(name,) for name in handler.secret_outputs}
    paths |= {(name,) for name, sources in handler.derived.items() if secret_inputs.intersection(sources)}
    return {path for path in paths if path[0] in outputs}
