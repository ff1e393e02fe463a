"""Every message that crosses the broker, as a typed and bounded struct. Knows no topics and no transport.

MessagePack maps (or JSON, by content type); ids are strings, integers stay below 2**53, unknown fields are ignored, so
that a newer peer can add one. ``v`` is the wire version of the sender.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from outrider_wire.limits import BLOB_BYTES, BLOCK_BYTES, ENTRIES, INLINE_BYTES, LABELS, PARTS, WIRE_VERSION
from outrider_wire.names import END, Digest, Identifier, Label, Name, Reason

Version = Annotated[int, Meta(ge=1, le=1000)]
Count = Annotated[int, Meta(ge=0, lt=2**53)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Text = Annotated[str, Meta(max_length=2048)]
Modality = Literal["image", "audio", "text", "series"]
Probabilities = Annotated[list[Share], Meta(max_length=LABELS)]
Finite = Annotated[float, Meta(ge=-1e15, le=1e15)]
"""A bound is what refuses NaN and infinity, which MessagePack carries and JSON cannot say."""
SignedBytes = Annotated[bytes, Meta(max_length=64 * 1024)]
MetadataPath = Annotated[str, Meta(max_length=256, pattern=rf"^[a-z0-9_][a-z0-9._-]*(/[a-z0-9_][a-z0-9._-]*)*{END}")]
"""Of a file in a repository of signed metadata; it can lead nowhere else."""
Milliseconds = Annotated[dict[Annotated[str, Meta(max_length=32)], Finite], Meta(max_length=ENTRIES)]


class FullForm(Struct, kw_only=True, frozen=True):
    """All of a part whose first form is sent beside this offer: the device holds it until it hears that nobody needs it."""

    media_type: Annotated[str, Meta(max_length=128)]
    size: Annotated[int, Meta(ge=0, le=BLOB_BYTES)]
    sha256: Digest


class Part(Struct, kw_only=True, frozen=True):
    """One input part: its bytes inline, or an offer (digest and size) that the worker pulls."""

    name: Name
    modality: Modality
    media_type: Annotated[str, Meta(max_length=128)]
    size: Annotated[int, Meta(ge=0, le=BLOB_BYTES)]
    sha256: Digest
    inline: bytes | None = None
    full: FullForm | UnsetType = UNSET
    """Where this is a first form (a thumbnail, a compressed frame): what it was made of, to be pulled if it does not suffice.
    Left out of the bytes where this is all there is."""

    @property
    def unseen(self) -> FullForm | None:
        """What could still be pulled of it; None: this is all there is."""
        return None if self.full is UNSET or self.full.sha256 == self.sha256 else self.full


class Fact(Struct, kw_only=True, frozen=True):
    """A sub-task that the device has answered: what the large model need not find out again."""

    name: Name
    label: Label
    confidence: Share


class Escalation(Struct, kw_only=True, frozen=True, tag="escalation"):
    """Device → workers: an input that the acceptance rule refused, an audit of one it accepted, or one a caller insisted on."""

    id: Identifier
    task: Name
    parts: Annotated[list[Part], Meta(min_length=1, max_length=PARTS)]
    why: Reason
    """Why it is sent: ``low_confidence``, ``unsupported``, ``audit``, ``requested``, ``no_certificate``, ``alarm``.

    An audit of an input that the rule refuses by support (shadow mode) says ``unsupported``."""
    model: Digest
    """Digest of the bundle that answered on the device."""
    label: Label
    """The device's own answer."""
    probabilities: Probabilities
    """The small model's calibrated distribution over the task's labels, in the task's order."""
    audit: Share = 0.0
    """The known sampling probability when this is an audit, else 0."""
    answer_within_ms: Annotated[int, Meta(ge=0, le=86_400_000)]
    """What is left of the application's waiting time when this was offered."""
    keep_for_s: Annotated[int, Meta(ge=0, le=31_536_000)]
    """How long the answer is still worth having."""
    group: Annotated[str, Meta(max_length=128)] = ""
    """What this input is correlated with (clip, event, image): one data role a group. Empty: the input itself."""
    offer: Annotated[int, Meta(ge=1, le=1_000_000)] = 1
    """How many times this input has been offered, this one included."""
    facts: Annotated[list[Fact], Meta(max_length=PARTS)] | UnsetType = UNSET
    """Answers to the task's sub-tasks. Left out of the bytes where there are none; see `known`."""
    v: Version = WIRE_VERSION

    @property
    def known(self) -> list[Fact]:
        """The facts; none where the field was left out."""
        return [] if self.facts is UNSET else self.facts

    @property
    def digests(self) -> set[str]:
        """SHA-256 of its parts, and of what may still be pulled of them."""
        return {form.sha256 for part in self.parts for form in (part, part.unseen) if form is not None}


