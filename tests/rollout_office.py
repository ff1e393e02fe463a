"""A cloud's rollouts without its broker: a real store, a signed site with real keys, and as many controllers as a test wants."""

from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from rollout_site import FIRST, TASK, make_site, plan_now, sign_release
from trust_world import CANARY, Site

from outrider_cloud.fleet import Fleet
from outrider_cloud.metrics import Metrics
from outrider_cloud.rollout.desk import RolloutDesk
from outrider_cloud.rollout.running import Rollouts
from outrider_cloud.store import release_rows, rollouts
from outrider_cloud.store.store import Store
from outrider_cloud.trust.control import Control
from outrider_cloud.trust.plans import SignedPlans
from outrider_trust.facts import Canary
from outrider_wire.errors import UnreachableError
from outrider_wire.messages import Presence, Reported, SlotReport
from outrider_wire.rollout import DeviceOrder, Group, PlannedRelease, RolloutPlan, Stop


class Wire:
    """A `Sender` that remembers, and can be away."""

    def __init__(self) -> None:
        self.connected = True
        self.offered: list[str] = []
        self.stops: list[bytes] = []
        self.said: list[str] = []

    async def offer(self, device: str) -> bool:
        if self.connected:
            self.offered.append(device)
            self.said.append(device)
        return self.connected

    async def stop(self, envelope: bytes) -> bool:
        if not self.connected:
            raise UnreachableError("away", reason="broker_unreachable")
        self.stops.append(envelope)
        self.said.append("stop")
        return True


class Office:
    """A store, a signed site, and as many controllers as a test wants."""

    def __init__(self, folder: Path, store: Store, *, canary: Canary = CANARY) -> None:
        self.folder, self.store = folder, store
        self.site: Site = make_site(folder / "site", canary=canary)
        self.wire = Wire()
        self.fleet = Fleet(store=store, devices_max=1000, metrics=Metrics())
        self.signed = 0

    def sign_order(self, order: DeviceOrder) -> bytes:
        """As `ControlSigner`: the real one, counted."""
        self.signed += 1
        return self.control.sign_order(order)

    def sign_stop(self, stop: Stop) -> bytes:
        return self.control.sign_stop(stop)

    @property
    def control(self) -> Control:
        return Control(repository=self.site.repository, signer=self.site.control)

    def controller(self, name: str = "one", **more: Any) -> Rollouts:
        plans = SignedPlans(repository=self.site.repository, folder=self.folder / f"believed-{name}")
        about: dict[str, Any] = {"store": self.store, "signer": self, "plans": plans, "sender": self.wire} | more
        return Rollouts(**about)

    async def release(self, counter: int) -> PlannedRelease:
        """One that is signed and here."""
        planned = sign_release(self.site, f"manifest {counter}".encode(), counter)
        row = {"digest": planned.release, "task": TASK, "version": f"1.{counter}", "size": planned.size}
        row |= {"parent": None, "certificate": "", "created_ms": counter}
        await self.store.write(partial(release_rows.add, row=row, files={planned.release: planned.size}))
        return planned

    async def says(self, device: str, running: str = FIRST, **slot: Any) -> None:
        """A device tells of itself."""
        await self.fleet.on_presence(device, Presence(device=device, online=True, boot_id="b", agent="1.0"))
        said = SlotReport(**({"task": TASK, "running": running, "version": "1", "slot": "a", "state": "idle"} | slot))
        await self.fleet.on_reported(device, Reported(slots=[said]))

    async def begin(self, running: Rollouts, *releases: PlannedRelease, devices: int = 6, **plan: Any) -> RolloutPlan:
        """A rollout of one stage to all, taken up; and its devices."""
        for k in range(devices):
            await self.says(f"cam-{k}")
        made = plan_now(*releases, **({"groups": [Group(name="all")]} | plan))
        self.site.plan(made, task=TASK)
        await RolloutDesk(store=self.store, running=running).create(TASK, made.rollout)
        return made

    def envelope(self, device: str) -> bytes:
        return self.store.run(partial(rollouts.order_to, device=device)) or b""

    def rows(self, table: sa.Table) -> list[Any]:
        return self.store.run(lambda c: list(c.execute(sa.select(table)).mappings()))

    def kept(self, rollout: str = "r-1") -> rollouts.Kept:
        return self.store.run(partial(rollouts.find, rollout=rollout))
