"""The content coding deflate (row A2): the gateway compresses with gzip and brotli, and has no deflate. So it asks for
it in the name of a client who takes nothing else, and the service does it.

`deflate` is the zlib format, RFC 1950, as RFC 9110 §8.4.1.2 has it; the bare stream that some old servers sent under
this name is something else.
"""

from __future__ import annotations

import re
import zlib

from wms.api.asgi import Outgoing

MIN_BYTES = 512
"""Below that the answer fits a packet either way; the gateway's gzip_min_length."""
LEVEL = 4
"""The gateway's gzip_comp_level."""
_TYPES = (b"application/json", b"application/problem+json", b"text/plain")


def _takes(coding: bytes) -> re.Pattern[bytes]:
    """Matches an Accept-Encoding that lists `coding` with a weight above 0 (RFC 9110 §12.5.3)."""
    return re.compile(
        rb"(?:^|,)\s*" + coding + rb"\s*(?:,|$|;\s*q\s*=\s*(?:1|0?\.[0-9]*[1-9]))", re.IGNORECASE
    )


_DEFLATE, _BETTER = _takes(rb"deflate"), _takes(rb"(?:gzip|x-gzip|br)")


def deflate_only(accept_encoding: bytes) -> bool:
    """Whether a client takes deflate, and names none of the codings that the gateway does."""
    return _DEFLATE.search(accept_encoding) is not None and _BETTER.search(accept_encoding) is None


def coded(answer: Outgoing, accept_encoding: bytes) -> Outgoing:
    """`answer` as it is sent to a client who sent this Accept-Encoding: deflated, or as it is.

    Its ETag is weakened, as the gateway does with what it compresses: the bytes are not the same.
    """
    if len(answer.content) < MIN_BYTES or not deflate_only(accept_encoding):
        return answer
    headers = dict(answer.headers)
    if headers.get(b"content-type") not in _TYPES or b"content-encoding" in headers:
        return answer
    content = zlib.compress(answer.content, LEVEL)
    headers[b"content-encoding"] = b"deflate"
    headers[b"content-length"] = b"%d" % len(content)
    if b"etag" in headers:
        headers[b"etag"] = b"W/" + headers[b"etag"].removeprefix(b"W/")
    headers.setdefault(b"vary", b"Accept-Encoding")
    return Outgoing(answer.status, tuple(headers.items()), content)
