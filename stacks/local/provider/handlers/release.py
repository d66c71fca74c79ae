"""Release: a copy of the code that servers run, under its digest, so that an edit of the checkout disturbs
nobody.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import py_compile
import shutil
from collections.abc import Iterator, Sequence

from stacks.local.provider.accounts import operator
from stacks.local.provider.errors import ProviderError, explained
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.homes import folder, home_problem, is_ours, remove_tree, require_ours
from stacks.local.provider.values import Values

SKIPPED = frozenset(
    {"__pycache__", ".mypy_cache", ".ruff_cache", ".pytest_cache", "node_modules", ".git", "web"}
)
"""Folders that are in no release. `web` is the frontend's source, whose build is a release of its own: an edit there
restarts no service."""


class ReleaseInputs(Inputs, frozen=True, kw_only=True):
    home: str
    name: str
    """What is released; each name has a folder of its own below home/release."""
    sources: list[str]
    digest: str
    user: str = ""


class ReleaseHandler(Handler[ReleaseInputs]):
    """Outputs: path (home/release/<name>/<digest>), previous (digest kept for a rollback, or ""), state
    (complete, damaged).
    """

    inputs_type = ReleaseInputs
    outputs = ("path", "previous", "state")
    replace_on = frozenset({"home", "name"})
    healthy = "complete"

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if "home" in inputs and (problem := home_problem(inputs["home"])):
            yield Problem("home", problem)
        if "name" in inputs and not inputs["name"].isidentifier():
            yield Problem("name", "must be letters, digits and underscores")
        for source in inputs.get("sources", ()):
            if not os.path.isabs(source) or not os.path.isdir(source):
                yield Problem("sources", f"{source!r} must be an absolute path of a folder")
        names = [os.path.basename(source.rstrip("/")) for source in inputs.get("sources", ())]
        if len(set(names)) != len(names):
            yield Problem("sources", f"two folders have the same name: {', '.join(sorted(names))}")
        if "digest" in inputs and not (len(inputs["digest"]) == 64 and inputs["digest"].isalnum()):
            yield Problem(
                "digest", "must be what stacks.local.provider.handlers.release.digest(sources) returns"
            )

    def make(self, name: str, inputs: ReleaseInputs) -> Made:
        path = self.put(inputs)
        return Made(inputs.digest, {"path": path, "previous": "", "state": "complete"})

    def observe(self, resource_id: str, inputs: ReleaseInputs, state: Values) -> Values | None:
        path = f"{store_of(inputs)}/{inputs.digest}"
        if not os.path.isdir(path):
            return None
        return {"path": path, "state": "complete" if digest(parts(path)) == inputs.digest else "damaged"}

    def change(self, resource_id: str, state: Values, inputs: ReleaseInputs) -> Values:
        path = self.put(inputs)
        before = state.get("digest", "")
        previous = before if before != inputs.digest else state.get("previous", "")
        for entry in os.listdir(store_of(inputs)):
            if entry not in (inputs.digest, previous):
                remove_tree(f"{store_of(inputs)}/{entry}")
        return {"path": path, "previous": previous, "state": "complete"}

    def remove(self, resource_id: str, inputs: ReleaseInputs, state: Values) -> None:
        if is_ours(inputs.home):
            for each in (inputs.digest, state.get("previous", "")):
                if each:
                    remove_tree(f"{store_of(inputs)}/{each}")

    def foresee(self, state: Values | None, inputs: Values) -> Values:
        if isinstance(inputs.get("home"), str) and isinstance(inputs.get("digest"), str):
            return {
                "path": f"{inputs['home']}/release/{inputs['name']}/{inputs['digest']}",
                "state": "complete",
            }
        return {}

    @staticmethod
    def put(inputs: ReleaseInputs) -> str:
        """Copy, unless a sound copy is there already; returns its path."""
        require_ours(inputs.home)
        store = store_of(inputs)
        path = f"{store}/{inputs.digest}"
        if os.path.isdir(path) and digest(parts(path)) == inputs.digest:
            return path
        folder(os.path.dirname(store), operator(), 0o755)
        folder(store, operator(), 0o755)
        fresh = f"{store}/.{inputs.digest}.new"
        remove_tree(fresh)
        with explained(f"cannot copy the release to {fresh}"):
            folder(fresh, operator(), 0o755)
            for source in inputs.sources:
                copy(source.rstrip("/"), f"{fresh}/{os.path.basename(source.rstrip('/'))}")
            if digest(parts(fresh)) != inputs.digest:
                remove_tree(fresh)
                raise ProviderError(
                    f"the code in {', '.join(inputs.sources)} changed while it was copied",
                    "Run pulumi up again",
                )
            # Servers cannot write here, so Python's cache is made now. Checked by hash, not by time: copies
            # are new.
            compileall.compile_dir(
                fresh,
                quiet=2,
                stripdir=fresh,
                prependdir=path,
                invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
            )
            for place, _, names in os.walk(fresh):
                for each in names:
                    if each.endswith(".pyc"):
                        os.chmod(os.path.join(place, each), 0o644)
                if os.path.basename(place) == "__pycache__":
                    os.chmod(place, 0o755)
            remove_tree(path)
            os.rename(fresh, path)
        return path


def store_of(inputs: ReleaseInputs) -> str:
    """Folder of all releases of that name."""
    return f"{inputs.home}/release/{inputs.name}"


def parts(path: str) -> list[str]:
    """The folders directly below `path`."""
    return sorted(entry.path for entry in os.scandir(path) if entry.is_dir())


def files(source: str) -> Iterator[str]:
    """Relative paths of the files of `source`, sorted; caches are left out, and so are links (they lead
    elsewhere).
    """
    for place, folders, names in os.walk(source):
        folders[:] = sorted(each for each in folders if each not in SKIPPED)
        for name in sorted(names):
            path = os.path.join(place, name)
            if not name.endswith(".pyc") and not os.path.islink(path):
                yield os.path.relpath(path, source)


def digest(sources: Sequence[str]) -> str:
    """SHA-256 (hexadecimal) over the names, contents and executable bits of all files of the folders
    `sources`.

    The program calls this for the input `digest`, so that a preview shows whether the code changed. Folders
    enter by their last name only; their order does not matter.
    """
    total = hashlib.sha256()
    for source in sorted((each.rstrip("/") for each in sources), key=os.path.basename):
        for name in files(source):
            path = os.path.join(source, name)
            with explained(f"cannot read {path}"), open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
                executable = "x" if os.fstat(file.fileno()).st_mode & 0o100 else "-"
            total.update(f"{os.path.basename(source)}/{name}\0{executable}\0{content}\n".encode())
    return total.hexdigest()


def copy(source: str, target: str) -> None:
    """Copy the files that `digest` counts, readable by everybody."""
    made: set[str] = set()
    os.mkdir(target)
    os.chmod(target, 0o755)
    for name in files(source):
        parent = os.path.dirname(name)
        steps = parent.split("/") if parent else []
        for depth in range(1, len(steps) + 1):
            step = "/".join(steps[:depth])
            if step not in made:
                made.add(step)
                os.mkdir(f"{target}/{step}")
                os.chmod(f"{target}/{step}", 0o755)
        shutil.copyfile(f"{source}/{name}", f"{target}/{name}")
        os.chmod(f"{target}/{name}", 0o755 if os.stat(f"{source}/{name}").st_mode & 0o100 else 0o644)
