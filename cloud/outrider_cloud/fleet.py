"""The fleet as the devices describe themselves: presence, reported slots, telemetry. Believes a device only about itself."""

import base64
import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import sqlalchemy as sa

from outrider_cloud.clock import now_ms
from outrider_cloud.device_reports import believed, refusal_of, row_of, telemetry_row
from outrider_cloud.metrics import Metrics
from outrider_cloud.store import forgotten
from outrider_cloud.store.schema import assignments, devices, identities
from outrider_cloud.store.store import Store
from outrider_wire.codec import common_version
from outrider_wire.errors import PeerMessageError
from outrider_wire.limits import ENTRIES
from outrider_wire.messages import Presence, Reported, Telemetry

log = logging.getLogger(__name__)

_NEW: dict[str, Any] = {
    "online": False,
    "boot_id": "",
    "agent": "",
    "wire": [],
    "capabilities": {},
    "slots": {},
    "report": {},
    "telemetry": {},
}


class Fleet:
    """Writes what devices say, reads it back for people.

    Args:
        signed: Whether reports are believed as `outrider_cloud.device_reports` says; without, as they come.
    """

    def __init__(self, *, store: Store, devices_max: int, metrics: Metrics, signed: bool = False) -> None:
        self._store = store
        self._devices_max = devices_max
        self._signed = signed
        self._metrics = metrics

    async def on_presence(self, device: str, said: Presence) -> None:
        """Online or not, and what the agent is.

        Raises:
            PeerMessageError: it speaks for another device.
        """
        _check_speaker(device, said.device)
        values: dict[str, Any] = {"online": said.online, "boot_id": said.boot_id}
        if said.online:  # a last will knows nothing but that
            wire = said.wire or [said.v]
            values |= {"agent": said.agent, "wire": wire, "capabilities": said.capabilities}
            if common_version(wire) is None:
                log.warning("device.unserved_version", extra={"device": device, "wire": wire})
        await self._note(device, values)

    async def on_reported(self, device: str, said: Reported) -> None:
        """What the device's slots really hold, and how its orders ended.

        Raises:
            PeerMessageError: it speaks for another device, or is not believed.
        """
        if said.device:
            _check_speaker(device, said.device)
        if not self._signed:
            await self._note(device, row_of(said))
            return
        stamp = now_ms()
        try:
            await self._take(device, partial(note_report, device=device, said=said, seen_ms=stamp))
        except PeerMessageError as error:
            if (refused := refusal_of(said, error, at_ms=stamp)) is not None:
                await self._take(device, partial(note_refused, device=device, refused=refused))
            raise

    async def on_telemetry(self, device: str, said: Telemetry) -> None:
        """The last telemetry of each task.

        Raises:
            PeerMessageError: it speaks for another device, or of too many tasks.
        """
        _check_speaker(device, said.device)
        change = partial(note_telemetry, device=device, said=said, seen_ms=now_ms(), signed=self._signed)
        if await self._take(device, change):
            facts = {"device": device, "task": said.task, "what": "audits have broken its certificate's promise"}
            log.error("device.alarm", extra=facts)

    async def _note(self, device: str, values: dict[str, Any]) -> None:
        await self._take(device, partial(note, device=device, values=values, seen_ms=now_ms()))

    async def _take(self, device: str, change: Callable[..., bool]) -> bool:
        """Makes a change, unless the device is forgotten meanwhile, or would be one too many."""
        said = forgotten.Said(device, mark=self._store.forgotten)

        def unless_forgotten(connection: sa.Connection) -> bool:
            return not forgotten.covers(connection, said) and change(connection, most=self._devices_max)

        try:
            return await self._store.write(unless_forgotten)
        except TooManyDevicesError:
            self._metrics.shed.labels("", "devices").inc()
            return False

    async def alarms(self) -> dict[str, int]:
        """Devices that say that audits have broken a certificate's promise, by task."""
        return await self._store.read(alarms)

    async def devices(self) -> list[dict[str, Any]]:
        """Every device that was ever heard of, with what is assigned to it."""
        return await self._store.read(view)


class TooManyDevicesError(Exception):
    """The table of devices is full: whoever names itself anew is not kept."""


