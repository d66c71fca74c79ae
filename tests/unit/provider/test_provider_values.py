"""Values, differences, and how requests of the engine reach a handler and return."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from pulumi.provider.experimental import provider as api
from pulumi.provider.experimental.property_value import PropertyValue
from pulumi.runtime import rpc

from stacks.local.provider.difference import differences
from stacks.local.provider.errors import NotReady, ProviderError, Unreachable, explained
from stacks.local.provider.handler import Handler, Inputs, Made, Problem
from stacks.local.provider.main import InitFailed, LocalProvider, described, token
from stacks.local.provider.values import UNKNOWN, Values, decode, encode, redacted

URN = "urn:pulumi:live::project::wms:local:Node$wms:index:Thing::first"


def secret(value: Any) -> PropertyValue:
    return PropertyValue(value, is_secret=True)


def test_values_travel_there_and_back() -> None:
    properties = {
        "text": PropertyValue("a"),
        "number": PropertyValue(3.0),
        "share": PropertyValue(0.5),
        "flag": PropertyValue(True),
        "table": PropertyValue({"open": PropertyValue("x"), "closed": secret("y")}),
        "list": PropertyValue([PropertyValue("p"), secret("q")]),
        "nothing": PropertyValue(None),
    }
    values, secrets = decode(properties)
    assert values == {
        "text": "a",
        "number": 3,
        "share": 0.5,
        "flag": True,
        "table": {"open": "x", "closed": "y"},
        "list": ["p", "q"],
    }
    assert isinstance(values["number"], int)
    assert secrets == {("table", "closed"), ("list",)}
    back = encode(values, secrets)
    table: Any = back["table"].value
    assert table["closed"].is_secret
    assert not table["open"].is_secret
    assert back["list"].is_secret
    assert back["number"].value == 3.0


@pytest.mark.parametrize("mark", [rpc.UNKNOWN, "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7"])
def test_unknowns_travel(mark: str) -> None:
    values, _ = decode({"later": PropertyValue(mark), "table": PropertyValue({"later": PropertyValue(mark)})})
    assert values == {"later": UNKNOWN, "table": {"later": UNKNOWN}}
    assert encode(values)["later"].value == rpc.UNKNOWN


def test_a_secret_whose_key_vanished_hides_what_holds_it() -> None:
    encoded = encode({"environment": {"RENAMED": "x"}, "name": "n"}, {("environment", "PASSWORD")})
    assert encoded["environment"].is_secret
    assert not encoded["name"].is_secret


def test_unknown_has_no_truth() -> None:
    with pytest.raises(TypeError):
        bool(UNKNOWN)


def test_secrets_are_cut_out_of_messages() -> None:
    values = {"password": "hunter2hunter2", "deep": {"key": "abcdefgh", "short": "abc"}}
    message = redacted("hunter2hunter2 and abcdefgh and abc", values, {("password",), ("deep",)})
    assert message == "[secret] and [secret] and abc"


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, {}),
        ({"a": 1}, {"a": True}, {"a": "update"}),
        ({"a": "1"}, {"a": 1}, {"a": "update"}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 1, "c": 3}}, {"a.c": "update"}),
        ({"a": {"b": 1}}, {"a": {"d.e": 1}}, {"a.b": "delete", 'a["d.e"]': "add"}),
        ({"a": [1, 2]}, {"a": [1, 3, 4]}, {"a[1]": "update", "a[2]": "add"}),
        ({"a": [{"x": 1}]}, {"a": []}, {"a[0]": "delete"}),
        ({"a": {"x": 1}}, {"a": "text"}, {"a": "update"}),
        ({}, {"a": {}}, {"a": "add"}),
        ({"a": "x"}, {"a": UNKNOWN}, {"a": "update"}),
    ],
)
def test_differences_name_the_innermost_key(old: Values, new: Values, expected: dict[str, str]) -> None:
    assert differences(old, new) == expected


def test_os_errors_say_what_to_do() -> None:
    with (
        pytest.raises(ProviderError, match=r"cannot write /x: No space left on device\. Free space"),
        explained("cannot write /x"),
    ):
        raise OSError(28, "whatever")


# -- the protocol, with a handler that stands for all of them --


class ThingInputs(Inputs, frozen=True, kw_only=True):
    name: str
    password: str = ""
    size: int = 3
    note: str | None = None


class ThingHandler(Handler[ThingInputs]):
    """Keeps things in a dict."""

    inputs_type = ThingInputs
    outputs = ("hash", "state", "token")
    secret_outputs = frozenset({"token"})
    derived = {"hash": ("password",)}  # noqa: RUF012
    replace_on = frozenset({"name"})
    healthy = "well"

    def __init__(self) -> None:
        self.things: dict[str, Values] = {}
        self.away = False

    def problems(self, inputs: Values) -> Iterator[Problem]:
        if inputs.get("size", 1) < 1:
            yield Problem("size", "must be at least 1")

    def make(self, name: str, inputs: ThingInputs) -> Made:
        if inputs.password == "refused-password":
            raise ProviderError(f"somebody put {inputs.password} into a message")
        if inputs.password == "mistaken-password":
            raise KeyError(inputs.password)
        self.things[inputs.name] = {"size": inputs.size}
        outputs = {"hash": f"h{len(inputs.password)}", "state": "well", "token": "t"}
        if inputs.size == 13:
            raise NotReady(ProviderError("it limps"), inputs.name, {**outputs, "state": "ill"})
        return Made(inputs.name, outputs)

    def observe(self, resource_id: str, inputs: ThingInputs, state: Values) -> Values | None:
        if self.away:
            raise Unreachable("nobody there")
        return self.things.get(resource_id)

    def change(self, resource_id: str, state: Values, inputs: ThingInputs) -> Values:
        return {**self.make("", inputs).outputs}

    def remove(self, resource_id: str, inputs: ThingInputs, state: Values) -> None:
        self.things.pop(resource_id, None)


@pytest.fixture
def handler() -> ThingHandler:
    return ThingHandler()


@pytest.fixture
def provider(handler: ThingHandler) -> LocalProvider:
    return LocalProvider({"wms:index:Thing": handler})


def inputs(**values: Any) -> dict[str, PropertyValue]:
    return {
        "name": PropertyValue("first"),
        "password": secret("a-long-password"),
        **{
            key: value if isinstance(value, PropertyValue) else PropertyValue(value)
            for key, value in values.items()
        },
    }


def checked(provider: LocalProvider, given: dict[str, PropertyValue]) -> api.CheckResponse:
    return asyncio.run(provider.check(api.CheckRequest(URN, {}, given, b"")))


def created(
    provider: LocalProvider, given: dict[str, PropertyValue], preview: bool = False
) -> api.CreateResponse:
    filled = checked(provider, given).inputs
    assert filled is not None
    return asyncio.run(provider.create(api.CreateRequest(URN, filled, 0, preview)))


def test_the_type_is_the_last_of_the_urn() -> None:
    assert token(URN) == "wms:index:Thing"
    assert token("urn:pulumi:live::project::wms:index:File::name") == "wms:index:File"


def test_check_fills_defaults_and_keeps_secrets(provider: LocalProvider) -> None:
    response = checked(provider, inputs())
    assert not response.failures
    assert response.inputs is not None
    assert response.inputs["size"].value == 3.0
    assert response.inputs["password"].is_secret
    assert "note" not in response.inputs


@pytest.mark.parametrize(
    ("given", "property_name", "reason"),
    [
        ({"size": 0.0}, "size", "at least 1"),
        ({"size": "big"}, "size", "Expected `int`"),
        ({"colour": "red"}, "colour", "there is no such input; there are: name, password, size, note"),
    ],
)
def test_check_names_what_is_wrong(
    provider: LocalProvider, given: dict[str, Any], property_name: str, reason: str
) -> None:
    response = checked(provider, inputs(**given))
    assert response.failures
    assert [failure.property for failure in response.failures] == [property_name]
    assert reason in response.failures[0].reason


def test_check_wants_required_inputs_and_bears_unknown_ones(provider: LocalProvider) -> None:
    response = checked(provider, {"size": PropertyValue(rpc.UNKNOWN)})
    assert response.failures
    assert [(f.property, f.reason) for f in response.failures] == [("name", "is required")]
    response = checked(provider, inputs(size=rpc.UNKNOWN))
    assert not response.failures


def test_secret_inputs_make_derived_outputs_secret(provider: LocalProvider) -> None:
    properties = created(provider, inputs()).properties
    assert {key for key, value in properties.items() if value.is_secret} == {"password", "hash", "token"}
    properties = created(provider, inputs(password="open-password")).properties
    assert {key for key, value in properties.items() if value.is_secret} == {"token"}


def test_a_preview_makes_nothing_and_shows_unknowns(provider: LocalProvider, handler: ThingHandler) -> None:
    response = created(provider, inputs(), preview=True)
    assert handler.things == {}
    assert response.properties["state"].value == rpc.UNKNOWN
    assert response.properties["token"].is_secret


def diff(
    provider: LocalProvider, state: dict[str, PropertyValue], given: dict[str, PropertyValue]
) -> api.DiffResponse:
    filled = checked(provider, given).inputs
    assert filled is not None
    return asyncio.run(provider.diff(api.DiffRequest(URN, "first", state, filled, [])))


def test_diff_tells_updates_from_replacements(provider: LocalProvider) -> None:
    state = created(provider, inputs()).properties
    same = diff(provider, state, inputs())
    assert same.changes is False
    grown = diff(provider, state, inputs(size=4.0))
    assert grown.changes
    assert grown.diffs == ["size"]
    assert not grown.replaces
    renamed = diff(provider, state, inputs(name="second"))
    assert renamed.replaces == ["name"]
    assert renamed.delete_before_replace
    later = diff(provider, state, inputs(size=rpc.UNKNOWN))
    assert later.diffs == ["size"]


def read(provider: LocalProvider, state: dict[str, PropertyValue]) -> api.ReadResponse:
    given = {key: state[key] for key in ("name", "password", "size")}
    return asyncio.run(provider.read(api.ReadRequest(URN, "first", state, given)))


def test_read_keeps_secrets_and_finds_drift(provider: LocalProvider, handler: ThingHandler) -> None:
    state = created(provider, inputs()).properties
    handler.things["first"]["size"] = 9
    found = read(provider, state)
    assert found.properties["size"].value == 9.0
    assert found.inputs["size"].value == 9.0
    assert found.inputs["password"].is_secret
    assert found.properties["password"].is_secret
    assert set(found.inputs) == {"name", "password", "size"}
    assert diff(provider, found.properties, inputs()).diffs == ["size"]


def test_read_of_something_gone_has_no_id(provider: LocalProvider, handler: ThingHandler) -> None:
    state = created(provider, inputs()).properties
    handler.things.clear()
    assert read(provider, state).resource_id == ""


def test_an_unreachable_server_is_drift(provider: LocalProvider, handler: ThingHandler) -> None:
    state = created(provider, inputs()).properties
    handler.away = True
    found = read(provider, state)
    assert found.properties["state"].value == "unreachable"
    response = diff(provider, found.properties, inputs())
    assert response.diffs == ["state"]
    assert not response.detailed_diff["state"].input_diff


def test_what_is_not_ready_is_recorded_without_showing_secrets(provider: LocalProvider) -> None:
    with pytest.raises(InitFailed, match="it limps") as caught:
        created(provider, inputs(size=13.0))
    assert caught.value.resource_id == "first"
    assert caught.value.properties["password"].is_secret
    assert caught.value.inputs["password"].is_secret
    assert "state" not in caught.value.inputs


def test_messages_are_cleaned_of_secrets(provider: LocalProvider) -> None:
    with pytest.raises(ProviderError) as caught:
        created(provider, inputs(password=secret("refused-password")))
    assert "refused-password" not in str(caught.value)


def test_mistakes_show_their_place_but_not_their_words(provider: LocalProvider) -> None:
    with pytest.raises(KeyError) as caught:
        created(provider, inputs(password=secret("mistaken-password")))
    text = described(caught.value)
    assert "KeyError" in text
    assert "test_provider_values.py" in text
    assert "mistaken-password" not in text


def test_an_unknown_type_names_the_known_ones(provider: LocalProvider) -> None:
    with pytest.raises(ProviderError, match="Known types: wms:index:Thing"):
        provider.handler("wms:index:Other")


def test_inputs_do_not_show_themselves() -> None:
    assert "hush" not in repr(ThingInputs(name="n", password="hush"))