class Receipt(Struct, kw_only=True, frozen=True, tag="receipt"):
    """Worker → device: the escalation is stored durably; the device may forget its payload.

    While a full form might still be pulled there is none: the device keeps what it has, and offers it again."""

    id: Identifier
    v: Version = WIRE_VERSION


class Answer(Struct, kw_only=True, frozen=True, tag="answer"):
    """Worker → device: the first committed answer to an input; every repeat is the same."""

    id: Identifier
    task: Name
    label: Label
    confidence: Share
    probabilities: Probabilities
    strategy: Name
    model: Annotated[str, Meta(max_length=256)]
    """Name and revision of the large model."""
    ms: Milliseconds = {}
    """Milliseconds a stage in the cloud: ``queue``, ``pull``, ``model``, ``total``."""
    form: Reason | UnsetType = UNSET
    """On which form it was decided, where the device had sent a first one: ``first`` (it sufficed), ``full`` (pulled because it
    did not), ``first_only`` (it did not, and the full one could not be had). Left out of the bytes otherwise."""
    v: Version = WIRE_VERSION


class Refusal(Struct, kw_only=True, frozen=True, tag="refusal"):
    """Worker → device: not answered, with the reason; with ``retry_after_s``, the device keeps it and offers it again."""

    id: Identifier
    reason: Reason
    detail: Text = ""
    retry_after_s: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    v: Version = WIRE_VERSION


class BlobWant(Struct, kw_only=True, frozen=True, tag="want"):
    """Puller → holder: send ``count`` blocks of ``block`` bytes of this blob from ``offset``."""

    transfer: Name
    sha256: Digest
    offset: Annotated[int, Meta(ge=0, le=BLOB_BYTES)]
    count: Annotated[int, Meta(ge=1, le=256)]
    block: Annotated[int, Meta(ge=1, le=BLOCK_BYTES)]
    worker: Name
    """Who pulls: names the topic that the blocks go to, ``releases`` when a device pulls."""
    v: Version = WIRE_VERSION


class BlobBlock(Struct, kw_only=True, frozen=True, tag="block"):
    """Holder → puller: one block; the last one may be short."""

    transfer: Name
    offset: Annotated[int, Meta(ge=0, le=BLOB_BYTES)]
    data: Annotated[bytes, Meta(max_length=BLOCK_BYTES)]
    v: Version = WIRE_VERSION


class BlobGone(Struct, kw_only=True, frozen=True, tag="gone"):
    """Holder → puller: this blob is not here (any more)."""

    transfer: Name
    sha256: Digest
    reason: Reason
    v: Version = WIRE_VERSION


class DeltaWant(Struct, kw_only=True, frozen=True, tag="delta_want"):
    """Device → cloud: is there a delta that makes this file of a release of one of those that are here?"""

    transfer: Name
    sha256: Digest
    """The file that is wanted."""
    bases: Annotated[list[Digest], Meta(min_length=1, max_length=8)]
    """Files that are here, the likeliest first."""
    v: Version = WIRE_VERSION


class DeltaFound(Struct, kw_only=True, frozen=True, tag="delta_found"):
    """Cloud → device: there is one; it is pulled as any blob. `BlobGone` with the wanted file's digest: there is none, or not yet."""

    transfer: Name
    sha256: Digest
    """The file that is wanted."""
    base: Digest
    delta: Digest
    size: Annotated[int, Meta(ge=1, le=BLOB_BYTES)]
    """Bytes of the delta."""
    v: Version = WIRE_VERSION


class MetadataWant(Struct, kw_only=True, frozen=True, tag="metadata_want"):
    """Device → cloud: send this file of signed metadata."""

    transfer: Name
    """Names the topic that the reply goes to."""
    path: MetadataPath
    """Within the repository: ``metadata/timestamp.json``, ``metadata/3.easy-vqa.json``, ``targets/…``."""
    v: Version = WIRE_VERSION


class MetadataFound(Struct, kw_only=True, frozen=True, tag="metadata_found"):
    """Cloud → device: the file, or how to pull it, or that there is none. Nothing of it is believed before its signatures are."""

    transfer: Name
    path: MetadataPath
    sha256: Annotated[str, Meta(pattern=rf"^([0-9a-f]{{64}})?{END}")]
    """Of the file; empty: there is no such file."""
    size: Annotated[int, Meta(ge=0, le=BLOB_BYTES)] = 0
    data: Annotated[bytes, Meta(max_length=INLINE_BYTES)] = b""
    """All of it, up to 64 KiB; of a larger one nothing: it is pulled as a blob by its digest."""
    v: Version = WIRE_VERSION


