"""The topic table: what is built parses back, and nothing outside it parses."""

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from outrider_wire.errors import PeerMessageError
from outrider_wire.messages import DownlinkMessage, UplinkMessage
from outrider_wire.names import NAME_PATTERN
from outrider_wire.topics import TABLE, Address, Kind, Topics, row

NAMES = st.from_regex(NAME_PATTERN, fullmatch=True)
KINDS: list[Kind] = [topic.kind for topic in TABLE]


@given(st.sampled_from(KINDS), NAMES, NAMES, NAMES, NAMES)
def test_every_topic_that_is_built_parses_to_the_same_names(
    kind: Kind, device: str, task: str, worker: str, transfer: str
) -> None:
    topics, names = Topics(), {"task": task, "worker": worker, "transfer": transfer}
    named = {name: value for name, value in names.items() if f"{{{name}}}" in row(kind).pattern}
    whom = device if "{device}" in row(kind).pattern else ""
    assert topics.parse(topics.of(kind, device, **names)) == Address(kind, whom, **named)


@given(st.text(max_size=80))
def test_any_text_is_a_topic_of_the_table_or_refused(topic: str) -> None:
    with pytest.raises(PeerMessageError):
        Topics().parse(f"outrider/1/{topic}/nowhere")


def test_the_direction_is_the_second_level_of_every_topic() -> None:
    for topic in TABLE:
        whom, direction = topic.pattern.split("/")[:2]
        assert direction == ("up" if topic.sender == "device" else "down")
        assert whom == "{device}" or (whom == "all" and topic.sender == "cloud" and topic.retained)


def test_every_message_has_a_topic_in_its_direction() -> None:
    for sender, union in (("device", UplinkMessage), ("cloud", DownlinkMessage)):
        said = {kind for topic in TABLE if topic.sender == sender for kind in topic.messages}
        assert said == set(get_args(union))


def test_only_states_are_retained() -> None:
    assert {topic.kind for topic in TABLE if topic.retained} == {"presence", "desired", "reported", "stop", "metadata"}


def test_workers_share_one_subscription_under_any_root() -> None:
    assert Topics("site/a").shared_escalations() == "$share/workers/site/a/+/up/escalate/+"
    assert Topics("site/a").parse("site/a/cam-7/up/telemetry").device == "cam-7"
