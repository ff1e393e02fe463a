"""The fleet's rows as the controller sees devices. Everything in them was said by the devices themselves, and may be anything.

Counts and alarms are read from what a device has signed alone (`outrider_cloud.device_reports`): of a device that signs no telemetry there
are none, so that it speaks neither for a release nor against it.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from outrider_cloud.rollout.records import Count, End, Seen, Slot
from outrider_wire.decodable import decodable

_SENT = ("cloud", "expired")
_KEPT = ("edge", "memory")


def seen_of(row: Mapping[str, Any]) -> Seen:
    """A device from its row."""
    telemetry: Mapping[str, Mapping[str, Any]] = {
        task: figures for task, said in row["telemetry"].items() if (figures := said.get("verified"))
    }
    return Seen(
        device=row["device"],
        online=row["online"],
        agent=row["agent"],
        facts=dict(row["capabilities"]),
        seen_ms=row["seen_ms"],
        slots={task: _slot(said) for task, said in row["slots"].items()},
        ends=_ends(row["report"].get("ends") or []),
        counts={task: _count(said.get("account") or {}) for task, said in telemetry.items()},
        alarms={task: found for task, said in telemetry.items() if (found := _alarm(said.get("monitor") or {}))},
    )


def _slot(said: Mapping[str, Any]) -> Slot:
    try:
        return msgspec.convert(said, decodable(Slot), strict=False)
    except msgspec.ValidationError:  # a row of an older version
        return Slot()


def _ends(said: list[Any]) -> list[End]:
    try:
        return msgspec.convert(said, decodable(list[End]))
    except msgspec.ValidationError:  # as above
        return []


def _count(account: Mapping[str, int]) -> Count:
    sent = sum(account.get(name, 0) for name in _SENT)
    return Count(inputs=sent + sum(account.get(name, 0) for name in _KEPT), sent=sent)


def _alarm(monitor: Mapping[str, Any]) -> str:
    return str(monitor.get("certificate", "")) if monitor.get("alarm") else ""
