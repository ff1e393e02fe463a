"""A mistake in a TOML file is explained with its line and the nearest known key."""

from typing import Annotated

import pytest
from msgspec import Meta, Struct

from outrider_wire.errors import OperatorConfigError
from outrider_wire.settings import convert, parse_toml


class Broker(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    url: str = ""
    keepalive_s: Annotated[int, Meta(ge=1)] = 20


class TaskEntry(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    file: str
    limits: dict[str, Annotated[int, Meta(le=5)]] = {}


class Config(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    device: str
    broker: Broker = Broker()
    fallback: Broker | None = None
    tasks: list[TaskEntry] = []


GOOD = """
device = "cam-7"

[broker]
url = "mqtt://localhost"

[[tasks]]
file = "a.toml"
"""


def refusal(text: str) -> OperatorConfigError:
    with pytest.raises(OperatorConfigError) as caught:
        parse_toml(text, Config, "edge.toml")
    return caught.value


def test_a_good_file_becomes_a_value() -> None:
    assert parse_toml(GOOD, Config, "edge.toml") == Config(
        device="cam-7", broker=Broker(url="mqtt://localhost"), tasks=[TaskEntry(file="a.toml")]
    )


def test_an_unknown_key_gets_its_line_and_the_nearest_known_one() -> None:
    error = refusal(GOOD.replace("device", "devise"))
    assert error.reason == "unknown_key"
    assert str(error) == "edge.toml:2: unknown key 'devise'; did you mean 'device'?"


def test_an_unknown_key_in_a_table_is_compared_with_that_tables_keys() -> None:
    assert str(refusal(GOOD.replace("url", "ulr"))) == "edge.toml:5: unknown key 'ulr'; did you mean 'url'?"


def test_an_unknown_key_in_a_list_of_tables() -> None:
    assert str(refusal(GOOD.replace("file", "fill"))).startswith("edge.toml:8: unknown key 'fill'; did you mean 'file'")


def test_an_unknown_key_in_an_optional_table() -> None:
    error = refusal(GOOD + "\n[fallback]\nurk = 1\n")
    assert str(error) == "edge.toml:11: unknown key 'urk'; did you mean 'url'?"


def test_a_key_like_nothing_gets_the_list_of_known_ones() -> None:
    assert "known keys here: url, keepalive_s" in str(refusal(GOOD.replace("url", "zzzzzzzz")))


def test_a_value_of_the_wrong_type_gets_its_line() -> None:
    error = refusal('device = "cam-7"\n[broker]\nkeepalive_s = "20"\n')
    assert error.reason == "invalid_value"
    assert str(error).startswith("edge.toml:3: Expected `int`, got `str`")


def test_a_value_out_of_bounds_gets_its_line() -> None:
    assert str(refusal('device = "c"\n[broker]\nkeepalive_s = 0\n')).startswith("edge.toml:3: Expected `int` >= 1")


def test_a_missing_key_is_named() -> None:
    assert "missing required field `device`" in str(refusal("[broker]\n"))


def test_broken_toml_gets_the_parsers_place() -> None:
    error = refusal('device = "cam-7\n')
    assert (error.reason, error.exit_code) == ("invalid_toml", 2)
    assert "line 1" in str(error)


def test_plain_data_is_explained_without_a_line() -> None:
    with pytest.raises(OperatorConfigError, match=r"^flags: unknown key 'devise'"):
        convert({"devise": "x", "device": "y"}, Config, "flags")