def note(connection: sa.Connection, *, device: str, values: dict[str, Any], seen_ms: int, most: int) -> bool:
    """Stores what a device said of itself; unknown devices are added, up to ``most``. True when it was not known.

    Raises:
        TooManyDevicesError: it was not known, and there is no room.
    """
    known = sa.update(devices).where(devices.c.device == device).values(**values, seen_ms=seen_ms)
    if connection.execute(known).rowcount == 1:
        return False
    if connection.execute(sa.select(sa.func.count()).select_from(devices)).scalar_one() >= most:
        raise TooManyDevicesError(device)
    row = _NEW | values | {"device": device, "first_seen_ms": seen_ms, "seen_ms": seen_ms}
    connection.execute(sa.insert(devices).values(row))
    return True


def note_report(connection: sa.Connection, *, device: str, said: Reported, seen_ms: int, most: int) -> bool:
    """Stores a report that is believed and new; True when the device was not known.

    Raises:
        PeerMessageError: it is not believed.
        TooManyDevicesError: it was not known, and there is no room.
    """
    kept = connection.execute(sa.select(devices.c.report).where(devices.c.device == device)).scalar_one_or_none()
    accepted = (identities.c.device == device, identities.c.state == "accepted")
    certified = connection.execute(sa.select(identities.c.key_sha256).where(*accepted)).scalar_one_or_none()
    values = believed(said, device=device, kept=kept or {}, certified=certified or "")
    return values is not None and note(connection, device=device, values=values, seen_ms=seen_ms, most=most)


def note_refused(connection: sa.Connection, *, device: str, refused: Mapping[str, Any], most: int) -> bool:
    """Keeps why a known device's newest report was not believed, once a key, until one is believed again; nobody's own word."""
    report = connection.execute(sa.select(devices.c.report).where(devices.c.device == device)).scalar_one_or_none()
    if most and report is not None and (report.get("refused") or {}).get("key") != refused["key"]:
        values = {"report": report | {"refused": dict(refused)}}
        connection.execute(sa.update(devices).where(devices.c.device == device).values(values))
    return False


def note_telemetry(
    connection: sa.Connection, *, device: str, said: Telemetry, seen_ms: int, signed: bool, most: int
) -> bool:
    """Replaces the telemetry of one task; True when it tells of an alarm that was not there before.

    Raises:
        PeerMessageError: the device makes up one task after another, or is not believed.
        TooManyDevicesError: it was not known, and there is no room.
    """
    known = sa.select(devices.c.telemetry, devices.c.report).where(devices.c.device == device)
    row = connection.execute(known).one_or_none()
    old, report = (row.telemetry, row.report) if row else ({}, {})
    if said.task not in old and len(old) >= ENTRIES:
        raise PeerMessageError(f"{device!r} tells of more than {ENTRIES} tasks", reason="too_many_tasks")
    key = base64.b64decode(report.get("key", ""))
    new = telemetry_row(said, device=device, kept=old.get(said.task, {}), key=key, signed=signed)
    if new is None:
        return False
    note(connection, device=device, values={"telemetry": old | {said.task: new}}, seen_ms=seen_ms, most=most)
    return _alarmed(new) and not _alarmed(old.get(said.task, {}))


def alarms(connection: sa.Connection) -> dict[str, int]:
    """Devices in alarm, by task; 0 where a certificate is watched and holds."""
    found: dict[str, int] = {}
    for told in connection.execute(sa.select(devices.c.telemetry)).scalars():
        for task, said in told.items():
            if said.get("monitor"):
                found[task] = found.get(task, 0) + _alarmed(said)
    return found


def view(connection: sa.Connection) -> list[dict[str, Any]]:
    """The devices by name, each with the wire version that both sides speak (None: none), and its assignments by task."""
    assigned: dict[str, dict[str, Any]] = {}
    for row in connection.execute(sa.select(assignments)).mappings():
        assigned.setdefault(row["device"], {})[row["task"]] = {"release": row["release"], "counter": row["counter"]}
    rows = connection.execute(sa.select(devices).order_by(devices.c.device)).mappings()
    return [{**row, "speaks": common_version(row["wire"]), "assigned": assigned.get(row["device"], {})} for row in rows]


def _alarmed(telemetry: dict[str, Any]) -> bool:
    return bool((telemetry.get("monitor") or {}).get("alarm"))


def _check_speaker(device: str, said: str) -> None:
    if said != device:
        raise PeerMessageError(f"{device!r} speaks for {said!r}", reason="wrong_device")
