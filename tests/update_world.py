"""A signing site with real bundles, and a device of several tasks that takes its orders."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
from edge_releases import DEVICE, ShelfSource, load, whole_updater
from trust_world import Site, a_plan, an_order

from factory import make_bundle, make_task
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.updates.device import DeviceTerms, Held, Updater
from outrider_edge.updates.hands import Hands
from outrider_edge.updates.judging import LocalFacts
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.orders import OrderDesk
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import settle_together, start_slots
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.waiting import WhenTerms
from outrider_engine.selftest import SelfTestReport
from outrider_trust.facts import ReleaseFacts, release_path
from outrider_wire.manifest import MANIFEST_FILE, manifest_digest
from outrider_wire.messages import Desired, SlotReport
from outrider_wire.rollout import PlannedRelease, RolloutPlan

TASKS = ("colours", "shapes")
QUICK = UpdateTerms(probation_answers=3, probation_least_s=0.0, probation_s=60.0, retry_s=0.01, ask_s=0.01, tick_s=0.05)


class Site2(Site):
    """A site that signs bundles."""

    def bundle(
        self, folder: Path, counter: int, *, task: str = TASKS[0], facts: Any = None, **about: Any
    ) -> PlannedRelease:
        """Makes a bundle, signs it, and says what a plan says of it."""
        version = about.pop("version", f"1.{counter}")
        bundle = make_bundle(folder, make_task(task), seed=about.pop("seed", counter + 10), version=version, **about)
        data = (bundle / MANIFEST_FILE).read_bytes()
        said = ReleaseFacts(task=task, version=version, counter=counter, **(facts or {}))
        path = release_path(task, manifest_digest(data))
        target = self.repository.put_target(path, data, msgspec.to_builtins(said))
        self.publish_role(task, targets={path: target})
        self.online()
        return PlannedRelease(task=task, release=manifest_digest(data), size=len(data), counter=counter)

    def planned(self, *releases: PlannedRelease, **more: Any) -> RolloutPlan:
        """A plan, signed for each of its tasks."""
        plan = a_plan(*releases, **more)
        for task in sorted({each.task for each in (*plan.releases, *plan.rollback_to)}):
            self.plan(plan, task=task)
        return plan


class World:
    """One device and its site."""

    def __init__(
        self, folder: Path, *, tasks: tuple[str, ...] = TASKS, terms: UpdateTerms = QUICK, **local: Any
    ) -> None:
        self.folder = folder
        self.site = Site2(folder / "site", tasks=tasks)
        self.shelf = ShelfSource()
        self.tasks = {name: make_task(name) for name in tasks}
        self.bad: set[str] = set()
        """Tasks whose self-test fails."""
        self.terms = terms
        self.when = WhenTerms()
        self.local = LocalFacts(device=DEVICE, **local)
        for name, task in self.tasks.items():
            make_bundle(folder / "factory" / name, task)

    def release(self, counter: int, *, task: str = TASKS[0], name: str = "", **about: Any) -> PlannedRelease:
        """A signed release that the shelf has."""
        bundle = self.folder / "bundles" / f"{task}-{counter}{name}"
        planned = self.site.bundle(bundle, counter, task=task, **about)
        self.shelf.add(bundle)
        return planned

    def slots(self, task: str) -> SlotFolder:
        """Of one task."""
        return SlotFolder(folder=self.folder / "device" / "slots" / task, task=self.tasks[task])

    async def boot(self) -> Updater:
        """Starts the device."""
        self.ledger = LedgerFile(self.folder / "device" / "updates")
        terms = DeviceTerms(when=self.when, local=self.local, now_ms=lambda: round(self.site.clock() * 1000))
        held = Held(ledger=self.ledger, terms=terms)
        settle_together({name: self.slots(name) for name in self.tasks})
        self.runtimes = {}
        updaters = []
        for name, task in self.tasks.items():
            kept = self.ledger.task(name) if name in self.ledger.now.tasks else None
            start = start_slots(folder=self.slots(name), factory=self.folder / "factory" / name, load=load, kept=kept)
            self.runtimes[name] = TaskRuntime(task=task, model=start.model)
            updaters.append(
                TaskUpdater(
                    start=start,
                    runtime=self.runtimes[name],
                    source=self.shelf,
                    load=load,
                    changed=lambda: None,
                    terms=self.terms,
                    hold=held,
                    selftest=self._selftest,
                )
            )
        desk = OrderDesk(
            folder=self.folder / "device" / "metadata",
            root=self.site.root,
            source=self.site.source,
            clock=self.site.clock,
        )
        self.updater = whole_updater(
            self.folder / "device", updaters, ledger=self.ledger, held=held, terms=terms, judge=desk
        )
        self.updater.start()
        return self.updater

    async def order(self, plan: RolloutPlan, **more: Any) -> bytes:
        """Gives the device an order, and waits until it is judged."""
        data = self.site.order(an_order(plan, **({"device": DEVICE, "stage": 1} | more)))
        self.updater.on_desired(Desired(assignments=[], order=data))
        number = more.get("number", 1)
        await self.until(lambda: self.ledger.now.order >= number or self.updater.trouble)
        return data

    async def until(self, holds: Any, within_s: float = 30.0) -> None:
        """Waits for it."""
        async with asyncio.timeout(within_s):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.005)

    def slot(self, task: str = TASKS[0]) -> SlotReport:
        """How one task stands."""
        return self.updater.tasks[task].report()

    def serve(self, *tasks: str, count: int = 10) -> None:
        """Has the models of these tasks answer, all well."""
        for task in tasks or TASKS:
            self.runtimes[task].served += count

    async def to_state(self, state: str, *tasks: str) -> None:
        """Until every one of these tasks is in that state; what is on probation answers, when it is to go on."""
        names = tasks or tuple(self.tasks)

        def there() -> bool:
            if state in ("committed", "idle"):
                self.serve(*names)
            return all(self.slot(name).state == state for name in names)

        await self.until(there)

    async def carried_out(self, number: int, task: str = TASKS[0]) -> None:
        """Until the order of that number is committed."""

        def there() -> bool:
            self.serve(task)
            slot = self.slot(task)
            return (slot.order, slot.outcome, slot.state) == (number, "committed", "committed")

        await self.until(there)

    @property
    def hands(self) -> Hands:
        """A person at the device."""
        return Hands(self.updater)

    def _selftest(self, path: Path) -> SelfTestReport:
        failing = path.parent.name in self.bad
        return SelfTestReport(ok=not failing, reason="bad_golden" if failing else "", detail="no" if failing else "")
