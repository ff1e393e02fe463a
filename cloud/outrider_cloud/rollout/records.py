"""What is known of a rollout: its progress, its devices, and the fleet as the devices describe themselves. Values only."""

from msgspec import Struct

from outrider_cloud.rollout.states import MemberState, State
from outrider_wire.fitness import Requires
from outrider_wire.rollout import PlannedRelease, RolloutPlan

EVENTS = 200


class Count(Struct, kw_only=True, frozen=True):
    """Inputs of one task on one device."""

    inputs: int = 0
    sent: int = 0
    """Those that the large model was asked about, answered or not."""


class Slot(Struct, kw_only=True, frozen=True):
    """What one task's slot holds, as the device reported."""

    running: str = ""
    state: str = "idle"
    offered: str = ""
    reason: str = ""
    refused: list[str] = []
    order: int = 0
    """Number of the newest order that it heeds; 0: the device does not tell."""
    outcome: str = ""
    """How that order ended, by the names of `outrider_cloud.rollout.members.OUTCOMES`; '' while it is under way."""


class End(Struct, kw_only=True, frozen=True):
    """How an order ended for one task, as the device reported."""

    task: str
    order: int
    outcome: str
    reason: str = ""


class Seen(Struct, kw_only=True, frozen=True):
    """One device."""

    device: str
    online: bool = True
    agent: str = ""
    facts: dict[str, str] = {}
    seen_ms: int = 0
    slots: dict[str, Slot] = {}
    ends: list[End] = []
    """The newest, oldest first."""
    counts: dict[str, Count] = {}
    alarms: dict[str, str] = {}
    """Tasks whose audits have broken their certificate's promise, each with that certificate."""


class Member(Struct, kw_only=True, frozen=True):
    """One device in one rollout. It is counted once, whatever it says and however often."""

    device: str
    stage: int
    state: MemberState = "waiting"
    order: int = 0
    """Number of the newest order to it."""
    first: int = 0
    """Number of the first of those that were only made anew."""
    ordered_ms: int = 0
    """When it was first ordered: an order that is only made anew gives nobody more time."""
    expires_ms: int = 0
    """Of the newest order."""
    back: bool = False
    """Whether the newest order is to go back."""
    began_ms: int = 0
    """When the first word about the release came; 0: none has."""
    ended_ms: int = 0
    reason: str = ""
    ran: bool = False
    """Whether the release was seen to run on it."""
    silent: bool = False
    """Whether it was ever not heard of for too long since it began."""
    alarmed: bool = False
    verified: bool = False
    """Whether it was ever seen to sign its figures: else it can raise no alarm, and is not counted as one that raised none."""
    forgiven: bool = False
    """A person decided that what went wrong on it does not speak against the release."""
    before: dict[str, str] = {}
    """Task → what it ran when it was ordered."""
    alarms: dict[str, str] = {}
    """Its alarms at that time."""
    base: dict[str, Count] = {}
    """Its counts at that time."""
    swapped: dict[str, Count] = {}
    """Its counts when the release was first seen to run."""


class Event(Struct, kw_only=True, frozen=True):
    """Something that happened to a rollout."""

    at_ms: int
    state: State
    stage: int
    what: str


class Progress(Struct, kw_only=True, frozen=True):
    """How far a rollout is."""

    state: State = "scheduled"
    stage: int = 0
    began_ms: int = 0
    """When this stage began; 0: none has."""
    approved: int = 0
    """The last stage that may begin without a person, where each is approved."""
    looks: int = 0
    """Stages on which escalation shares were compared: once each, so that the promise on false halts holds."""
    reason: str = ""
    """Code of why it stands as it does."""
    what: str = ""
    control: dict[str, dict[str, Count]] = {}
    """Devices that are treated last, with their counts when the rollout began: what the others are compared with."""
    since: dict[str, dict[str, Count]] = {}
    """Their counts when this stage began."""
    events: list[Event] = []

    def told(self, at_ms: int, what: str) -> list[Event]:
        """The events and one more; the oldest make way."""
        return [*self.events, Event(at_ms=at_ms, state=self.state, stage=self.stage, what=what)][-EVENTS:]


class World(Struct, kw_only=True, frozen=True):
    """What a look at the fleet depends on beside the rollout itself."""

    now_ms: int
    listening_ms: int = 0
    """Since when the cloud hears the broker without a break: nobody is silent for longer."""
    busy: dict[str, str] = {}
    """Devices that are on their way in another rollout, and in which."""
    superseded: bool = False
    """Whether a later rollout is of the same tasks: then this one is history."""
    known: dict[str, PlannedRelease] = {}
    """Releases that are here, by digest: what an order may return to."""


class Look(Struct, kw_only=True, frozen=True):
    """One look at a rollout: all that its next step depends on."""

    plan: RolloutPlan
    progress: Progress
    members: dict[str, Member]
    """Its devices, by name."""
    fleet: dict[str, Seen]
    """All devices, by name."""
    world: World
    asks: list[Requires] = []
    """What the plan's releases ask of a device, beside the plan itself."""


class Blocked(Struct, kw_only=True, frozen=True):
    """Why a device is not ordered."""

    device: str
    reason: str
    what: str


def target(releases: list[PlannedRelease]) -> dict[str, str]:
    """Task → release."""
    return {each.task: each.release for each in releases}
