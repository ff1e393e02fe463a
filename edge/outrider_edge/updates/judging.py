"""Whether an order may be carried out on this device: pure rules over the order, the signed plan and what this device is.

The signatures are looked at elsewhere (`outrider_trust.client`, called from `outrider_edge.updates.orders`). What is only too early is
no refusal: an approved order carries its times, and waits (`outrider_edge.updates.waiting`).
"""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from outrider_edge.updates.events import Assigned
from outrider_edge.updates.record import Times
from outrider_trust.facts import ReleaseFacts, Requires, SignedPlan, SignedRelease
from outrider_wire.errors import RuleRefusalError
from outrider_wire.fitness import misfit
from outrider_wire.rollout import DeviceOrder, PlannedRelease, earliest_ms, stage_of


class TaskFacts(Struct, kw_only=True, frozen=True):
    """What this device knows of one of its tasks."""

    running: str
    version: str = ""
    previous: str = ""
    floor: int = 0
    """The highest release counter that was committed here, and the release that had it."""
    floor_release: str = ""
    counter: int = 0
    """The running release's own; 0: it has none."""
    refused: Sequence[str] = ()


class LocalFacts(Struct, kw_only=True, frozen=True):
    """What this device is."""

    device: str
    facts: Mapping[str, str] = {}
    """Site, profile and labels: what a plan's group may ask for."""
    agent: str = ""
    arch: str = ""
    profile: str = ""
    memory_mb: int = 0
    """0: not known."""
    order: int = 0
    """The highest order number heeded, and the SHA-256 of that order's bytes."""
    order_sha256: str = ""
    tasks: Mapping[str, TaskFacts] = {}

    @property
    def said(self) -> dict[str, str]:
        """All that it says of itself: the cloud chooses by it, and the device must come to the same."""
        own = {"arch": self.arch, "profile": self.profile, "memory_mb": str(self.memory_mb or "")}
        return {**self.facts, **{name: text for name, text in own.items() if text}}


class Approved(Struct, kw_only=True, frozen=True):
    """What is to be done."""

    number: int
    rollout: str
    wishes: Mapping[str, Assigned]
    """By task."""


def judge(
    order: DeviceOrder,
    *,
    sha256: str,
    signed: SignedPlan,
    returning: Mapping[str, SignedRelease],
    local: LocalFacts,
    now_ms: int,
) -> Approved:
    """What an order, whose signature holds, asks of this device.

    Args:
        order: to this device.
        sha256: of its bytes.
        signed: the plan that it names, and its releases.
        returning: by task, what is signed of the releases that a rollback order returns to.

    Raises:
        RuleRefusalError: it may not be carried out, ever; the reason says why.
    """
    _check_number(order, sha256, local)
    plan, back = signed.plan, order.kind == "rollback"
    if plan.rollout != order.rollout:
        raise _refusal("order_foreign_plan", f"the plan is of rollout {plan.rollout}, and the order of {order.rollout}")
    if now_ms >= plan.expires_ms:
        raise _refusal("plan_expired", f"plan {plan.rollout} has run out")
    stage = stage_of(plan, local.device, local.said)
    if stage is None or stage > order.stage:
        raise _refusal("not_in_group", f"no group of plan {plan.rollout} up to stage {order.stage} has this device")
    facts = returning if back else {found.facts.task: found for found in signed.releases}
    _check_whole(order, plan.releases, local, back=back)
    if not back:
        check_fits(plan.requires, local)
    wishes = {}
    for planned in order.releases:
        known = local.tasks[planned.task]
        (_check_return if back else _check_planned)(planned, signed, known)
        if (found := facts.get(planned.task)) is None or found.digest != planned.release:
            raise _refusal("release_unsigned", f"release {planned.release[:12]}… of {planned.task} is not signed")
        _check_counter(planned, found.facts, known, back=back)
        check_fits(found.facts.requires, local)
        wishes[planned.task] = Assigned(
            release=planned.release,
            size=found.size,
            order=order.number,
            rollout=order.rollout,
            together=tuple(sorted(other.task for other in order.releases if other.task != planned.task)),
            release_counter=found.facts.counter,
            back=back,
            times=Times(
                begin_ms=0 if back else earliest_ms(plan, stage),
                expires_ms=min(order.expires_ms, plan.expires_ms),
                freeze=[] if back else plan.freeze,
            ),
        )
    return Approved(number=order.number, rollout=order.rollout, wishes=wishes)


