"""Rollouts as their engineer sees them: the plan that is signed, what the cloud foretells of it, how it stands. Signs nothing itself."""

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from outrider.exchange import decoded, error_of
from outrider.releases import CLOUD, CloudApi
from outrider_wire.decodable import decodable
from outrider_wire.errors import CallerInputError, CallerUnknownError
from outrider_wire.names import Name
from outrider_wire.rollout import PlannedRelease, RolloutPlan, Stop

T = TypeVar("T")

ENDED_WELL = frozenset({"finished"})
ENDED_ILL = frozenset({"halted", "aborted", "expired", "rolled_back"})
"""States that nothing but a person leads out of, and that are not what was wanted."""
UNDECIDED = frozenset({"undecided"})


class Stage(Struct, kw_only=True):
    """What one stage would come to."""

    name: str
    group: str
    devices: int
    present: int
    online: int
    minimum: int
    asked: str = ""
    ruled_out_at_minimum: float = 1.0
    tested: int
    detects: str
    ruled_out: float
    halted_above: float | None
    bytes: int
    seconds: float
    blockers: dict[str, int] = {}


class Foretold(Struct, kw_only=True):
    """What a plan would come to."""

    rollout: str
    stages: list[Stage]
    devices: int
    bytes: int
    seconds: float
    outside: int
    warnings: list[str]


class Figure(Struct, kw_only=True):
    """One threshold and what was found."""

    name: str
    bad: int
    n: int
    limit: float
    lower: float
    upper: float
    says: str
    what: str = ""


class StageNow(Struct, kw_only=True):
    """How one stage stands."""

    name: str
    group: str
    minimum: int
    asked: str = ""
    members: dict[str, int]
    belongs: int


class Event(Struct, kw_only=True):
    """Something that happened."""

    at_ms: int
    state: str
    what: str


class Standing(Struct, kw_only=True):
    """How a rollout stands; the last fields only where one is asked about alone."""

    rollout: str
    state: str
    means: str = ""
    over: bool = False
    may: list[str] = []
    stage: int = 0
    stages: int = 1
    group: str = ""
    automatic: bool = False
    releases: list[PlannedRelease] = []
    members: dict[str, int] = {}
    reason: str = ""
    what: str = ""
    stopped: bool = False
    groups: list[StageNow] = []
    figures: list[Figure] = []
    blockers: dict[str, int] = {}
    events: list[Event] = []


class Standings(Struct, kw_only=True):
    """All rollouts, the newest first, and the emergency stop that stands, if one does."""

    rollouts: list[Standing] = []
    stop: Stop | None = None

    @property
    def stopped(self) -> str:
        """The stop in words; '' when none stands."""
        if self.stop is None:
            return ""
        what = ", ".join(self.stop.rollouts) or "all updates"
        return f"STOPPED: {what}{f' ({self.stop.reason})' if self.stop.reason else ''}; lift it with: outrider ota stop --lift"


class RolloutApi:
    """The cloud's HTTP API, as far as rollouts go. Every method raises what `outrider.exchange.error_of` makes of a refusal."""

    def __init__(self, api: CloudApi) -> None:
        self.cloud = api
        """The rest of that API."""
        self._http = api.transport

    def forecast(self, plan: RolloutPlan) -> Foretold:
        """What a plan would come to; it need not be signed."""
        return self._post("/v1/rollouts/forecast", {"plan": msgspec.to_builtins(plan)}, Foretold)

    def begin(self, task: str, rollout: str) -> Standing:
        """Begins a rollout whose plan is signed."""
        return self._post("/v1/rollouts", {"task": task, "rollout": rollout}, Standing)

    def standings(self) -> Standings:
        """All rollouts; none where the cloud knows of no such thing."""
        reply = self._http.request("GET", "/v1/rollouts")
        if reply.status in (404, 405):
            return Standings()
        return decoded(reply.status, reply.body, Standings, what=CLOUD)

    def one(self, rollout: str) -> Standing:
        """One of them."""
        reply = self._http.request("GET", f"/v1/rollouts/{_name(rollout)}")
        return decoded(reply.status, reply.body, Standing, what=CLOUD)

    def act(self, rollout: str, wanted: str, *, note: str, forgive: bool, dry_run: bool) -> Standing:
        """A person's word on it."""
        body = {"act": wanted, "note": note, "forgive": forgive, "dry_run": dry_run}
        return self._post(f"/v1/rollouts/{_name(rollout)}/act", body, Standing)

    def stop(self, rollouts: Sequence[str], *, lifted: bool, reason: str, dry_run: bool) -> dict[str, Any]:
        """The emergency stop, or its end."""
        body = {"rollouts": list(rollouts), "lifted": lifted, "reason": reason, "dry_run": dry_run}
        return self._post("/v1/stops", body, dict[str, Any])

    def _post(self, path: str, body: object, kind: type[T]) -> T:
        data = msgspec.json.encode(body)
        reply = self._http.request("POST", path, body=data, headers={"Content-Type": "application/json"})
        if reply.status >= 300:
            raise error_of(reply.status, reply.body, what=CLOUD)
        return decoded(reply.status, reply.body, kind, what=CLOUD)


