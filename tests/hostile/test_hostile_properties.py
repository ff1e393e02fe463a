"""Of any value at all, each parser makes what it should or raises the error of the guilty side; never anything else.

Random bytes hardly get past the first one: here most of a sound value stands, and one place in it is anything.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from attacks import MANIFEST, TASK
from hypothesis import given, settings
from hypothesis import strategies as st

from outrider_cloud.intake.checks import check_escalation
from outrider_cloud.intake.intake import read_id
from outrider_link.envelope import Incoming
from outrider_wire.codec import JSON, MSGPACK, decode, encode
from outrider_wire.errors import BundleError, OperatorConfigError, PeerError, PeerMessageError
from outrider_wire.manifest import Manifest, decode_manifest, encode_manifest
from outrider_wire.messages import Escalation
from outrider_wire.settings import convert
from outrider_wire.task import Task, parse_task
from outrider_wire.topics import Topics

GOLDEN = sorted((Path(__file__).parents[1] / "wire" / "golden").glob("*.msgpack"))
WHOLE = [msgspec.msgpack.decode(path.read_bytes()) for path in GOLDEN]
SOUND_MANIFEST = msgspec.json.decode(MANIFEST)
SOUND_TASK = msgspec.to_builtins(parse_task(TASK))

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=True)
    | st.text(max_size=20)
    | st.sampled_from(["", "#", "+", "$share/workers/#", "../..", "a" * 300, "\0", "2026-11-26T00:00:00Z"])
)
ANYTHING = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path into a plain value."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        yield from places(each, (*path, key))


def with_at(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of a plain value with something else in one place."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = with_at(copy[path[0]], path[1:], new)
    return copy


def disturbed(values: list[Any]) -> st.SearchStrategy[Any]:
    """One of the values with anything in one place of it, or one key more."""

    def disturb(value: Any) -> st.SearchStrategy[Any]:
        changed = st.tuples(st.sampled_from(list(places(value))), ANYTHING).map(lambda at: with_at(value, *at))
        added = st.tuples(st.text(max_size=8), ANYTHING).map(lambda pair: value | {pair[0]: pair[1]})
        return changed | added

    return st.sampled_from(values).flatmap(disturb)


@settings(deadline=None)
@given(disturbed(WHOLE), st.sampled_from([MSGPACK, JSON]))
def test_a_disturbed_message_is_a_message_within_its_bounds_or_a_peers_fault(value: Any, coding: str) -> None:
    encoder = msgspec.json if coding == JSON else msgspec.msgpack
    data = encoder.encode(value)
    read_id(Incoming(topic="", payload=data, content_type=coding))
    with contextlib.suppress(PeerError):
        message = decode(data, coding)
        assert decode(encode(message, coding), coding) == message
        if isinstance(message, Escalation):
            task = msgspec.structs.replace(parse_task(TASK), name=message.task)
            check_escalation(message, message.task, {message.task: task})


@settings(deadline=None)
@given(disturbed([SOUND_MANIFEST]))
def test_a_disturbed_manifest_is_a_manifest_or_the_bundles_fault(value: Any) -> None:
    with contextlib.suppress(BundleError):
        manifest = decode_manifest(msgspec.json.encode(value))
        assert decode_manifest(encode_manifest(manifest)) == manifest
        assert {variant.file for variant in manifest.variants} <= {entry.path for entry in manifest.files}
        assert not any("/" in entry.path or entry.path.startswith(".") for entry in manifest.files)
        assert isinstance(manifest, Manifest)


@settings(deadline=None)
@given(disturbed([SOUND_TASK]))
def test_a_disturbed_task_is_a_task_or_the_operators_fault(value: Any) -> None:
    with contextlib.suppress(OperatorConfigError):
        task = convert(value, Task, "task.toml")
        assert 0 < task.policy.target_risk < 1
        assert len(task.answer.labels) >= 2


_TOML_PIECES = st.sampled_from(
    [
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        '"',
        "'''",
        '"""',
        "#",
        "name",
        "inputs",
        "policy",
        "nan",
        "1e999",
        "0x",
    ]
)


@settings(deadline=None)
@given(st.lists(_TOML_PIECES | st.text(max_size=5), max_size=40).map("".join))
def test_any_text_is_a_task_or_the_operators_fault(text: str) -> None:
    for source in (text, TASK + text, TASK.replace("[answer]", text + "\n[answer]")):
        with contextlib.suppress(OperatorConfigError):
            parse_task(source, "task.toml")


_LEVELS = st.sampled_from(
    [
        "outrider",
        "1",
        "up",
        "down",
        "escalate",
        "presence",
        "answer",
        "blob",
        "cam-7",
        "releases",
        "w",
        "",
        "+",
        "#",
        "$share",
        "\0",
        "é",
    ]
)


@given(st.lists(_LEVELS | st.text(max_size=3), max_size=8))
def test_a_topic_that_is_taken_apart_is_put_together_as_it_was(levels: list[str]) -> None:
    for topic in ("/".join(levels), "/".join(["outrider", "1", *levels])):
        with contextlib.suppress(PeerMessageError):
            found = Topics().parse(topic)
            names = {"task": found.task, "worker": found.worker, "transfer": found.transfer}
            assert Topics().of(found.kind, found.device, **names) == topic
            assert not set("+#$\0") & set(topic)


def test_the_sound_values_are_sound() -> None:
    """The negative control: were they refused undisturbed, nothing above would be tested."""
    for value in WHOLE:
        assert decode(msgspec.msgpack.encode(value))
    assert decode_manifest(msgspec.json.encode(SOUND_MANIFEST))
    assert convert(SOUND_TASK, Task, "task.toml") == parse_task(TASK)
    with pytest.raises(PeerMessageError):
        decode(msgspec.msgpack.encode(WHOLE[0] | {"type": 7}))