class MetadataNotice(Struct, kw_only=True, frozen=True, tag="metadata"):
    """Cloud → all devices, retained: a hint that newer metadata can be had."""

    timestamp: Count
    """Version of the newest timestamp."""
    v: Version = WIRE_VERSION


class StopNotice(Struct, kw_only=True, frozen=True, tag="stop"):
    """Cloud → all devices, retained: the newest emergency stop."""

    envelope: SignedBytes
    """A `Stop` in a DSSE envelope."""
    v: Version = WIRE_VERSION


class Assignment(Struct, kw_only=True, frozen=True):
    """Which release one task's slot should hold."""

    task: Name
    release: Digest
    """SHA-256 of the bundle's manifest; the manifest names every other file by digest."""
    size: Annotated[int, Meta(ge=1, le=BLOB_BYTES)]
    """Size of the manifest in bytes."""
    counter: Count
    """Grows with every assignment of this task to this device; a device ignores one below its own."""


class Desired(Struct, kw_only=True, frozen=True, tag="desired"):
    """Cloud → device, retained: a hint until the device has verified it."""

    assignments: Annotated[list[Assignment], Meta(max_length=64)]
    order: SignedBytes | UnsetType = UNSET
    """The cloud's signed order, in a DSSE envelope; a device with a root of trust obeys nothing else. Left out where there is
    none; see `signed`."""
    v: Version = WIRE_VERSION

    @property
    def signed(self) -> bytes:
        """The order's envelope; empty: there is none."""
        return b"" if self.order is UNSET else self.order


SlotState = Literal[
    "idle", "offered", "fetching", "staged", "testing", "armed", "probation", "committed", "rollback", "refused"
]


Outcome = Literal["", "committed", "refused", "rolled_back", "companion", "stopped", "gave_up", "replaced"]
"""How an order ended: ``refused`` before it ran here, ``rolled_back`` after; ``companion``: another task of it failed."""


class SlotReport(Struct, kw_only=True, frozen=True):
    """What one task's slots really hold."""

    task: Name
    running: Digest
    version: Annotated[str, Meta(max_length=128)]
    slot: Literal["a", "b"]
    state: SlotState
    reason: Annotated[str, Meta(max_length=512)] = ""
    offered: Annotated[str, Meta(max_length=64)] = ""
    """The release this state is about, when it is not the running one."""
    counter: Count = 0
    refused: Annotated[list[Digest], Meta(max_length=64)] = []
    code: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    """The reason, for programs. Left out, like what follows, where there is nothing to say."""
    order: Count | UnsetType = UNSET
    """Number of the newest signed order that this task heeds."""
    rollout: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    release_counter: Count | UnsetType = UNSET
    """The running release's own, given by its signer."""
    outcome: Outcome | UnsetType = UNSET
    """Of that order; left out while it is under way."""
    left_s: Annotated[float, Meta(ge=0, le=1e15)] | UnsetType = UNSET
    """Run time until this state's deadline."""


class Ended(Struct, kw_only=True, frozen=True):
    """How one order ended for one task: told until newer ones have taken its place, so that the cloud hears of each."""

    sequence: Count
    """Counts what ended on this device: with the device's name, the key by which a repeat is known."""
    task: Name
    order: Count
    """0: nothing signed brought it."""
    rollout: Annotated[str, Meta(max_length=64)] = ""
    release: Annotated[str, Meta(max_length=64)]
    outcome: Outcome
    code: Annotated[str, Meta(max_length=64)] = ""
    reason: Annotated[str, Meta(max_length=256)] = ""
    clock_ms: Count = 0
    """UTC by the device's own clock, which may be wrong."""