def newest(api: RolloutApi, rollout: str) -> str:
    """The rollout of that name; of '', the one that is not over, else the newest.

    Raises:
        CallerUnknownError: there is none, or more than one is under way.
    """
    if rollout:
        return rollout
    known = api.standings().rollouts
    running = [each.rollout for each in known if not each.over] or [each.rollout for each in known[:1]]
    if len(running) != 1:
        what = f"{len(running)} rollouts are under way" if running else "there is no rollout"
        fix = "name one: outrider ota status" if running else "begin one: outrider ota rollout"
        raise CallerUnknownError(what, reason="which_rollout", fix=fix)
    return running[0]


def changes(api: RolloutApi, rollout: str, *, every_s: float, within_s: float | None) -> Iterator[Standing]:
    """How it stands, again and again, whether or not it has changed; ends when the time is over."""
    until = None if within_s is None else time.monotonic() + within_s
    while True:
        yield api.one(rollout)
        left = every_s if until is None else until - time.monotonic()
        if left <= 0:
            return
        time.sleep(min(every_s, left))


def moment_ms(text: str, now_ms: int) -> int:
    """A moment as people write it: '' for now, ``2h`` for in two hours, else ISO 8601, taken for UTC where it names no offset.

    Raises:
        CallerInputError: it is none.
    """
    from outrider import durations

    if not text:
        return now_ms
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return now_ms + durations.seconds(text) * 1000
    return round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1000)


def rate(text: str) -> float:
    """``2%`` or ``0.02`` as 0.02.

    Raises:
        CallerInputError: it is no share between 0 and 1.
    """
    try:
        value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        value = -1.0
    if not 0.0 < value < 1.0:
        raise CallerInputError(f"{text!r} is no share", reason="invalid_rollout", fix="write 2% or 0.02")
    return value


def stage_rows(said: Foretold) -> list[tuple[str, ...]]:
    """The forecast as a table's rows."""
    from outrider.bundle_report import size

    return [
        (
            each.name,
            each.group,
            f"{each.devices} ({each.online} online)" + (f" + {each.present} run it" if each.present else ""),
            _must(each),
            each.detects,
            size(each.bytes),
            span(each.seconds),
            counted(each.blockers) or "–",
        )
        for each in said.stages
    ]


def standing_rows(standing: Standing) -> list[tuple[str, ...]]:
    """The stages of a rollout as a table's rows."""
    return [
        (
            ("→ " if index == standing.stage and not standing.over else "  ") + each.name,
            each.group,
            str(each.belongs),
            _must(each),
            counted(each.members) or "–",
        )
        for index, each in enumerate(standing.groups)
    ]


def figure_rows(standing: Standing) -> list[tuple[str, ...]]:
    """The thresholds as a table's rows."""
    return [
        (
            each.name,
            f"{each.bad} of {each.n}",
            f"{each.lower:.1%} – {each.upper:.1%}" if each.name != "escalation" else "–",
            f"{each.limit:.1%}",
            each.says.replace("_", " "),
        )
        for each in standing.figures
    ]


def headline(standing: Standing) -> str:
    """A rollout in one line."""
    stopped = (", automatic" if standing.automatic else "") + (", STOPPED" if standing.stopped else "")
    where = f"stage {standing.stage + 1} of {standing.stages} ({standing.group})"
    what = f": {standing.what}" if standing.what else ""
    return f"{standing.rollout}: {standing.state.replace('_', ' ')}{stopped}, {where}{what}"


def counted(what: dict[str, int]) -> str:
    """``12 committed, 1 failed``."""
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in sorted(what.items()) if count)


def span(seconds: float) -> str:
    """Seconds in the largest unit that leaves a number people read."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def _must(stage: Stage | StageNow) -> str:
    """``12 (60%)``."""
    return f"{stage.minimum} ({stage.asked})" if stage.asked.endswith("%") else str(stage.minimum)


def _name(rollout: str) -> str:
    try:
        return str(msgspec.convert(rollout, decodable(Name)))
    except msgspec.ValidationError as error:
        raise CallerInputError(
            f"{rollout[:80]!r} is no name of a rollout", reason="invalid_rollout", fix="see: outrider ota status"
        ) from error
