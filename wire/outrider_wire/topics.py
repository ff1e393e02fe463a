"""The one table of what is said on the broker, by whom, to whom. Knows the grammar of a topic, and no client.

No topic exists outside `TABLE`; ACL files, the AsyncAPI document and the subscriptions of both sides are derived from it.
"""

import re
from dataclasses import dataclass
from typing import Literal

from outrider_wire.errors import PeerMessageError
from outrider_wire.messages import (
    Answer,
    BlobBlock,
    BlobGone,
    BlobWant,
    DeltaFound,
    DeltaWant,
    Desired,
    Escalation,
    MetadataFound,
    MetadataNotice,
    MetadataWant,
    Presence,
    Receipt,
    Refusal,
    Reported,
    StopNotice,
    Telemetry,
)
from outrider_wire.names import NAME_GRAMMAR

DEFAULT_ROOT = "outrider/1"
WORKERS = "workers"
"""Name of the shared-subscription group that escalations are spread over (MQTT 5, §4.8.2)."""
RELEASES = "releases"
"""The ``{worker}`` of a blob that a device pulls."""

Kind = Literal[
    "presence",
    "escalate",
    "answer",
    "blob-up",
    "blob-down",
    "desired",
    "reported",
    "telemetry",
    "stop",
    "metadata",
]


@dataclass(frozen=True, kw_only=True)
class Topic:
    """One row: where it is said, who says it, what, and whether the broker keeps the last one."""

    kind: Kind
    pattern: str
    sender: Literal["device", "cloud"]
    messages: tuple[type, ...]
    retained: bool = False
    what: str


TABLE: tuple[Topic, ...] = (
    Topic(
        kind="presence",
        pattern="{device}/up/presence",
        sender="device",
        messages=(Presence,),
        retained=True,
        what="online, agent version, wire versions, active releases; also the device's last will",
    ),
    Topic(
        kind="escalate",
        pattern="{device}/up/escalate/{task}",
        sender="device",
        messages=(Escalation,),
        what="an input for the large model; workers share the subscription",
    ),
    Topic(
        kind="answer",
        pattern="{device}/down/answer",
        sender="cloud",
        messages=(Receipt, Answer, Refusal),
        what="stored, answered or refused",
    ),
    Topic(
        kind="blob-up",
        pattern="{device}/up/blob/{worker}/{transfer}",
        sender="device",
        messages=(BlobBlock, BlobGone, BlobWant, DeltaWant, MetadataWant),
        what="blocks for the worker that pulls; or what the device wants of a release or of signed metadata",
    ),
    Topic(
        kind="blob-down",
        pattern="{device}/down/blob/{transfer}",
        sender="cloud",
        messages=(BlobWant, BlobBlock, BlobGone, DeltaFound, MetadataFound),
        what="what a worker wants of an input; or blocks of a release; or a file of signed metadata",
    ),
    Topic(
        kind="desired",
        pattern="{device}/down/desired",
        sender="cloud",
        messages=(Desired,),
        retained=True,
        what="which release a task's slot should hold",
    ),
    Topic(
        kind="reported",
        pattern="{device}/up/reported",
        sender="device",
        messages=(Reported,),
        retained=True,
        what="what really runs, and why",
    ),
    Topic(
        kind="telemetry",
        pattern="{device}/up/telemetry",
        sender="device",
        messages=(Telemetry,),
        what="the account, confidence histogram, latency",
    ),
    Topic(
        kind="stop",
        pattern="all/down/stop",
        sender="cloud",
        messages=(StopNotice,),
        retained=True,
        what="the signed emergency stop; the newest number holds",
    ),
    Topic(
        kind="metadata",
        pattern="all/down/metadata",
        sender="cloud",
        messages=(MetadataNotice,),
        retained=True,
        what="a hint that newer signed metadata can be had",
    ),
)

_BY_KIND = {topic.kind: topic for topic in TABLE}


def _matcher(pattern: str) -> re.Pattern[str]:
    return re.compile(
        "/".join(
            f"(?P<{level[1:-1]}>{NAME_GRAMMAR})" if level.startswith("{") else re.escape(level)
            for level in pattern.split("/")
        )
    )


_MATCHERS = tuple((topic, _matcher(topic.pattern)) for topic in TABLE)


@dataclass(frozen=True)
class Address:
    """A topic taken apart: its row, and the names in it ('' where the row has none: what is said to all names no device)."""

    kind: Kind
    device: str = ""
    task: str = ""
    worker: str = ""
    transfer: str = ""


class Topics:
    """The table under one root. ``Topics("outrider/1").escalate("cam-7", "easy-vqa")``."""

    def __init__(self, root: str = DEFAULT_ROOT) -> None:
        self.root = root

    def of(self, kind: Kind, device: str, *, task: str = "", worker: str = "", transfer: str = "") -> str:
        """The topic to publish on (or, with ``+`` for a name, to subscribe to)."""
        return f"{self.root}/" + _BY_KIND[kind].pattern.format(
            device=device, task=task, worker=worker, transfer=transfer
        )

    def shared_escalations(self, group: str = WORKERS) -> str:
        """The subscription by which workers share all escalations."""
        return f"$share/{group}/" + self.of("escalate", "+", task="+")

    def parse(self, topic: str) -> Address:
        """Takes a received topic apart.

        Raises:
            PeerMessageError: the topic is not in the table.
        """
        prefix = f"{self.root}/"
        if topic.startswith(prefix):
            for row, matcher in _MATCHERS:
                if found := matcher.fullmatch(topic, len(prefix)):
                    return Address(row.kind, **found.groupdict())
        raise PeerMessageError(f"{topic[:200]!r} is not a topic of Outrider", reason="unknown_topic")


def row(kind: Kind) -> Topic:
    """The table's row of that kind."""
    return _BY_KIND[kind]
