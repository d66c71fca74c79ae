"""File: one text file below the platform's folder."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import ClassVar, Literal

from stacks.local.provider.accounts import Account, operator, service
from stacks.local.provider.difference import Change
from stacks.local.provider.errors import ProviderError, explained
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.homes import (
    folders,
    home_problem,
    inside_problem,
    is_ours,
    remove_empty,
    remove_file,
    require_ours,
    write,
)
from stacks.local.provider.values import Values

MODE = re.compile(r"0[0-7]{3}\Z")


class FileInputs(Inputs, frozen=True, kw_only=True):
    home: str
    path: str
    content: str
    mode: str = "0640"
    owner: Literal["service", "operator"] = "service"
    user: str = ""


class FileHandler(Handler[FileInputs]):
    """Outputs: sha256 (of the content, hexadecimal), ownership ("right" or who owns it instead)."""

    inputs_type = FileInputs
    outputs = ("sha256", "ownership")
    derived: ClassVar[Mapping[str, tuple[str, ...]]] = {"sha256": ("content",)}
    replace_on = frozenset({"home", "path"})

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "home" in inputs and (problem := home_problem(inputs["home"])):
            yield Problem("home", problem)
        elif (
            "home" in inputs
            and "path" in inputs
            and (problem := inside_problem(inputs["home"], inputs["path"]))
        ):
            yield Problem("path", problem)
        if "mode" in inputs and not MODE.match(inputs["mode"]):
            yield Problem("mode", f"{inputs['mode']!r} must be four octal digits such as '0640'")

    def make(self, name: str, inputs: FileInputs) -> Made:
        return Made(inputs.path, self.put(inputs))

    def change(self, resource_id: str, state: Values, inputs: FileInputs) -> Values:
        return self.put(inputs)

    def observe(self, resource_id: str, inputs: FileInputs, state: Values) -> Values | None:
        try:
            with explained(f"cannot read {inputs.path}"):
                handle = os.open(inputs.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                with os.fdopen(handle, "rb") as file:
                    found = os.fstat(file.fileno())
                    data = file.read()
        except ProviderError as error:
            if isinstance(error.__cause__, FileNotFoundError | NotADirectoryError):
                return None
            raise
        # Bytes that are no UTF-8 cannot have come from us: any text other than ours shows the edit.
        content = data.decode(errors="replace")
        owner = self.account(inputs)
        return {
            "content": content,
            "mode": f"{stat.S_IMODE(found.st_mode):04o}",
            "sha256": digest(content),
            "ownership": "right" if found.st_uid == owner.uid else f"uid {found.st_uid}",
        }

    def remove(self, resource_id: str, inputs: FileInputs, state: Values) -> None:
        if not is_ours(inputs.home) or inside_problem(inputs.home, inputs.path):
            return
        with explained(f"cannot remove {inputs.path}"):
            remove_file(inputs.path)
        remove_empty(os.path.dirname(inputs.path), inputs.home)

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        content = inputs.get("content")
        return {"ownership": "right", **({"sha256": digest(content)} if isinstance(content, str) else {})}

    def drift(self, state: Values, inputs: Values) -> Iterator[tuple[str, Change]]:
        if state.get("ownership", "right") != "right":
            yield "ownership", Change("update", by_input=False)

    @staticmethod
    def account(inputs: FileInputs) -> Account:
        """Who owns the file."""
        return service(inputs.user) if inputs.owner == "service" else operator()

    def put(self, inputs: FileInputs) -> Values:
        """Write it; returns the outputs."""
        require_ours(inputs.home)
        owner = self.account(inputs)
        folders(inputs.home, os.path.dirname(inputs.path), owner)
        write(inputs.path, inputs.content, int(inputs.mode, 8), owner)
        return {"sha256": digest(inputs.content), "ownership": "right"}


def digest(content: str) -> str:
    """SHA-256 of the text, hexadecimal."""
    return hashlib.sha256(content.encode(errors="surrogatepass")).hexdigest()
