"""A query string without escapes is split without parse_qsl, and means the same."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import parse_qsl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wms.api.fields import MAX_QUERY_FIELDS, _pairs


@given(st.text(alphabet="ab=&%+25;.-", max_size=60))
def test_a_query_string_means_what_parse_qsl_says(text: str) -> None:
    assert outcome(_pairs, text) == outcome(by_parse_qsl, text)


def by_parse_qsl(text: str) -> list[tuple[str, str]]:
    return parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_QUERY_FIELDS)


def outcome(read: Callable[[str], list[tuple[str, str]]], text: str) -> object:
    """What is read, or that it is refused."""
    try:
        return read(text)
    except ValueError:
        return ValueError


def test_too_many_fields_are_refused_escaped_or_not() -> None:
    most = "&".join(["a=1"] * MAX_QUERY_FIELDS)
    assert len(_pairs(most)) == MAX_QUERY_FIELDS
    for more in ("&a=1", "&a=%31"):
        with pytest.raises(ValueError, match="fields"):
            _pairs(most + more)
