"""What a device of two tasks does while the power may go: a signed order is carried out, or its model fails on live input.

The real updater with the real metadata, slots, ledger and models; the cloud is a folder.
"""

import asyncio
import shutil
import time
from pathlib import Path

from msgspec.structs import replace

from outrider.sim.power.edge_lives import Shelf, load_plain
from outrider.sim.power.promises import Broken, Say, told
from outrider.sim.power.signing import SigningSite, root_of
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.updates.device import DeviceTerms, Held, Updater
from outrider_edge.updates.interrupted import MAX_LOST
from outrider_edge.updates.judging import LocalFacts
from outrider_edge.updates.ledger import LedgerFile
from outrider_edge.updates.orders import OrderDesk
from outrider_edge.updates.reporting import Reporter, report_key
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import SlotStart, settle_together, start_slots
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_edge.updates.waiting import WhenTerms
from outrider_trust.sources import DirectorySource
from outrider_wire.errors import OutriderError
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, encode_manifest
from outrider_wire.messages import Desired
from outrider_wire.rollout import DeviceOrder, Group, RolloutPlan
from outrider_wire.task import Task, parse_task

DEVICE = "cam-1"
FIRST, SECOND = "easy-vqa", "easy-vqa-night"
TASKS = (FIRST, SECOND)
_AGAIN = WhenTerms(pauses_s=(0.2, 0.4))
_SOON = UpdateTerms(probation_answers=10**9, probation_s=0.2, retry_s=0.05, ask_s=0.02, tick_s=0.1)


def prepare_site(work: Path) -> None:
    """Two tasks of the model that ships, an old and a new release of each, and a signed order for both."""
    import outrider_edge

    demo = Path(outrider_edge.__file__).parent / "demo"
    text = (demo / "task.toml").read_text()
    for task in TASKS:
        (work / f"{task}.toml").write_text(text.replace(f'"{FIRST}"', f'"{task}"', 1))
        for version in ("old", "new"):
            bundle = work / task / version
            shutil.copytree(demo / "bundle", bundle)
            manifest = decode_manifest((bundle / MANIFEST_FILE).read_bytes())
            (bundle / MANIFEST_FILE).write_bytes(encode_manifest(replace(manifest, task=task, version=version)))
    site, now_ms = SigningSite(work / "site", TASKS), time.time_ns() // 1_000_000
    plan = RolloutPlan(
        rollout="r1",
        releases=[site.release(work / task / "new", 1) for task in TASKS],
        groups=[Group(name="all")],
        salt="0123456789abcdef",
        start_ms=now_ms - 1000,
        expires_ms=now_ms + 86_400_000,
    )
    site.plan(plan)
    order = DeviceOrder(
        device=DEVICE,
        number=1,
        rollout="r1",
        stage=0,
        releases=plan.releases,
        issued_ms=now_ms,
        expires_ms=plan.expires_ms,
    )
    (work / "order").write_bytes(site.order(order))


async def obey(folder: Path, say: Say, work: Path) -> None:
    """A device's first start, then an order for both of its tasks, carried out to the end."""
    await _live(folder, say, work, fails=False)


async def recoil(folder: Path, say: Say, work: Path) -> None:
    """The same, but the new model of one task fails on live input: both go back, and it stays refused."""
    await _live(folder, say, work, fails=True)


async def _live(folder: Path, say: Say, work: Path, *, fails: bool) -> None:
    ledger, starts = await asyncio.to_thread(_started, folder, work, factory=True)
    runtimes = {task: TaskRuntime(task=start.folder.task, model=start.model) for task, start in starts.items()}
    for task, start in starts.items():
        say("running", task, start.model.digest)
    updater = _updater(folder, work, ledger, starts, runtimes)
    updater.start()
    updater.on_desired(Desired(assignments=[], order=(work / "order").read_bytes()))
    async with asyncio.timeout(80):
        while not await _over(updater, say):
            if fails and updater.tasks[SECOND].record.state == "probation":
                runtimes[SECOND].failed += 1
            await asyncio.sleep(0.01)
    await updater.stop()
    for runtime in runtimes.values():
        runtime.close()


