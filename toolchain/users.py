"""The user that servers run as."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from toolchain import paths
from toolchain.process import run

SERVICE_USER = paths.NAME


def service_user() -> str:
    """Who the servers run as: as root the system user of the platform, else whoever we are."""
    return SERVICE_USER if paths.is_root() else pwd.getpwuid(os.geteuid()).pw_name


def create(log: Path) -> None:
    """Create the system user: no login, no password, no home. As root only; nothing to do if it exists.

    Raises ToolchainError when useradd fails.
    """
    try:
        pwd.getpwnam(SERVICE_USER)
        return
    except KeyError:
        pass
    run(
        [
            "/usr/sbin/useradd",
            "--system",
            "--user-group",
            "--no-create-home",
            "--home-dir",
            f"/var/lib/{SERVICE_USER}",
            "--shell",
            "/usr/sbin/nologin",
            SERVICE_USER,
        ],
        what="system user",
        log=log,
        seconds=1,
        deadline=60,
    )
