"""The environment in which Pulumi, wmsctl and the servers' commands work from any shell."""

from __future__ import annotations

import os
import secrets
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

from toolchain import checkout, paths
from toolchain.errors import ToolchainError

PASSPHRASE = "PULUMI_CONFIG_PASSPHRASE"


def environment() -> dict[str, str]:
    """The variables that plain `pulumi up` needs, complete (PATH included), all values absolute.

    Creates the Pulumi state folder and the passphrase file in WMS_HOME when they are absent. Raises
    ToolchainError when the toolchain is not installed or WMS_HOME cannot be written.
    """
    links = installed()
    home = paths.home()
    state, passphrase = prepare(home)
    return variables(links, home, state, passphrase, os.environ.get("PATH", os.defpath))


def process_environment() -> dict[str, str]:
    """This process's environment with `environment()` over it, to start programs with.

    A passphrase in the variable would win over the file: it is left out, so that all runs open the same
    state.
    """
    return {name: value for name, value in os.environ.items() if name != PASSPHRASE} | environment()


def installed() -> checkout.Links:
    """What the toolchain installed for this checkout. Raises ToolchainError when that is nothing, or no
    longer there."""
    links = checkout.read()
    if links is None:
        raise ToolchainError(f"{checkout.FOLDER} is missing or out of date; run: make setup")
    if links.cache != str(paths.cache()):
        raise ToolchainError(
            f"{checkout.FOLDER} was made for the cache {links.cache}, but WMS_CACHE is {paths.cache()}; "
            "run: make setup"
        )
    if links.checkout != str(paths.CHECKOUT) or not links.complete():
        raise ToolchainError(f"{checkout.FOLDER} points at something that has gone; run: make setup")
    return links


def variables(links: checkout.Links, home: Path, state: Path, passphrase: Path, path: str) -> dict[str, str]:
    """The variables, from what is installed; `path` is the caller's PATH, on which programs are looked up."""
    first = [f"{links.checkout}/.venv/bin"]
    # The user's own CLI may live in /usr/bin: that is not to be pulled before the rest of PATH when it is
    # found anyway.
    for folder, program in ((links.pulumi, "pulumi"), (links.language_host, "pulumi-language-python")):
        if folder not in first and shutil.which(program, path=path) != f"{folder}/{program}":
            first.append(folder)
    rest = [folder for folder in path.split(os.pathsep) if folder and folder not in first]
    return {
        "PATH": os.pathsep.join(first + rest),
        "PULUMI_BACKEND_URL": f"file://{state}",
        "PULUMI_CONFIG_PASSPHRASE_FILE": str(passphrase),
        "PULUMI_SKIP_UPDATE_CHECK": "true",
        "WMS_HOME": str(home),
        "WMS_CACHE": links.cache,
        "WMS_PYTHON": links.python,
        "WMS_VERSITYGW": links.versitygw,
    }


def shell(values: Mapping[str, str]) -> str:
    """The variables as lines for `eval` in a POSIX shell."""
    lines = [f"export {name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join([f"unset {PASSPHRASE}", *lines])


def prepare(home: Path) -> tuple[Path, Path]:
    """Create what Pulumi needs in `home`: its state folder (0700) and the passphrase file (0600), once.

    Two runs at once end up with the same passphrase: it is written aside and gets its name by a link, which
    only the first can make. Returns both paths. Raises ToolchainError when `home` cannot be written.
    """
    state, passphrase = home / "pulumi", home / "pulumi-passphrase"
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o755)
        state.mkdir(exist_ok=True, mode=0o700)
        if not passphrase.exists():
            if any((state / ".pulumi" / "stacks").rglob("*.json")):
                raise ToolchainError(
                    f"{passphrase} is missing, but {state} holds stacks that were encrypted with it. "
                    "Restore the file from a backup; without it the secrets in that state are lost"
                )
            new = home / f".pulumi-passphrase.{os.getpid()}"
            descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as stream:
                stream.write(secrets.token_urlsafe(32))
                stream.flush()
                os.fsync(stream.fileno())
            try:
                os.link(new, passphrase)
            except FileExistsError:
                pass
            finally:
                new.unlink()
    except OSError as error:
        raise ToolchainError(
            f"{home}: cannot write ({error.strerror}); free it, or set WMS_HOME to a folder of yours"
        ) from error
    return state, passphrase
