"""What a person asks of rollouts: a forecast, a new one, a word on one, a stop, how they stand. Signs nothing that no rule permits."""

from functools import partial

import sqlalchemy as sa
from msgspec.structs import replace

from outrider_cloud.clock import now_ms
from outrider_cloud.rollout.controller import Step, act, step
from outrider_cloud.rollout.forecast import Carriage, Forecast, forecast
from outrider_cloud.rollout.records import Look, Member, Progress, World
from outrider_cloud.rollout.running import Rollouts, covers, fleet_of
from outrider_cloud.rollout.states import ACTS, BAD, STATES, Act
from outrider_cloud.rollout.views import DeviceInRollout, RolloutBrief, RolloutDetail, brief, detail, member_views
from outrider_cloud.store import rollouts
from outrider_cloud.store.rollouts import Kept, OvertakenError
from outrider_cloud.store.schema import release_files, releases
from outrider_cloud.store.store import Store
from outrider_wire.errors import CallerUnknownError, RuleRefusalError
from outrider_wire.rollout import RolloutPlan, Stop

_TRIES = 3


class RolloutDesk:
    """The operator's side of `Rollouts`."""

    def __init__(self, *, store: Store, running: Rollouts, carriage: Carriage | None = None) -> None:
        self._store = store
        self._running = running
        self._carriage = carriage or Carriage()

    async def forecast(self, plan: RolloutPlan) -> Forecast:
        """What a plan would come to; it need not be signed yet.

        Raises:
            CallerUnknownError: one of its releases is not here.
        """
        return await self._store.read(partial(self._forecast, plan=plan))

    async def create(self, task: str, rollout: str) -> RolloutBrief:
        """Takes up a rollout whose plan is in the signed metadata.

        Raises:
            CallerUnknownError: no such plan is signed, or one of its releases is not here.
            RuleRefusalError: its time is over, another one is in the way, or nothing can be signed here.
            OutriderError: the plan is signed and cannot be followed.
        """
        signed = await self._running.plan(task, rollout)
        if signed is None:
            raise CallerUnknownError(
                f"no plan {rollout} is signed for task {task}", reason="unknown_plan", fix="see: outrider ota rollout"
            )
        stamp_ms = now_ms()
        if signed.plan.expires_ms <= stamp_ms:
            raise RuleRefusalError(
                f"plan {rollout} has expired", reason="plan_expired", fix="sign a new one under another name"
            )
        asks = [each.facts.requires for each in signed.releases]

        def add(connection: sa.Connection) -> Kept:
            _check_here(connection, signed.plan)
            rollouts.add(connection, plan=signed.plan, asks=asks, automatic=signed.automatic, stamp_ms=stamp_ms)
            return rollouts.find(connection, rollout=rollout)

        return brief(await self._store.write(add), {})

    async def act(self, rollout: str, wanted: Act, *, note: str, forgive: bool, dry_run: bool) -> RolloutBrief:
        """A person's word on a rollout; with ``dry_run``, what it would come to.

        Raises:
            CallerUnknownError: there is no such rollout.
            RuleRefusalError: not in the state that it is in.
        """
        for _ in range(_TRIES):
            found = await self._running.look(rollout, returning=wanted == "rollback")
            progress = permitted(found.look, wanted, note=note, forgive=forgive)
            pardoned = _pardoned(found.look) if wanted == "resume" and forgive else {}
            look = replace(found.look, progress=progress, members=found.look.members | pardoned)
            done = step(look)
            done = replace(done, members=pardoned | done.members)
            if dry_run:
                return brief(replace(found.kept, progress=done.progress), look.members | done.members)
            try:
                await self._running.write(found, done)
            except OvertakenError:
                continue
            if wanted in ("resume", "rollback"):
                await self._lift(rollout, note)
            await self._running.send()
            return await self.one_brief(rollout)
        raise RuleRefusalError(
            f"rollout {rollout} changes too quickly", reason="overtaken", fix="try again; is another cloud at it?"
        )

    async def stop(self, names: list[str], *, lifted: bool, reason: str, dry_run: bool) -> Stop:
        """The emergency stop, or its end.

        Raises:
            CallerUnknownError: there is no rollout of one of these names.
        """
        known = {each.plan.rollout for each in await self._store.read(rollouts.all_of)}
        if strangers := [name for name in names if name not in known]:
            raise CallerUnknownError(
                f"there is no rollout {strangers[0]}", reason="unknown_rollout", fix="see: outrider ota status"
            )
        if dry_run:
            return (await self._running.next_stop(names, lifted=lifted, reason=reason))[0]
        for _ in range(_TRIES):
            try:
                return await self._running.stop(names, lifted=lifted, reason=reason)
            except OvertakenError:
                continue
        raise RuleRefusalError("another stop was made meanwhile", reason="overtaken", fix="look at it, then try again")

    async def standing_stop(self) -> Stop | None:
        """The emergency stop that devices heed now; None: none does."""
        last = await self._store.read(rollouts.last_stop)
        return last[0] if last is not None and not last[0].lifted else None

    async def all_briefs(self) -> list[RolloutBrief]:
        """All rollouts, newest first."""

        def read(connection: sa.Connection) -> list[RolloutBrief]:
            return [
                brief(kept, rollouts.members_of(connection, rollout=kept.plan.rollout))
                for kept in rollouts.all_of(connection)
            ]

        return await self._store.read(read)

    async def one_brief(self, rollout: str) -> RolloutBrief:
        """One of them."""

        def read(connection: sa.Connection) -> RolloutBrief:
            kept = rollouts.find(connection, rollout=rollout)
            return brief(kept, rollouts.members_of(connection, rollout=rollout))

        return await self._store.read(read)

    async def one(self, rollout: str) -> RolloutDetail:
        """One of them with its stages, its figures, and who is blocked.

        Raises:
            CallerUnknownError: there is none of that name.
        """
        found = await self._running.look(rollout)
        stopped = covers(await self._store.read(rollouts.last_stop), rollout)
        return detail(found.kept, found.look, self._shown(found.look), stopped=stopped)

    async def devices(self, rollout: str) -> list[DeviceInRollout]:
        """The devices of one."""
        return member_views((await self._running.look(rollout)).look)

    async def _lift(self, rollout: str, note: str) -> None:
        """Ends the rollout's own stop, also where the broker is away: what is stored is said when it is back."""
        last = await self._store.read(rollouts.last_stop)
        if last and last[0].rollouts and covers(last, rollout):
            await self._running.stop([rollout], lifted=True, reason=note or f"rollout {rollout} goes on")

    def _shown(self, look: Look) -> Step:
        return self._running.last.get(look.plan.rollout) or step(look)

    def _forecast(self, connection: sa.Connection, plan: RolloutPlan) -> Forecast:
        _check_here(connection, plan)
        look = Look(
            plan=plan,
            progress=Progress(),
            members={},
            fleet=fleet_of(connection),
            world=World(now_ms=now_ms(), busy=rollouts.busy(connection, but=plan.rollout)),
        )
        files: dict[str, dict[str, int]] = {}
        for row in connection.execute(sa.select(release_files)):
            files.setdefault(row.release, {})[row.sha256] = row.size
        said = forecast(look, replace(self._carriage, files=files))
        in_the_way = [
            f"rollout {kept.plan.rollout} of the same task is {kept.progress.state}"
            for kept in rollouts.all_of(connection)
            if not STATES[kept.progress.state].over and _tasks(kept.plan) & _tasks(plan)
        ]
        return replace(said, warnings=[*said.warnings, *in_the_way])


