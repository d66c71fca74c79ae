"""JSON over HTTPS to the servers of the platform: Patroni's REST API and etcd's gateway."""

from __future__ import annotations

import json
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import urllib3

from stacks.local.provider.errors import ProviderError, Unreachable

SECONDS = 10.0
"""Longest single request, unless the caller allows more."""


class Answer(NamedTuple):
    """Status and decoded body; the text itself where it is no JSON."""

    status: int
    body: Any


def request(
    method: str,
    url: str,
    *,
    ca: str = "",
    user: str = "",
    password: str = "",
    token: str = "",
    body: Any = None,
    seconds: float = SECONDS,
) -> Answer:
    """One request, not retried. Credentials go into headers only.

    Raises Unreachable naming the server and the kind of failure, never the credentials.
    """
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if password:
        headers.update(urllib3.make_headers(basic_auth=f"{user}:{password}"))
    if token:
        headers["Authorization"] = token
    parts = urlsplit(url)
    trust: dict[str, Any] = (
        {"cert_reqs": "CERT_REQUIRED", "ca_certs": ca or None} if parts.scheme == "https" else {}
    )
    try:
        with urllib3.PoolManager(timeout=urllib3.Timeout(total=seconds), retries=False, **trust) as pool:
            answer = pool.request(
                method, url, headers=headers, body=None if body is None else json.dumps(body).encode()
            )
            text = answer.data.decode(errors="replace")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        cause = error.__cause__ or error.args[-1] if error.args else error
        raise Unreachable(
            f"{parts.scheme}://{parts.netloc} does not answer ({type(error).__name__}: {short(cause)})",
            "See whether that server runs: wmsctl status, or its log in the folder supervisor/log",
        ) from None
    try:
        return Answer(answer.status, json.loads(text))
    except ValueError:
        return Answer(answer.status, text.strip())


def short(cause: object) -> str:
    """The cause of a failed connection in a few words."""
    return str(cause).strip("()'\"")[:200]


def expect(answer: Answer, doing: str, *statuses: int) -> Any:
    """The body when the status is one of `statuses`. Raises ProviderError with what the server said
    otherwise.
    """
    if answer.status in statuses:
        return answer.body
    advice = "Check the user and the password" if answer.status in (401, 403) else ""
    raise ProviderError(f"{doing}: the server answers {answer.status}: {str(answer.body)[:500]}", advice)
