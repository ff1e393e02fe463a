"""How a bundle becomes a release on devices: what to upload, to whom it is offered, what came of it. Talks to the cloud's API alone."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from outrider.exchange import decoded, error_of
from outrider.progress import Tell
from outrider.transport import Transport
from outrider_link.settings import read_secret
from outrider_wire.manifest import MANIFEST_FILE

DEFAULT_CLOUD = "http://127.0.0.1:8780"
CLOUD = "the cloud"
_CHUNK = 256 * 1024


T = TypeVar("T")


class Slot(Struct, kw_only=True):
    """What one task's slots hold on one device, as it reported."""

    running: str = ""
    version: str = ""
    slot: str = ""
    state: str = ""
    reason: str = ""
    offered: str = ""


class Assigned(Struct, kw_only=True):
    """What one task of one device should hold."""

    release: str
    counter: int = 0


class NotBelieved(Struct, kw_only=True, frozen=True):
    """Why a device's newest report was refused."""

    reason: str
    what: str = ""
    fix: str = ""


class Told(Struct, kw_only=True, frozen=True):
    """Of a task's last telemetry."""

    signed: bool = True


class Report(Struct, kw_only=True, frozen=True):
    """What a device told beside its slots."""

    held: str = ""
    """Why nothing begins on it now: a stop, a pin."""
    refused: NotBelieved | None = None
    """Until a newer one is believed."""


class Device(Struct, kw_only=True):
    """One device, as the cloud knows it."""

    device: str
    online: bool = False
    agent: str = ""
    seen_ms: int = 0
    slots: dict[str, Slot] = {}
    """By task."""
    telemetry: dict[str, Told] = {}
    """The same."""
    assigned: dict[str, Assigned] = {}
    """By task."""
    report: Report = Report()


class DeviceRow(Struct, kw_only=True):
    """One line of the status: a device and one of its tasks."""

    device: str
    online: bool
    task: str
    running: str
    version: str
    desired: str
    state: str
    reason: str
    current: bool
    """What runs is what should."""
    held: str = ""
    """Why nothing begins on the device now."""
    refused: NotBelieved | None = None
    """Why what the device tells of itself is not believed any more: what is shown is older."""
    unsigned: bool = False
    """Its figures bear no signature, and so count neither for a release nor against it."""


class Blob(Struct, kw_only=True):
    """One file to upload."""

    path: Path
    sha256: str
    size: int


class Plan(Struct, kw_only=True):
    """What publishing would do; nothing has been done yet."""

    release: str
    task: str
    version: str
    devices: list[str] | str
    """Names, or ``all``."""
    upload: list[Blob]
    """Files that the cloud does not have."""
    present: int
    """Files that it has."""

    @property
    def bytes(self) -> int:
        """Bytes to upload."""
        return sum(blob.size for blob in self.upload)

    @property
    def whom(self) -> str:
        """The devices, in words."""
        return "all devices" if isinstance(self.devices, str) else ", ".join(self.devices)


class _Devices(Struct):
    devices: list[Device]


class _Counters(Struct):
    counters: dict[str, int]


class CloudApi:
    """The cloud's HTTP API, as far as releases go. Every method raises what `outrider.exchange.error_of` makes of a refusal."""

    def __init__(
        self, address: str, *, token_file: Path | None = None, ca_file: Path | None = None, timeout_s: float = 60.0
    ) -> None:
        headers = {"Authorization": f"Bearer {read_secret(token_file, 'token of the cloud')}"} if token_file else {}
        self.transport = Transport(
            address, what=CLOUD, start="outrider cloud serve", timeout_s=timeout_s, headers=headers, ca_file=ca_file
        )

    def has(self, sha256: str) -> bool:
        """Whether it holds that blob; False too where it does not say."""
        return self.transport.request("HEAD", f"/v1/blobs/{sha256}").status == 200

    def put(self, blob: Blob, tell: Tell) -> None:
        """Uploads one file."""

        def chunks() -> Iterator[bytes]:
            sent = 0
            with blob.path.open("rb") as file:
                while data := file.read(_CHUNK):
                    yield data
                    sent += len(data)
                    tell(f"uploading {blob.path.name}", sent / max(blob.size, 1))

        reply = self.transport.request(
            "PUT", f"/v1/blobs/{blob.sha256}", body=chunks(), headers={"Content-Length": str(blob.size)}
        )
        if reply.status >= 300:
            raise error_of(reply.status, reply.body, what=CLOUD)

    def release(self, digest: str) -> dict[str, Any]:
        """Makes a release of a manifest that is there with its files."""
        return self.post("/v1/releases", {"manifest": digest}, dict[str, Any])

    def assign(self, digest: str, devices: Sequence[str] | str) -> dict[str, int]:
        """Offers a release to devices; the counter of each assignment."""
        return self.post(f"/v1/releases/{digest}/assign", {"devices": devices}, _Counters).counters

    def devices(self) -> list[Device]:
        """The fleet."""
        reply = self.transport.request("GET", "/v1/devices")
        return decoded(reply.status, reply.body, _Devices, what=CLOUD).devices

    def close(self) -> None:
        """Closes idle connections."""
        self.transport.close()

    def post(self, path: str, body: object, kind: type[T]) -> T:
        """The reply to a JSON document."""
        import msgspec

        reply = self.transport.request(
            "POST", path, body=msgspec.json.encode(body), headers={"Content-Type": "application/json"}
        )
        return decoded(reply.status, reply.body, kind, what=CLOUD)


def plan(api: CloudApi, bundle_dir: Path, devices: Sequence[str]) -> Plan:
    """What there is to do for a bundle, which is verified first. Changes nothing.

    Raises:
        BundleError: it is damaged or unsafe.
    """
    from outrider_engine.bundle import open_bundle

    bundle = open_bundle(bundle_dir)
    files = [
        Blob(path=bundle.root / entry.path, sha256=entry.sha256, size=entry.size) for entry in bundle.manifest.files
    ]
    files.append(_manifest_blob(bundle.root / MANIFEST_FILE))
    absent = [blob for blob in {blob.sha256: blob for blob in files}.values() if not api.has(blob.sha256)]
    return Plan(
        release=bundle.digest,
        task=bundle.manifest.task,
        version=bundle.manifest.version,
        devices=list(devices) or "all",
        upload=absent,
        present=len(files) - len(absent),
    )


def publish(api: CloudApi, todo: Plan, tell: Tell) -> dict[str, int]:
    """Uploads, makes the release and offers it; the counter of each device's assignment."""
    for blob in todo.upload:
        api.put(blob, tell)
    api.release(todo.release)
    return api.assign(todo.release, todo.devices)


def rows(devices: Sequence[Device]) -> list[DeviceRow]:
    """The status, a line for each device and task."""
    return [
        _row(device, task)
        for device in devices
        for task in sorted(device.slots.keys() | device.assigned.keys()) or [""]
    ]


def _row(device: Device, task: str) -> DeviceRow:
    slot = device.slots.get(task, Slot())
    desired = device.assigned[task].release if task in device.assigned else ""
    return DeviceRow(
        device=device.device,
        online=device.online,
        task=task,
        running=slot.running,
        version=slot.version,
        desired=desired,
        state=slot.state,
        reason=slot.reason,
        current=not desired or slot.running == desired,
        held=device.report.held,
        refused=device.report.refused,
        unsigned=any(not told.signed for told in device.telemetry.values()),
    )


def _manifest_blob(path: Path) -> Blob:
    data = path.read_bytes()
    return Blob(path=path, sha256=hashlib.sha256(data).hexdigest(), size=len(data))
