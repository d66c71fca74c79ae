"""pgBackRest on each PostgreSQL node: its configuration, and the server through which the other nodes reach it.

Commands run where they are asked for, so each node has all of it. What PostgreSQL itself calls stands in
`archive_command` and `restore_command`; both come from here and are put into Patroni's file.
"""

from __future__ import annotations

from dataclasses import dataclass

from stacks import topology
from stacks.render import Probe, Process, Site, keeping, template
from stacks.spec import Platform

NAME = "pgbackrest"
"""Of the process, and so of its folder on each node."""
PROGRAM = "/usr/bin/pgbackrest"
CONFIG, ARCHIVE_CONFIG, LONG_TERM_CONFIG = "pgbackrest.conf", "archive.conf", "long-term.conf"
"""Of every repository; of the one that PostgreSQL archives to; of the one for long-term backups."""
PRIMARY = "primary"
"""Folder with a folder for each other node: what to add to either of the latter two when that node leads."""
PUSH, GET = "archive-push", "archive-get"
FALLBACK = "read-archive"
"""While this file exists in its folder, a replica may fetch WAL from the archive (agent.archive)."""


@dataclass(frozen=True)
class Repository:
    """One place that backups go to; `number` is pgBackRest's."""

    number: int
    bucket: str
    long_term: bool = False

    @property
    def passphrase(self) -> str:
        """Name of the secret that its files are encrypted with."""
        return f"backup/repo{self.number}"


def repositories(platform: Platform) -> tuple[Repository, ...]:
    """Those of the platform, by number."""
    return (
        Repository(1, platform.storage.bucket),
        Repository(2, platform.backup.long_term_bucket, long_term=True),
    )


def processes(platform: Platform, site: Site) -> list[Process]:
    """One server per PostgreSQL node; a command reads its files anew, the server by SIGHUP."""
    return [
        Process(
            node=node.name,
            name=NAME,
            command=(PROGRAM, f"--config={site.folder(node.name, NAME)}/{CONFIG}", "server"),
            files=_files(platform, site, node),
            restart_only=_restart_only,
            reload_signal="HUP",
            probe=Probe("tcp", node.address, platform.backup.port),
            rollout=NAME,
        )
        for node in topology.of_role(platform, "postgres")
    ]


def command(platform: Platform, site: Site, node: str, config: str = CONFIG) -> list[str]:
    """pgBackRest on `node`, to which a command and its options are added."""
    return [PROGRAM, f"--config={site.folder(node, NAME)}/{config}", f"--stanza={platform.backup.stanza}"]


def archive_command(platform: Platform, site: Site, node: str) -> str:
    """PostgreSQL's archive_command on `node`."""
    return f"/bin/sh {site.folder(node, NAME)}/{PUSH} %p"


def restore_command(platform: Platform, site: Site, node: str) -> str:
    """PostgreSQL's restore_command on `node`."""
    # exec: the script looks who called it.
    return f'exec /bin/sh {site.folder(node, NAME)}/{GET} %f "%p"'


def _files(platform: Platform, site: Site, node: topology.Node) -> dict[str, str]:
    folder = site.folder(node.name, NAME)
    others = [other for other in topology.of_role(platform, "postgres") if other != node]
    (store,) = topology.of_role(platform, "storage")
    common = {
        "spec": platform,
        "program": PROGRAM,
        "node": node,
        "others": others,
        "store": store,
        "folder": folder,
        "certificate": site.certificate(node.name),
        "ca": site.ca,
        "socket": site.folder(node.name, "patroni"),
        "data": lambda name: f"{site.folder(name, 'patroni')}/data",
        "config": lambda name: f"{site.folder(name, NAME)}/{CONFIG}",
        # Its own data are pgBackRest's first ones.
        "number": lambda other: others.index(other) + 2,
    }

    def configuration(wanted: tuple[Repository, ...], members: list[topology.Node]) -> str:
        return template("pgbackrest.conf.j2", repositories=wanted, members=members, **common)

    every = repositories(platform)
    return {
        CONFIG: configuration(every, others),
        # One store that is away would hold up the archiving to both, so PostgreSQL archives to the first only. A
        # long-term backup is given the segments that it needs (docs/adr/0023).
        ARCHIVE_CONFIG: configuration(every[:1], []),
        LONG_TERM_CONFIG: configuration(every[1:], []),
        # A backup of this node's data adds the primary, and none of the others: it would wait for one that is away.
        **{
            f"{PRIMARY}/{other.name}/member.conf": f"[{platform.backup.stanza}]\n"
            + template("pgbackrest-member.conf.j2", other=other, **common)
            for other in others
        },
        PUSH: template(
            "archive-push.sh.j2",
            command=" ".join([*command(platform, site, node.name, ARCHIVE_CONFIG), "archive-push"]),
            patience_s=platform.backup.push_wait_s,
        ),
        GET: template(
            "archive-get.sh.j2",
            command=" ".join([*command(platform, site, node.name, ARCHIVE_CONFIG), "archive-get"]),
            fallback=f"{folder}/{FALLBACK}",
        ),
    }


def _restart_only(name: str, text: str) -> str:
    """Where the server listens; all else it reads anew."""
    return keeping("tls-server-address", "tls-server-port")(name, text) if name == CONFIG else ""
