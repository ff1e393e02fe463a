"""Plays faults: rounds of each on one system that goes on running, and after each fault the auditor's verdict."""

import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from msgspec import Struct

from outrider.sim.audit import Books, Verdict, audit
from outrider.sim.books import read_cloud, read_device
from outrider.sim.callers import Callers
from outrider.sim.fault import Fault
from outrider.sim.faults import FAULTS, POWER_CUTS
from outrider.sim.power.sweep import recorded, sweep
from outrider.sim.world import Device, Kind, Plan, World

Tell = Callable[[str, float], None]
"""Told which fault is being played, and which share of it is over."""
PATIENT_S = 6 * 3600
"""How long the patient device's escalations are worth having: longer than any outage that is played."""
HASTY_S = 1800
_CALLS_S = 60.0
POWER_EVERY = 8
"""Disks that kept everything differ after every write: each eighth is looked at."""


class Figures(Struct, kw_only=True):
    """What became of one fault. The first six keys are stable."""

    rounds: int
    accepted: int
    answered: int
    expired: int
    lost: int
    duplicated: int
    refused: int = 0
    felt: bool = True
    """False: no log shows what the fault should have done; it has proven nothing."""
    findings: list[str] = []
    """What was lost or duplicated, in sentences."""

    @property
    def sound(self) -> bool:
        """Nothing was lost, and nothing came twice."""
        return not self.lost and not self.duplicated


@dataclass(frozen=True, kw_only=True)
class Order:
    """What is to be played.

    Args:
        rounds: of each fault; None: as each fault's row says.
    """

    names: Sequence[str]
    rounds: int | None = None
    seed: int = 0
    broker: Kind = "embedded"
    durability: Literal["disk", "memory"] = "disk"
    folder: Path | None = None
    """Kept afterwards; None: a temporary one."""


def play(order: Order, tell: Tell = lambda _what, _share: None) -> Iterator[tuple[str, Figures]]:
    """Each fault's figures, as soon as it is over. Faults that need the same kind of system share one."""
    with tempfile.TemporaryDirectory(prefix="outrider-sim-") as place:
        folder = order.folder or Path(place)
        rows = [FAULTS[name] for name in order.names if name in FAULTS]
        plans = sorted({_plan_of(fault, order) for fault in rows}, key=repr)
        for number, plan in enumerate(plans):
            faults = [fault for fault in rows if _plan_of(fault, order) == plan]
            with World(folder=folder / f"world-{number}", plan=plan, seed=order.seed) as world:
                yield from Play(world=world, seed=order.seed).faults(faults, order.rounds, tell)
        for name in order.names:
            if name in POWER_CUTS:
                yield name, _cut_power(name, tell)


def _plan_of(fault: Fault, order: Order) -> Plan:
    devices = (Device(name="cam-1", keep_for_s=HASTY_S), Device(name="cam-2", keep_for_s=PATIENT_S))
    return Plan(
        broker=order.broker,
        durability=order.durability,
        disks="disks" in fault.needs,
        moved_clock="moved_clock" in fault.needs,
        **({"devices": devices} if "patient" in fault.needs else {}),
    )


class Play:
    """Faults on one system."""

    def __init__(self, *, world: World, seed: int = 0) -> None:
        self._world = world
        self._seed = seed
        self._before = Verdict()

    def faults(self, faults: Sequence[Fault], rounds: int | None, tell: Tell) -> Iterator[tuple[str, Figures]]:
        """One after the other."""
        world = self._world
        names = [device.name for device in world.plan.devices]
        with Callers(client=world.client, devices=names, task=world.task.name) as callers:
            for fault in faults:
                yield fault.name, self._fault(fault, rounds or fault.rounds, callers, tell)

    def _fault(self, fault: Fault, rounds: int, callers: Callers, tell: Tell) -> Figures:
        chance = random.Random(f"{self._seed} {fault.name}")  # noqa: S311 - chooses victims and moments
        first, logs = len(callers.book), self._world.log_sizes()

        def ask(count: int) -> "list[Future[None]]":
            return callers.ask(count, large_bytes=fault.large_bytes, large_every=fault.large_every)

        for number in range(rounds):
            tell(fault.name, number / rounds)
            calls = ask(fault.inputs // 2)
            wait(calls, timeout=_CALLS_S, return_when=FIRST_COMPLETED)  # or a busy machine has nothing in hand to lose
            with fault.cause(self._world, chance):
                calls += ask(fault.inputs - fault.inputs // 2)
                time.sleep(fault.hold_s)
            self._world.heal()
            wait(calls, timeout=_CALLS_S)
        self._world.wait_whole()
        callers.wait_final(callers.book[first:], within_s=fault.settle_s)
        self._settled(fault.settle_s)
        callers.look_again(callers.book)
        tell(fault.name, 1.0)
        felt = any(re.search(fault.felt_as, text) for text in self._world.logs_since(logs, fault.felt_by))
        return self._figures(rounds, self._verdict(callers), felt=felt or not fault.felt_by)

    def _settled(self, within_s: float) -> None:
        """Waits for the inputs that no caller knows of too."""
        deadline = time.monotonic() + within_s
        while any(account.pending for account in self._world.accounts().values()) and time.monotonic() < deadline:
            time.sleep(0.1)

    def _verdict(self, callers: Callers) -> Verdict:
        world, accounts = self._world, self._world.accounts()
        books = Books(
            asked=callers.book,
            devices={name: read_device(world.outbox_file(name), account) for name, account in accounts.items()},
            cloud=read_cloud(world.store_file),
            bills=world.large.bills,
            outages=[(outage.began_s, outage.ended_s) for outage in world.outages],
        )
        return audit(books, world.task.labels)

    def _figures(self, rounds: int, now: Verdict, *, felt: bool) -> Figures:
        """What this fault added."""
        before, self._before = self._before, now
        lost = [what for what in now.lost if what not in before.lost]
        duplicated = [what for what in now.duplicated if what not in before.duplicated]
        return Figures(
            rounds=rounds,
            accepted=now.accepted - before.accepted,
            answered=now.answered - before.answered,
            expired=now.expired - before.expired,
            refused=now.refused - before.refused,
            felt=felt,
            lost=len(lost),
            duplicated=len(duplicated),
            findings=[*lost, *duplicated],
        )


def _cut_power(name: str, tell: Tell) -> Figures:
    """A power cut after every operation of one run."""
    with recorded(POWER_CUTS[name]) as run:
        seen, breaches = sweep(run, models=("strict", "journalled"), tell=lambda share: tell(name, 0.7 * share))
        more, others = sweep(
            run, models=("lucky",), every=POWER_EVERY, tell=lambda share: tell(name, 0.7 + 0.3 * share)
        )
    breaches += others
    findings = sorted({breach.what for breach in breaches})
    return Figures(
        rounds=seen + more,
        accepted=run.said("accepted") + run.said("received") + run.said("running"),
        answered=run.said("answered"),
        expired=0,
        lost=len({breach.what for breach in breaches if breach.lost}),
        duplicated=len({breach.what for breach in breaches if not breach.lost}),
        findings=findings,
    )
