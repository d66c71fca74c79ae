"""The client-side classes and the handlers name the same inputs and outputs."""

from __future__ import annotations

import inspect
import re

import pytest

from stacks.local import resources
from stacks.local.provider.handlers import HANDLERS
from stacks.local.provider.main import NAME


@pytest.mark.parametrize("token", sorted(HANDLERS))
def test_class_and_handler_agree(token: str) -> None:
    package, module, name = token.split(":")
    assert (package, module) == (NAME, "index")
    made = getattr(resources, name)
    handler = HANDLERS[token]
    parameters = inspect.signature(made.__init__).parameters
    keywords = {key for key, each in parameters.items() if each.kind is inspect.Parameter.KEYWORD_ONLY} - {
        "opts"
    }
    assert keywords == set(handler.fields)
    assert set(made.OUTPUTS) == set(handler.outputs)
    required = {key for key in keywords if parameters[key].default is inspect.Parameter.empty}
    assert required == {problem.property for problem in handler.check({})[1]}


@pytest.mark.parametrize("token", sorted(HANDLERS))
def test_handlers_name_only_what_exists(token: str) -> None:
    handler = HANDLERS[token]
    assert handler.replace_on <= set(handler.fields)
    assert handler.secret_outputs <= set(handler.outputs)
    assert set(handler.derived) <= set(handler.outputs)
    assert {source for sources in handler.derived.values() for source in sources} <= set(handler.fields)
    assert not handler.healthy or "state" in handler.outputs
    assert not set(handler.outputs) & set(handler.fields)


@pytest.mark.parametrize("token", sorted(HANDLERS))
def test_every_output_is_described(token: str) -> None:
    handler = HANDLERS[token]
    words = re.findall(r"\w+", type(handler).__doc__ or "")
    assert [name for name in handler.outputs if name not in words] == []
