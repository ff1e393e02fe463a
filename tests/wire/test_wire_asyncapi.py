"""The AsyncAPI document: published as it is made, valid by the official schema, and true to the golden bytes of every message."""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import jsonschema
import msgspec
import pytest
from other_packages import packages

from outrider_wire.asyncapi import document, tag_of
from outrider_wire.codec import MSGPACK
from outrider_wire.limits import INLINE_BYTES, SERVED_VERSIONS, WIRE_VERSION
from outrider_wire.messages import Message
from outrider_wire.topics import TABLE, Topics

DOCS = Path(__file__).parents[2] / "docs"
GOLDEN = Path(__file__).parent / "golden"
VECTORS = sorted({path.name.split(".")[0] for path in GOLDEN.iterdir()})
WHOLE = document()


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Every object in a JSON document."""
    if isinstance(value, dict):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from nodes(inner)


def resolve(pointer: str) -> Any:
    found: Any = WHOLE
    for step in pointer.removeprefix("#/").split("/"):
        found = found[step]
    return found


def fits(value: Any) -> bool:
    """Whether a message, as JSON values, fits the payload schema of the document's message of its type."""
    schema = {**resolve(f"#/components/messages/{value['type']}")["payload"], "components": WHOLE["components"]}
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def as_json(value: Any) -> Any:
    """What MessagePack says, as JSON says it."""
    return msgspec.json.decode(msgspec.json.encode(value))


def test_the_published_document_is_the_one_that_is_made_now() -> None:
    published = (DOCS / "asyncapi.json").read_text()
    assert json.loads(published) == WHOLE, "write it: outrider config schema asyncapi > docs/asyncapi.json"


def test_it_is_valid_by_the_official_schema() -> None:
    schema = json.loads((packages() / "@asyncapi/specs/schemas/3.0.0.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    assert not [(list(error.path), error.message) for error in validator.iter_errors(WHOLE)]
    broken = copy.deepcopy(WHOLE)
    broken["operations"]["device-sends-escalate"]["action"] = "shout"
    broken["channels"]["answer"]["adress"] = "x"
    assert {error.path[0] for error in validator.iter_errors(broken)} == {"operations", "channels"}


def test_every_reference_leads_somewhere() -> None:
    pointers = {node["$ref"] for node in nodes(WHOLE) if "$ref" in node}
    assert len(pointers) > 50
    assert all(isinstance(resolve(pointer), dict) for pointer in pointers)


def test_every_topic_is_a_channel_that_one_role_sends_on_and_the_other_receives_from() -> None:
    assert WHOLE["channels"].keys() == {row.kind for row in TABLE}
    for row in TABLE:
        channel = WHOLE["channels"][row.kind]
        assert channel["address"] == f"outrider/1/{row.pattern}"
        assert channel["parameters"].keys() == set(re.findall(r"{(\w+)}", row.pattern))
        about = {
            name: operation
            for name, operation in WHOLE["operations"].items()
            if operation["channel"]["$ref"] == f"#/channels/{row.kind}"
        }
        receiver = "cloud" if row.sender == "device" else "device"
        assert about.keys() == {f"{row.sender}-sends-{row.kind}", f"{receiver}-receives-{row.kind}"}
        sends, receives = (about[name] for name in sorted(about, key=lambda name: "receives" in name))
        assert (sends["action"], receives["action"]) == ("send", "receive")
        assert (sends["bindings"]["mqtt"]["qos"], sends["bindings"]["mqtt"]["retain"]) == (1, row.retained)
        said = {resolve(resolve(each["$ref"])["$ref"])["name"] for each in sends["messages"]}
        assert said == {tag_of(kind) for kind in row.messages}


def test_every_message_is_there_in_both_codings() -> None:
    said = {(each["name"], each["contentType"]) for each in WHOLE["components"]["messages"].values()}
    both = ("application/msgpack", "application/json")
    assert said == {(tag_of(kind), coding) for kind in get_args(Message) for coding in both}


def test_the_names_follow_another_root() -> None:
    other = document(Topics("plant-3/wire"))
    assert other["channels"]["answer"]["address"] == "plant-3/wire/{device}/down/answer"
    filters = other["operations"]["cloud-receives-escalate"]["x-subscriptions"]
    assert filters == ["$share/workers/plant-3/wire/+/up/escalate/+"]
    assert "outrider/1" not in json.dumps(other)


def test_it_says_which_versions_are_served_and_what_travels_inline() -> None:
    assert WHOLE["info"]["x-wire-versions"] == list(SERVED_VERSIONS) and WIRE_VERSION in SERVED_VERSIONS
    assert WHOLE["info"]["version"] == str(WIRE_VERSION)
    assert f"up to {INLINE_BYTES} bytes" in WHOLE["info"]["description"]


@pytest.mark.parametrize("name", VECTORS)
def test_the_golden_bytes_of_a_message_fit_its_payload(name: str) -> None:
    in_json = json.loads((GOLDEN / f"{name}.v1.json").read_bytes())
    in_msgpack = as_json(msgspec.msgpack.decode((GOLDEN / f"{name}.v1.msgpack").read_bytes()))
    assert in_json == in_msgpack
    assert fits(in_json)
    for field in resolve(resolve(f"#/components/messages/{in_json['type']}")["payload"]["$ref"])["required"]:
        if field != "type":
            assert not fits({key: value for key, value in in_json.items() if key != field}), field
    assert not fits(in_json | {"v": 0})
    assert fits(in_json | {"a_newer_field": 1})


def test_the_golden_bytes_are_published_as_they_are() -> None:
    """To write them: OUTRIDER_WRITE_GOLDEN=1 pytest tests/wire."""
    made = {
        "wire": WIRE_VERSION,
        "codings": ["application/json", MSGPACK],
        "vectors": [
            {
                "name": name,
                "type": json.loads((GOLDEN / f"{name}.v1.json").read_bytes())["type"],
                "json": (GOLDEN / f"{name}.v1.json").read_text(),
                "msgpack_hex": (GOLDEN / f"{name}.v1.msgpack").read_bytes().hex(),
            }
            for name in VECTORS
        ],
    }
    path = DOCS / f"golden/wire-{WIRE_VERSION}.json"
    if os.environ.get("OUTRIDER_WRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(made, indent=2, ensure_ascii=False) + "\n")
    assert json.loads(path.read_text()) == made
