"""Who may say and hear what on the broker, derived from the topic table. Pure: knows no broker's own language for it.

A device speaks on its own rows that it is the sender of, and hears its own rows that the cloud is; the cloud the other way
round, for every device; it may also clear what the broker retains of one. Nobody else says or hears anything.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from outrider_wire.topics import RELEASES, TABLE, WORKERS, Topics

SHARED = "$share/"
"""What a shared subscription begins with (MQTT 5, §4.8.2)."""
Action = Literal["say", "hear", "subscribe"]
"""Publish on the topic; be given what is published on it; subscribe to it, or to less of it."""


@dataclass(frozen=True, order=True)
class Grant:
    """One thing that is allowed; whatever no grant names is not."""

    action: Action
    topic: str
    """A topic filter. A shared subscription (``$share/…``) is allowed by its very text alone."""


def device_grants(topics: Topics, device: str) -> list[Grant]:
    """What one device may do."""
    grants: list[Grant] = []
    for row in TABLE:
        topic = topics.of(row.kind, device, task="+", worker="+", transfer="+")
        grants += [Grant("say", topic)] if row.sender == "device" else _heard(topic)
    return sorted(grants)


def cloud_grants(topics: Topics, group: str = WORKERS) -> list[Grant]:
    """What a cloud worker may do. A shared subscription needs a grant of its own text, or no device is kept out of the group."""
    grants = [Grant("subscribe", shared) for shared in shared_subscriptions(topics, group)]
    for row in TABLE:
        topic = topics.of(row.kind, "+", task="+", worker="+", transfer="+")
        if row.sender == "cloud":
            grants.append(Grant("say", topic))
        elif row.kind == "escalate":
            grants.append(Grant("hear", topic))  # shared: a worker that hears all of them would answer all of them
        else:
            grants += _heard(topic)
            if row.retained:
                grants.append(
                    Grant("say", topic)
                )  # an empty message clears what is retained of a device that is forgotten
    return sorted(grants)


def shared_subscriptions(topics: Topics, group: str = WORKERS) -> list[str]:
    """What the workers of one group share between them: escalations, and what devices want of releases.

    Each is a group of its own, for rumqttd knows one filter a group.
    """
    wants = topics.of("blob-up", "+", worker=RELEASES, transfer="+")
    return [topics.shared_escalations(group), f"$share/{group}-{RELEASES}/{wants}"]


def digest(grants: Iterable[Grant]) -> str:
    """Tells one set of grants from another, so that a broker is told only when it must be."""
    said = "\n".join(f"{grant.action} {grant.topic}" for grant in sorted(grants))
    return hashlib.sha256(said.encode()).hexdigest()


def allows(grants: Sequence[Grant], action: Action, topic: str) -> bool:
    """Whether one of the grants covers a topic or a filter (MQTT 5, §4.7)."""
    return any(grant.action == action and _covers(grant.topic, topic) for grant in grants)


def _heard(topic: str) -> list[Grant]:
    return [Grant("hear", topic), Grant("subscribe", topic)]


def _covers(pattern: str, topic: str) -> bool:
    if SHARED in (pattern[: len(SHARED)], topic[: len(SHARED)]):
        return pattern == topic
    wanted, given = pattern.split("/"), topic.split("/")
    return len(wanted) == len(given) and all(
        w == g or (w == "+" and g != "#") for w, g in zip(wanted, given, strict=True)
    )