def permitted(look: Look, wanted: Act, *, note: str, forgive: bool) -> Progress:
    """The progress after a person's word.

    Raises:
        RuleRefusalError: not in the state that it is in.
    """
    state = ACTS[wanted].get(look.progress.state)
    if state is None:
        possible = ", ".join(word for word, where in ACTS.items() if look.progress.state in where) or "nothing"
        raise RuleRefusalError(
            f"rollout {look.plan.rollout} is {look.progress.state}: {STATES[look.progress.state].means}",
            reason="wrong_state",
            fix=f"what may be done now: {possible}",
        )
    if wanted == "resume" and look.progress.state == "halted" and not forgive:
        raise RuleRefusalError(
            f"rollout {look.plan.rollout} was halted by its threshold {look.progress.reason}",
            reason="halted_by_threshold",
            fix="roll it back, or resume it with --forgive: then what went wrong so far is not counted",
        )
    if wanted == "rollback" and look.world.now_ms >= look.plan.expires_ms:
        raise RuleRefusalError(
            f"plan {look.plan.rollout} has expired, and devices obey no order of it",
            reason="plan_expired",
            fix="sign a plan of the release to return to",
        )
    if wanted == "approve" and look.progress.stage + 1 == len(look.plan.groups):
        state = "running"  # the step that follows ends it
    return act(look.progress, wanted, state, now_ms=look.world.now_ms, note=note[:256])


def _pardoned(look: Look) -> dict[str, Member]:
    """The devices whose troubles so far no longer count."""
    return {
        name: replace(each, forgiven=True)
        for name, each in look.members.items()
        if each.state in BAD or each.silent or each.alarmed
    }


def _check_here(connection: sa.Connection, plan: RolloutPlan) -> None:
    """Whether all that a plan names can be served."""
    for each in (*plan.releases, *plan.rollback_to):
        found = connection.execute(sa.select(releases.c.task).where(releases.c.digest == each.release)).scalar()
        if found != each.task:
            raise CallerUnknownError(
                f"there is no release {each.release[:12]}… of task {each.task} here",
                reason="unknown_release",
                fix="publish it first: outrider ota publish",
            )


def _tasks(plan: RolloutPlan) -> set[str]:
    return {each.task for each in plan.releases}