class Reported(Struct, kw_only=True, frozen=True, tag="reported"):
    """Device → cloud, retained: what really runs, and why."""

    slots: Annotated[list[SlotReport], Meta(max_length=64)]
    device: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    """Left out, like what follows, where there is nothing to say."""
    sequence: Count | UnsetType = UNSET
    """Grows with every report of this device, over restarts too."""
    clock_ms: Count | UnsetType = UNSET
    """UTC by the device's own clock, which may be wrong."""
    order: Count | UnsetType = UNSET
    """The highest number of a signed order that was heeded."""
    stop: Count | UnsetType = UNSET
    """The highest number of a stop that was heeded."""
    metadata: Annotated[dict[Annotated[str, Meta(max_length=64)], Count], Meta(max_length=ENTRIES)] | UnsetType = UNSET
    """Version of each role's metadata that the device trusts."""
    attack: Annotated[str, Meta(max_length=64)] | UnsetType = UNSET
    """Reason code of the last metadata, order or stop that was refused as forged, replayed or damaged."""
    held: Annotated[str, Meta(max_length=512)] | UnsetType = UNSET
    """Why nothing begins on this device now: a stop, a pin, a damaged record."""
    ends: Annotated[list[Ended], Meta(max_length=32)] | UnsetType = UNSET
    """The newest ends, oldest first."""
    signed: Annotated[bytes, Meta(max_length=512 * 1024)] | UnsetType = UNSET
    """The same without this field, as an `outrider_trust.envelope.Envelope` signed with the device's key."""
    key: Annotated[bytes, Meta(max_length=256)] | UnsetType = UNSET
    """That key's public half (SubjectPublicKeyInfo, DER): believed at first sight, or where the device's certificate is for it."""
    v: Version = WIRE_VERSION


class Presence(Struct, kw_only=True, frozen=True, tag="presence"):
    """Device → all, retained, and its last will with ``online = false``."""

    device: Name
    online: bool
    boot_id: Annotated[str, Meta(max_length=64)]
    agent: Annotated[str, Meta(max_length=64)] = ""
    wire: Annotated[list[Version], Meta(max_length=8)] = []
    """The wire versions that the device speaks."""
    releases: Annotated[dict[Name, Digest], Meta(max_length=ENTRIES)] = {}
    capabilities: Annotated[
        dict[Annotated[str, Meta(max_length=64)], Annotated[str, Meta(max_length=256)]], Meta(max_length=ENTRIES)
    ] = {}
    v: Version = WIRE_VERSION


class MonitorFigures(Struct, kw_only=True, frozen=True):
    """How the watch over one task's certificate stands."""

    certificate: Annotated[str, Meta(min_length=1, max_length=64)]
    risk: Share
    """The rate of errors among audits that is still within the promise."""
    statistic: Annotated[float, Meta(ge=0, le=1e15)]
    limit: Annotated[float, Meta(ge=1, le=1e15)]
    """An alarm is raised when the statistic reaches it."""
    audits: Count
    errors: Count
    alarm: bool
    alarm_since_ms: Count | None = None
    """UTC by the device's own clock, which may be wrong."""


class Telemetry(Struct, kw_only=True, frozen=True, tag="telemetry"):
    """Device → cloud, now and then: the account and the shape of what the device sees, one message a task."""

    device: Name
    boot_id: Annotated[str, Meta(max_length=64)]
    task: Name
    uptime_s: Annotated[float, Meta(ge=0, le=1e15)]
    account: Annotated[dict[Annotated[str, Meta(max_length=64)], Count], Meta(max_length=ENTRIES)]
    """Terminal states and attributes, as `outrider_wire.account` names them."""
    confidence: Annotated[list[Count], Meta(max_length=64)] = []
    """Histogram of the small model's confidence in equal bins over [0, 1]."""
    edge_ms: Milliseconds = {}
    cloud_ms: Milliseconds = {}
    monitor: MonitorFigures | UnsetType = UNSET
    """Left out where no certificate is watched."""
    sequence: Count | UnsetType = UNSET
    """Number of the device's newest report when this was told; with `uptime_s` it grows with every message of a task."""
    signed: Annotated[bytes, Meta(max_length=64 * 1024)] | UnsetType = UNSET
    """The same without this field, as an `outrider_trust.envelope.Envelope` signed with the key of the device's reports."""
    v: Version = WIRE_VERSION


UplinkMessage = (
    Escalation | Presence | Reported | Telemetry | BlobWant | BlobBlock | BlobGone | DeltaWant | MetadataWant
)
DownlinkMessage = (
    Receipt
    | Answer
    | Refusal
    | Desired
    | BlobWant
    | BlobBlock
    | BlobGone
    | DeltaFound
    | MetadataFound
    | MetadataNotice
    | StopNotice
)
Message = (
    Escalation
    | Receipt
    | Answer
    | Refusal
    | BlobWant
    | BlobBlock
    | BlobGone
    | DeltaWant
    | DeltaFound
    | MetadataWant
    | MetadataFound
    | MetadataNotice
    | StopNotice
    | Desired
    | Reported
    | Presence
    | Telemetry
)
