"""Golden files: the rendered files of a node of each role; `python -m tests.stacks.golden` rewrites them."""

from __future__ import annotations

import shutil
from pathlib import Path

from stacks import engines, spec
from stacks.render import Process, Site

FOLDER = Path(__file__).parent / "golden"

SITE = Site(
    home="/srv/wms/local",
    python="/srv/wms/venv/bin/python",
    service="/srv/wms/local/release/service",
    agent="/srv/wms/local/release/agent",
    ca="/srv/wms/local/pki/ca.crt",
    web="/srv/wms/local/release/web/dist",
)
NODES = (
    "etcd-1",
    "pg-1",
    "pg-2",
    "proxy-1",
    "redis-1",
    "storage-1",
    "app-1",
    "gateway-1",
    "edge-1",
    "monitor-1",
)
"""One of each role, and a replica of PostgreSQL beside the first member."""


def rendered() -> dict[str, str]:
    """Path below FOLDER → text. Beside the files of each process, `process.txt` says how it is run."""
    platform = spec.load("local", {"network": "127.45"})
    texts: dict[str, str] = {}
    for process in engines.processes(platform, SITE):
        if process.node in NODES:
            texts[f"{process.key}/process.txt"] = _description(process)
            texts |= {f"{process.key}/{name}": text for name, text in process.files.items()}
    return texts


def _description(process: Process) -> str:
    probe = process.probe
    asked = " ".join(probe.command) or f"{probe.address}:{probe.port}{probe.path}"
    lines = [
        "command:",
        *(f"  {part}" for part in process.command),
        *(["environment:"] if process.environment else []),
        *(f"  {name}={value}" for name, value in sorted(process.environment.items())),
        f"probe: {probe.kind} {asked} tls={probe.tls} {probe.timeout_s:g}s",
        f"reload: {process.reload_signal or ' '.join(process.reload_command) or 'restart'}",
        f"stop: {process.stop_signal} {process.stop_s}s",
        f"rollout: {process.rollout or '-'} leader: {process.leader or '-'}",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name, text in rendered().items():
        path = FOLDER / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
