"""One node of the platform as a Pulumi component: its certificate, and the files and processes on it."""

from __future__ import annotations

import pulumi

from stacks import render, topology
from stacks.local import resources
from stacks.local.vault import Vault
from stacks.render import Process, Site
from stacks.spec import Platform
from stacks.topology import Node


class NodeComponent(pulumi.ComponentResource):
    """Parent of everything that is on one node."""

    def __init__(
        self,
        node: Node,
        platform: Platform,
        site: Site,
        user: str,
        vault: Vault,
        authority: resources.Authority,
        needs: list[pulumi.Resource],
    ) -> None:
        super().__init__("wms:local:Node", node.name, None, None)
        self._node, self._site, self._user, self._vault, self._needs = node, site, user, vault, needs
        self.processes: dict[str, resources.Process] = {}
        certificate = resources.Certificate(
            f"{node.name}/certificate",
            ca_cert_pem=authority.cert_pem,
            ca_key_pem=authority.key_pem,
            ca_chain_pem=authority.chain_pem,
            common_name=node.name,
            sans=list(topology.names(node)),
            days=platform.pki.certificate_days,
            renew_before_days=platform.pki.renew_before_days,
            opts=pulumi.ResourceOptions(parent=self),
        )
        pem: pulumi.Output[str] = pulumi.Output.secret(
            pulumi.Output.concat(certificate.cert_pem, certificate.key_pem)
        )
        self._tls = self._file("tls/node.pem", pem, mode="0600")
        self._tls_fingerprint = pulumi.Output.all(certificate.cert_pem, authority.bundle_pem).apply(
            lambda pems: render.fingerprint("".join(pems))
        )
        self.register_outputs({"zone": node.zone, "address": node.address})

    def add(self, process: Process, needs: list[pulumi.Resource] | None = None) -> resources.Process:
        """Declare the files of `process` and the process itself, after `needs`."""
        vault, folder = self._vault, process.name
        files = [
            self._file(
                f"{folder}/{name}", vault.reveal(text), mode="0600" if render.secrets_in(text) else "0640"
            )
            for name, text in process.files.items()
        ]
        applies = process.restart_only
        restart: dict[str, pulumi.Input[str]] = {
            name: vault.fingerprint(applies(name, text) if applies else text)
            for name, text in process.files.items()
        }
        reload: dict[str, pulumi.Input[str]] = {}
        if process.reload_signal or process.reload_command:
            reload = {name: vault.fingerprint(text) for name, text in process.files.items()}
        (reload if reload else restart)["tls"] = self._tls_fingerprint
        resource = resources.Process(
            process.key,
            home=self._site.home,
            user=self._user,
            node=process.node,
            name=process.name,
            command=list(process.command),
            environment={key: vault.reveal(text) for key, text in process.environment.items()},
            restart_on=restart,
            reload_on=reload,
            reload=_reload(process),
            stop_signal=process.stop_signal,
            stop_seconds=process.stop_s,
            probe=_probe(process, self._site.ca),
            rollout=self._rollout(process),
            opts=pulumi.ResourceOptions(
                parent=self, depends_on=[*self._needs, self._tls, *files, *(needs or [])]
            ),
        )
        self.processes[process.name] = resource
        return resource

    def _file(self, relative: str, content: pulumi.Input[str], mode: str) -> resources.File:
        return resources.File(
            f"{self._node.name}/{relative}",
            home=self._site.home,
            user=self._user,
            path=f"{self._site.home}/nodes/{self._node.name}/{relative}",
            content=content,
            mode=mode,
            opts=pulumi.ResourceOptions(parent=self, depends_on=self._needs),
        )

    def _rollout(self, process: Process) -> dict[str, object]:
        rollout: dict[str, object] = {"group": process.rollout or process.key}
        if process.leader == "patroni":
            rollout["leader"] = {
                "kind": "patroni",
                "url": f"https://{process.probe.address}:{process.probe.port}",
                "ca": self._site.ca,
                "user": "patroni",
                "password": self._vault.value("patroni/rest"),
            }
        elif process.leader == "redis":
            rollout["leader"] = {
                "kind": "redis",
                "address": process.probe.address,
                "port": process.probe.port,
                "ca": self._site.ca,
                "user": "admin",
                "password": self._vault.value("redis/admin"),
            }
        return rollout


def _reload(process: Process) -> dict[str, object] | None:
    if process.reload_signal:
        return {"signal": process.reload_signal}
    if process.reload_command:
        return {"command": list(process.reload_command)}
    return None


def _probe(process: Process, ca: str) -> dict[str, object]:
    probe = process.probe
    return {
        "kind": probe.kind,
        "address": probe.address,
        "port": probe.port,
        "path": probe.path,
        "tls": probe.tls,
        "ca": ca,
        "expect": list(probe.expect),
        "command": list(probe.command),
        "timeout_s": probe.timeout_s,
    }