async def _over(updater: Updater, say: Say) -> bool:
    """Whether the order has ended for both, or a release is held after trials that were lost; says what may be said of it now."""
    if any(each.record.lost >= MAX_LOST and each.record.state == "staged" for each in updater.tasks.values()):
        say("held")
        return True
    if len(updater.ledger.now.ends) < len(TASKS):
        return False
    told_now = await updater.reported()
    for slot in told_now.slots:
        say("running", slot.task, slot.running)
        say("ended", slot.task, slot.outcome)
        for digest in slot.refused:
            say("refused", slot.task, digest)
    say("reported", str(told_now.sequence))
    return True


def check_together(folder: Path, said: list[str], work: Path) -> list[Broken]:
    """Both tasks start without their factory bundles, both on the old release or both on the new; what was refused is; numbers stand."""
    running = {words[0]: words[1] for words in told(said, "running")}
    if len(running) < len(TASKS):
        return []
    try:
        ledger, starts = _started(folder, work, factory=False)
    except (OutriderError, OSError) as error:
        return [Broken(f"no model after the cut: {error}")]
    broken = []
    versions = {start.model.manifest.version for start in starts.values()}
    if len(versions) > 1:
        broken.append(Broken(f"half of an order runs: {versions}"))
    outcomes = {outcome for _, outcome in told(said, "ended")}
    if outcomes and versions != ({"new"} if outcomes == {"committed"} else {"old"}):
        broken.append(Broken(f"the order ended {outcomes}, and after the cut {versions} run"))
    for task, digest in told(said, "refused"):
        if digest not in {*starts[task].record.refused, *ledger.task(task).refused}:
            broken.append(Broken(f"{digest[:12]} was refused, and is not any more"))
        if digest == starts[task].model.digest:
            broken.append(Broken(f"{digest[:12]} was refused, and runs"))
    if ledger.now.damaged:
        broken.append(Broken("the ledger is damaged"))
    if outcomes and (ledger.now.order, ledger.now.ended) < (1, len(TASKS)):
        broken.append(Broken(f"order 1 was heeded and told, and the ledger says {ledger.now.order}"))
    if any(int(number) > ledger.now.sequence for (number,) in told(said, "reported")):
        broken.append(Broken("a report's number would come twice", lost=False))
    return broken


def _started(folder: Path, work: Path, *, factory: bool) -> tuple[LedgerFile, dict[str, SlotStart]]:
    ledger = LedgerFile(folder / "updates")
    folders = {task: SlotFolder(folder=folder / "slots" / task, task=_task(work, task)) for task in TASKS}
    settle_together(folders)
    starts = {}
    for task, slots in folders.items():
        kept = ledger.task(task) if task in ledger.now.tasks else None
        bundle = work / task / "old" if factory else work / "nowhere"
        starts[task] = start_slots(folder=slots, factory=bundle, load=load_plain, kept=kept)
    return ledger, starts


def _updater(
    folder: Path,
    work: Path,
    ledger: LedgerFile,
    starts: dict[str, SlotStart],
    runtimes: dict[str, TaskRuntime],
) -> Updater:
    terms = DeviceTerms(when=_AGAIN, local=LocalFacts(device=DEVICE))
    held = Held(ledger=ledger, terms=terms)
    tasks = [
        TaskUpdater(
            start=start,
            runtime=runtimes[task],
            source=Shelf(work / task / "new"),
            load=load_plain,
            changed=lambda: None,
            terms=_SOON,
            hold=held,
        )
        for task, start in starts.items()
    ]
    site = work / "site"
    return Updater(
        tasks=tasks,
        ledger=ledger,
        held=held,
        terms=terms,
        reporter=Reporter(device=DEVICE, ledger=ledger, key=lambda: report_key(folder / "updates", None)),
        judge=OrderDesk(folder=folder / "metadata", root=root_of(site), source=DirectorySource(site)),
    )


def _task(work: Path, task: str) -> Task:
    return parse_task((work / f"{task}.toml").read_text(), f"{task}.toml")
