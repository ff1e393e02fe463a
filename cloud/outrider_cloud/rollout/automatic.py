"""Rollouts that the cloud begins by itself: what a learning round promoted, to the signed canary group. Off unless configured.

Each promoted round that was handed over has one plan, named after it. Whatever ends the cloud in between, the next turn goes on from
what is signed and stored: it is signed once, and begun once. Beyond the canary group a release key signs, or nobody is offered it.
"""

import logging
from collections.abc import Mapping

import sqlalchemy as sa
from msgspec import Struct

from outrider_cloud.clock import now_ms
from outrider_cloud.learning import rounds
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.running import Rollouts
from outrider_cloud.rollout.states import STATES
from outrider_cloud.seldom import Seldom
from outrider_cloud.store import rollouts
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.schema import releases
from outrider_cloud.store.store import Store
from outrider_cloud.trust.automatic import AutomaticRole
from outrider_cloud.trust.service import Trust
from outrider_cloud.trust.settings import AutomaticSettings
from outrider_trust.facts import Canary
from outrider_wire.errors import OutriderError
from outrider_wire.manifest import decode_manifest
from outrider_wire.rollout import PlannedRelease, RolloutPlan
from outrider_wire.rollout_text import MINIMUM, with_minimum

log = logging.getLogger(__name__)
log.addFilter(Seldom())

EVERY_S = 5.0


class Promoted(Struct, kw_only=True, frozen=True):
    """A round whose bundle is here, and that no rollout has followed."""

    number: int
    release: str


def plan_of(
    canary: Canary, planned: PlannedRelease, promoted: Promoted, settings: AutomaticSettings, *, now_ms: int
) -> RolloutPlan:
    """The plan of a promoted round: the canary group alone, now."""
    return RolloutPlan(
        rollout=name_of(planned.task, promoted.number),
        releases=[planned],
        groups=[with_minimum(canary.group, MINIMUM)],
        salt=canary.salt,
        start_ms=now_ms,
        expires_ms=now_ms + round(settings.expires_days * 86_400_000),
        soak_s=settings.soak_s,
    )


def name_of(task: str, number: int) -> str:
    """The name of the rollout that follows a round."""
    return f"{task[:40].rstrip('-')}-auto-{number}"


def waiting(connection: sa.Connection, *, task: str) -> Promoted | None:
    """The newest promoted round of a task, if it was handed over, none has followed it, and no rollout of the task is in the way."""
    found = rounds.newest_promoted(connection, task=task)
    if found is None:
        return None
    number, candidate = found
    if connection.execute(sa.select(releases.c.digest).where(releases.c.digest == candidate)).first() is None:
        return None
    for kept in rollouts.all_of(connection):
        of_task = any(each.task == task for each in kept.plan.releases)
        if kept.plan.rollout == name_of(task, number) or (of_task and not STATES[kept.progress.state].over):
            return None
    return Promoted(number=number, release=candidate)


class Automatic:
    """Looks, task by task, whether a rollout is to begin."""

    def __init__(
        self,
        *,
        store: Store,
        blobs: BlobStore,
        trust: Trust,
        running: Rollouts,
        desk: RolloutDesk,
        settings: Mapping[str, AutomaticSettings],
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._trust = trust
        self._running = running
        self._desk = desk
        self._settings = settings

    async def turn(self) -> None:
        """Begins what waits; what cannot be begun is said, and tried again in the next turn."""
        for task, role in self._trust.automatic.items():
            try:
                await self._follow(task, role)
            except OutriderError as error:
                log.warning("automatic.not_begun", extra={"task": task, "reason": error.reason, "what": error.what})

    async def _follow(self, task: str, role: AutomaticRole) -> None:
        found = await self._store.read(lambda connection: waiting(connection, task=task))
        if found is None:
            return
        name = name_of(task, found.number)
        if await self._running.plan(task, name) is None and not await self._signed(task, role, found):
            return
        await self._desk.create(task, name)
        log.warning("automatic.begun", extra={"task": task, "rollout": name, "release": found.release})

    async def _signed(self, task: str, role: AutomaticRole, found: Promoted) -> bool:
        """Signs the release and its plan; whether it did."""
        data = await self._blobs.load(found.release)
        if data is None:
            return False

        def make() -> dict[str, bytes]:
            planned, facts = role.release_of(decode_manifest(data), digest=found.release, size=len(data))
            plan = plan_of(role.canary(), planned, found, self._settings[task], now_ms=now_ms())
            return role.sign(data, facts, plan)

        await self._trust.take_own(make)
        return True
