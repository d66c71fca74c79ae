"""Prometheus and Alertmanager: what fires, and instant queries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from wmsctl.clients.http import Http
from wmsctl.errors import Failed
from wmsctl.inventory import Endpoint, Inventory


@dataclass(frozen=True)
class Alert:
    """An alert that fires now and is neither silenced nor inhibited."""

    name: str
    severity: str
    since: str
    """UTC ISO 8601."""
    labels: Mapping[str, str]
    summary: str = ""
    runbook: str = ""


@dataclass(frozen=True)
class Sample:
    labels: Mapping[str, str]
    value: float


class Alertmanager:
    def __init__(self, http: Http) -> None:
        self.http = http

    def firing(self, *, timeout: float = 2.0) -> tuple[Alert, ...]:
        """Active alerts, critical first, then by name."""
        query = urlencode({"active": "true", "silenced": "false", "inhibited": "false"})
        return parse_alerts(self.http.get(f"/api/v2/alerts?{query}", timeout=timeout).json())


class Prometheus:
    def __init__(self, http: Http) -> None:
        self.http = http

    def query(self, expression: str, *, timeout: float = 5.0) -> tuple[Sample, ...]:
        """An instant query's vector (a scalar becomes one sample without labels). Raises Failed with the
        server's reason.
        """
        path = "/api/v1/query?" + urlencode({"query": expression, "timeout": f"{timeout:g}s"})
        document = self.http.get(path, timeout=timeout + 1, expect=(200, 400, 422, 503)).json()
        if document.get("status") != "success":
            raise Failed(
                f"Prometheus refuses the query {expression!r}: {document.get('error', 'no reason given')}"
            )
        return parse_vector(document["data"])


def alertmanager(inventory: Inventory) -> Alertmanager | None:
    endpoint = inventory.monitoring.alertmanager
    return Alertmanager(endpoint_client("Alertmanager", endpoint, inventory.ca)) if endpoint else None


def prometheus(inventory: Inventory) -> Prometheus | None:
    endpoint = inventory.monitoring.prometheus
    return Prometheus(endpoint_client("Prometheus", endpoint, inventory.ca)) if endpoint else None


def endpoint_client(what: str, endpoint: Endpoint, ca: str, *, timeout: float = 2.0) -> Http:
    """The HTTP client of an inventory endpoint."""
    return Http(
        f"{what} on {endpoint.node}",
        endpoint.address,
        endpoint.port,
        ca=ca if endpoint.tls else "",
        timeout=timeout,
    )


def parse_alerts(document: list[dict[str, Any]]) -> tuple[Alert, ...]:
    """GET /api/v2/alerts → alerts, critical first."""
    order = {"critical": 0, "warning": 1}
    alerts = []
    for entry in document:
        labels, notes = entry["labels"], entry.get("annotations", {})
        alerts.append(
            Alert(
                name=labels.get("alertname", ""),
                severity=labels.get("severity", ""),
                since=entry.get("startsAt", ""),
                labels=labels,
                summary=notes.get("summary", ""),
                runbook=notes.get("runbook_url", ""),
            )
        )
    return tuple(sorted(alerts, key=lambda alert: (order.get(alert.severity, 2), alert.name, alert.since)))


def parse_vector(data: Mapping[str, Any]) -> tuple[Sample, ...]:
    """The `data` of an instant query → samples."""
    if data["resultType"] == "scalar":
        return (Sample({}, float(data["result"][1])),)
    return tuple(Sample(entry["metric"], float(entry["value"][1])) for entry in data["result"])
