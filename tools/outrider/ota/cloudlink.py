"""A working copy of the repository and the cloud's own: brings newer signed files here, verified, and what is new here there."""

import base64
import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from outrider.exchange import error_of
from outrider.releases import CloudApi
from outrider.transport import Transport
from outrider_link.files import write_durably
from outrider_trust.client import TrustedMetadata
from outrider_trust.repository import Repository
from outrider_trust.sources import NotHereError, checked_path
from outrider_wire.errors import CallerUnknownError, UnreachableError

WHAT = "the cloud"


class CloudSource:
    """The cloud's repository, as its operator reads it: a `MetadataSource`."""

    def __init__(self, http: Transport) -> None:
        self._http = http

    def fetch(self, path: str, most: int) -> bytes:
        """As `MetadataSource.fetch`."""
        reply = self._http.request("GET", f"/v1/tuf/{quote(checked_path(path), safe='')}")
        if reply.status == 200:
            return reply.body[: most + 1]
        error = error_of(reply.status, reply.body, what=WHAT)
        if reply.status == 404 and error.reason != "trust_off":
            raise NotHereError(path)
        if reply.status == 404:
            raise CallerUnknownError(error.what, reason=error.reason, fix=error.fix)
        raise UnreachableError(error.what, reason=error.reason, fix=error.fix) if reply.status >= 500 else error

    def signs(self) -> bool:
        """Whether releases are signed there."""
        try:
            self.fetch("metadata/timestamp.json", 16_384)
        except (NotHereError, CallerUnknownError):
            return False
        return True


def pull(repository: Repository, source: CloudSource) -> list[str]:
    """Brings whatever is newer there into the working copy, with manifests and plans, after a device's own checks; the files that came.

    Raises:
        TrustError: it is not signed as it must be, or older than what is here.
        UnreachableError: the cloud does not answer.
    """
    shipped = repository.path("root", 1).read_bytes()
    kept = repository.folder / "believed"
    client = TrustedMetadata(kept, shipped_root=shipped)
    versions = client.refresh(source)
    for role in versions.roles:
        for path, target in client.targets_of(role, source).items():
            if not repository.has_target(target):
                repository.put_target(path, client.target_bytes(target, source))
    files = {path.name: path for path in sorted((kept / "root_history").glob("*.root.json"))}
    for role, version in {**versions.roles, "targets": versions.targets, "snapshot": versions.snapshot}.items():
        files[f"{version}.{role}.json"] = kept / f"{role}.json"
    came = [name for name, path in files.items() if path.exists() and not (repository.metadata / name).exists()]
    for name in came:
        write_durably(repository.metadata / name, files[name].read_bytes())
    write_durably(repository.metadata / "timestamp.json", (kept / "timestamp.json").read_bytes())
    return came


def push(repository: Repository, source: CloudSource, http: Transport) -> list[str]:
    """Brings there what is newer here, version after version; what the cloud has not had before must lie there as blobs.

    Raises:
        TrustRefusedError: the cloud does not take it.
        UnreachableError: it does not answer.
    """
    there = _published_there(source)
    sent: list[str] = []
    while batch := {
        role: at for role in repository.roles() if (at := repository.path(role, there.get(role, 0) + 1)).exists()
    }:
        _post(http, batch)
        for role, at in batch.items():
            there[role] = there.get(role, 0) + 1
            sent.append(at.name)
    return sent


def held_by_devices(api: CloudApi) -> set[str]:
    """Releases that a device runs, was offered, or should hold."""
    held: set[str] = set()
    for device in api.devices():
        for slot in device.slots.values():
            held.update((slot.running, slot.offered))
        held.update(assigned.release for assigned in device.assigned.values())
    return held - {""}


def _published_there(source: CloudSource) -> dict[str, int]:
    timestamp: Any = json.loads(source.fetch("metadata/timestamp.json", 16_384))
    snapshot_version = timestamp["signed"]["meta"]["snapshot.json"]["version"]
    snapshot: Any = json.loads(source.fetch(f"metadata/{snapshot_version}.snapshot.json", 512_000))
    there = {name.removesuffix(".json"): about["version"] for name, about in snapshot["signed"]["meta"].items()}
    version = 1
    while True:
        try:
            source.fetch(f"metadata/{version + 1}.root.json", 256_000)
        except NotHereError:
            return {**there, "root": version}
        version += 1


def _post(http: Transport, files: dict[str, Path]) -> None:
    body = {"metadata": {role: base64.b64encode(path.read_bytes()).decode() for role, path in files.items()}}
    data = json.dumps(body).encode()
    reply = http.request(
        "POST", "/v1/tuf", body=data, headers={"Content-Type": "application/json", "Content-Length": str(len(data))}
    )
    if reply.status >= 300:
        raise error_of(reply.status, reply.body, what=WHAT)