def check_fits(requires: Requires, local: LocalFacts) -> None:
    """Whether a release can run here, before the first byte of it is fetched.

    Raises:
        RuleRefusalError: it cannot.
    """
    if (found := misfit(requires, agent=local.agent, facts=local.said)) is not None:
        raise _refusal(found.reason, f"this device does not fit: {found.what}")


def _check_number(order: DeviceOrder, sha256: str, local: LocalFacts) -> None:
    if order.number < local.order:
        raise _refusal("order_older", f"order {order.number} comes after order {local.order}")
    if order.number == local.order and local.order_sha256 not in ("", sha256):
        raise _refusal("order_reused", f"there was another order {order.number}")


def _check_whole(order: DeviceOrder, planned: Sequence[PlannedRelease], local: LocalFacts, *, back: bool) -> None:
    """Every task is here and comes once; of an update, all tasks of the plan that are here are in it."""
    ordered = [each.task for each in order.releases]
    if missing := [task for task in ordered if task not in local.tasks]:
        raise _refusal("task_not_here", f"task {missing[0]} is not on this device")
    if len(set(ordered)) < len(ordered):
        raise _refusal("order_twice", "the order names a task twice")
    left_out = [each.task for each in planned if each.task in local.tasks and each.task not in ordered]
    if left_out and not back:
        raise _refusal("order_partial", f"the plan changes {left_out[0]} too, and the order leaves it out")


def _check_planned(planned: PlannedRelease, signed: SignedPlan, known: TaskFacts) -> None:
    if planned not in signed.plan.releases:
        raise _refusal("not_in_plan", f"the plan has no release {planned.release[:12]}… of {planned.task}")
    _check_refused(planned, known)


def _check_return(planned: PlannedRelease, signed: SignedPlan, known: TaskFacts) -> None:
    permitted = [each for each in signed.plan.rollback_to if each.task == planned.task]
    own = not permitted and planned.release in (known.previous, known.running)
    if planned not in permitted and not own:
        raise _refusal("rollback_not_permitted", f"the plan permits no return to {planned.release[:12]}…")
    newest = max((each.counter for each in signed.plan.releases if each.task == planned.task), default=known.counter)
    if known.counter > newest:
        raise _refusal(
            "rollback_overtaken", f"a release with counter {known.counter} runs here, and the plan's is {newest}"
        )
    _check_refused(planned, known)


def _check_refused(planned: PlannedRelease, known: TaskFacts) -> None:
    if planned.release in known.refused:
        raise _refusal("refused_before", f"release {planned.release[:12]}… of {planned.task} was refused here before")


def _check_counter(planned: PlannedRelease, facts: ReleaseFacts, known: TaskFacts, *, back: bool) -> None:
    if facts.counter != planned.counter:
        raise _refusal(
            "counter_mismatch", f"release and order disagree on its counter: {facts.counter}, {planned.counter}"
        )
    if facts.counter == known.floor and known.floor_release not in ("", planned.release):
        raise _refusal("counter_reused", f"another release of {planned.task} has had counter {facts.counter}")
    if facts.version == known.version and planned.release != known.running:
        raise _refusal("version_reused", f"version {facts.version} of {planned.task} runs here with another digest")
    if facts.counter < known.floor and not back:
        raise _refusal("counter_older", f"its counter is {facts.counter}, and {known.floor} has run here")


def _refusal(reason: str, what: str) -> RuleRefusalError:
    return RuleRefusalError(what, reason=reason)
