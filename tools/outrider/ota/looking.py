"""Looking at what is signed: as a device would judge it, release by release, version by version, one against another. Changes nothing."""

import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import Struct

from outrider.ota.publishing import Known, tasks_of
from outrider.ota.workplace import Workplace
from outrider_trust.client import TrustedMetadata
from outrider_trust.facts import SIGNED_FIELD, Versions, auto_role
from outrider_trust.sources import MetadataSource
from outrider_wire.errors import CallerUnknownError, OutriderError, TrustRefusedError
from outrider_wire.manifest import Manifest, decode_manifest


class Judged(Struct, kw_only=True):
    """One thing that is signed, as a fresh device finds it."""

    kind: str
    """``release`` or ``plan``."""
    task: str
    name: str
    version: str = ""
    counter: int = 0
    automatic: bool = False
    fault: str = ""
    """Why a device refuses it; '' where it does not."""
    absent: bool = False
    """It is signed, and its bytes are not on this stick."""


class Verified(Struct, kw_only=True):
    """What a device that was shipped with this root would believe."""

    versions: Versions
    found: list[Judged]

    @property
    def faults(self) -> list[Judged]:
        """What it refuses."""
        return [each for each in self.found if each.fault]


class Event(Struct, kw_only=True):
    """What one version of a role changed."""

    role: str
    version: int
    signed: str
    signers: int
    added: list[str]
    removed: list[str]


class Difference(Struct, kw_only=True):
    """One thing that two releases do not have in common."""

    what: str
    before: str
    after: str


def verify(root: bytes, source: MetadataSource, *, whole: bool = True) -> Verified:
    """Judges a source as a fresh device, down to the bytes of every plan and manifest.

    Args:
        root: what the device was shipped with.
        source: of the metadata and what it names.
        whole: all that is signed must be there; a stick brings one plan and its releases.

    Raises:
        TrustError: a device would believe nothing of it.
        UnreachableError: it does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="outrider-verify-") as folder:
        client = TrustedMetadata(Path(folder), shipped_root=root)
        versions = client.refresh(source)
        found = [
            _judged(client, source, path) for role in versions.roles for path in sorted(client.targets_of(role, source))
        ]
    for each in found:
        if not whole and each.fault.startswith("metadata_missing"):
            each.fault, each.absent = "", True
    return Verified(versions=versions, found=found)


def history(place: Workplace, task: str = "") -> list[Event]:
    """What every version of the task roles changed, the newest first."""
    events: list[Event] = []
    for name in [task] if task else tasks_of(place):
        for role in (name, auto_role(name)):
            before: set[str] = set()
            for version in range(1, place.repository.version(role) + 1):
                metadata = place.repository.read(role, version)
                now = set(metadata.signed.targets)
                events.append(
                    Event(
                        role=role,
                        version=version,
                        signed=_when(metadata.signed),
                        signers=len(metadata.signatures),
                        added=sorted(now - before),
                        removed=sorted(before - now),
                    )
                )
                before = now
    return sorted(events, key=lambda event: (event.signed, event.role, event.version), reverse=True)


def manifest_of(place: Workplace, known: Known) -> Manifest:
    """A release's manifest, from the working copy.

    Raises:
        CallerUnknownError: ``not_here``: its bytes are not in it.
    """
    folder = place.repository.folder / "targets" / known.facts.task
    path = (folder / "auto" if known.automatic else folder) / f"{known.digest}.{known.digest}.json"
    try:
        return decode_manifest(path.read_bytes())
    except OSError as error:
        raise CallerUnknownError(
            f"the manifest of {known.digest[:12]}… is not in this working copy",
            reason="not_here",
            fix="fetch it with --cloud, or name the bundle's folder",
        ) from error


def differences(before: Manifest, after: Manifest) -> list[Difference]:
    """What is another in two releases, from the files to the promise."""
    found: list[Difference] = []

    def compare(what: str, old: object, new: object) -> None:
        if old != new:
            found.append(Difference(what=what, before=str(old), after=str(new)))

    compare("task", before.task, after.task)
    compare("version", before.version, after.version)
    compare("parent", before.parent or "", after.parent or "")
    compare("labels", ", ".join(before.labels), ", ".join(after.labels))
    compare("inputs", [each.part for each in before.inputs], [each.part for each in after.inputs])
    compare("variants", [each.name for each in before.variants], [each.name for each in after.variants])
    compare("threshold", before.acceptance.threshold, after.acceptance.threshold)
    for what in ("risk", "coverage", "method"):
        old, new = (getattr(each.certificate, what, None) for each in (before, after))
        compare(f"certificate {what}", old, new)
    old_files, new_files = ({each.path: each for each in manifest.files} for manifest in (before, after))
    for path in sorted(old_files.keys() | new_files.keys()):
        old_file, new_file = old_files.get(path), new_files.get(path)
        if old_file is None or new_file is None or old_file.sha256 != new_file.sha256:
            compare(f"file {path}", _file(old_file), _file(new_file))
    return found


def _file(entry: Any) -> str:
    return f"{entry.sha256[:12]}… {entry.size} B" if entry else "none"


def _judged(client: TrustedMetadata, source: MetadataSource, path: str) -> Judged:
    task, *middle, file = path.split("/")
    name, automatic, plan = file.removesuffix(".json"), "auto" in middle[:1], "plans" in middle[-1:]
    judged = Judged(kind="plan" if plan else "release", task=task, name=name, automatic=automatic)
    try:
        if plan:
            found = client.plan(task, name, source)
            judged.fault = "" if found else "a device does not find it"
            return judged
        release = client.release(task, name, source)
        target = client.target(path, source)
        if release is None or target is None:
            raise TrustRefusedError("a device does not find it", reason="release_invalid")
        judged.version, judged.counter = release.facts.version, release.facts.counter
        decode_manifest(client.target_bytes(target, source))
    except OutriderError as error:
        judged.fault = f"{error.reason}: {error.what}"
    return judged


def _when(signed: Any) -> str:
    said = signed.unrecognized_fields.get(SIGNED_FIELD)
    return f"{datetime.fromtimestamp(said, UTC):%Y-%m-%d %H:%M:%S}" if isinstance(said, int) else ""
