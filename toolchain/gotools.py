"""Programs built from Go modules that are pinned by a go.mod and go.sum of their own."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from toolchain import paths
from toolchain.errors import ToolchainError
from toolchain.facts import Program
from toolchain.pins import GoTool
from toolchain.process import ask, run
from toolchain.store import published

SDK_SCRIPTS = ("python/cmd/pulumi-language-python-exec", "python/dist/pulumi-resource-pulumi-python")
"""Scripts of the Pulumi SDK's Go module that belong beside the host for Python programs."""


def build(tool: GoTool, go: Program, target: Path, *, log: Path) -> None:
    """Build `tool` into the new folder `target`. Under the cache's lock.

    Modules come from wherever the user's GOPROXY says and are checked against go.sum. Raises ToolchainError
    when the build or the first run of the result fails; then `target` does not exist.
    """
    module = module_folder(tool)
    environment = go_environment()
    with published(target) as work:
        run(
            [
                str(go.path),
                "build",
                "-ldflags",
                f"-s -w {tool.ldflags}".strip(),
                "-o",
                str(work / tool.name),
                tool.package,
            ],
            what=f"{tool.name} {tool.version}",
            log=log,
            seconds=tool.seconds,
            deadline=1800,
            cwd=module,
            environment=environment,
        )
        if tool.name == "pulumi-language-python":
            _copy_sdk_scripts(go, work)
        else:
            prove(work / tool.name, tool.version)


def prove(program: Path, version: str) -> None:
    """Run a freshly made program once. Raises ToolchainError when it does not run or is not of `version`."""
    flag = "version" if program.name == "pulumi" else "--version"
    said = ask([str(program), flag], timeout=60)
    if said is None or version not in said:
        raise ToolchainError(f"{program.name} {version}: built, but `{program.name} {flag}` said {said!r}")


def link_beside(tool: Path, folder: Path) -> None:
    """Give every file of the folder `tool` a relative link in `folder`, replacing older ones. Under the
    cache's lock."""
    for file in sorted(tool.iterdir()):
        new = folder / f".{file.name}.new"
        new.unlink(missing_ok=True)
        new.symlink_to(os.path.relpath(file, folder))
        new.replace(folder / file.name)


def module_folder(tool: GoTool) -> Path:
    """The folder with the tool's go.mod."""
    return paths.CHECKOUT / "toolchain" / tool.name


def go_environment() -> dict[str, str]:
    """The user's environment (proxy settings, module cache) with what makes a build repeatable.

    GOTOOLCHAIN=local: a second compiler is not downloaded behind the user's back; the plan refuses a Go that
    is too old.
    """
    return {
        **os.environ,
        "GOFLAGS": "-mod=readonly -trimpath -buildvcs=false",
        "GOTOOLCHAIN": "local",
        "GOWORK": "off",
        "CGO_ENABLED": "0",
    }


def _copy_sdk_scripts(go: Program, work: Path) -> None:
    """Take the SDK's scripts from the module that toolchain/pulumi pins, verified like every other module."""
    pinned = paths.CHECKOUT / "toolchain" / "pulumi"
    command = [str(go.path), "mod", "download", "-json", "github.com/pulumi/pulumi/sdk/v3"]
    said = ask(command, timeout=600, cwd=pinned, environment=go_environment())
    if said is None:
        raise ToolchainError(f"{' '.join(command)} failed in {pinned}; run it there to see why")
    try:
        folder = Path(json.loads(said)["Dir"])
        for script in SDK_SCRIPTS:
            target = work / Path(script).name
            shutil.copyfile(folder / script, target)
            target.chmod(0o755)
    except (ValueError, KeyError, OSError) as error:
        raise ToolchainError(
            f"pulumi-language-python: the scripts of the Pulumi SDK are missing ({error})"
        ) from error
