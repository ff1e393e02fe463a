"""What a device does while the power may go: it enqueues, it is answered, it changes slots. The real outbox and the real updater."""

import asyncio
import hashlib
import shutil
from pathlib import Path

from msgspec.structs import replace

from outrider.sim.power.promises import Broken, Say, told
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.outbox.outbox import Outbox
from outrider_edge.outbox.outcomes import Answered
from outrider_edge.ports import OutboxEntry, OutboxPart
from outrider_edge.updates.events import Assigned
from outrider_edge.updates.slots import SlotFolder
from outrider_edge.updates.starting import SlotStart, start_slots
from outrider_edge.updates.updater import TaskUpdater, UpdateTerms
from outrider_engine.bundle import Bundle
from outrider_engine.model import Model, load_model
from outrider_link.files import write_durably
from outrider_wire.errors import OutriderError, PeerError
from outrider_wire.limits import INLINE_BYTES
from outrider_wire.manifest import MANIFEST_FILE, decode_manifest, encode_manifest, manifest_digest
from outrider_wire.messages import Answer, SlotReport
from outrider_wire.report import AnswerReport
from outrider_wire.task import Task, parse_task

TASK = "easy-vqa"
LABELS = ("yes", "no")
_PROBATION_S = 0.2


async def enqueue(folder: Path, say: Say) -> None:
    """Small escalations and large ones, one by one and together; some are answered, and their payload goes."""
    outbox = Outbox(folder=folder / "outbox", flush_s=0.02)
    await outbox.start()

    async def put(number: int, *, large: bool) -> str:
        entry = _entry(number, large=large)
        outbox.arrived(TASK)
        await outbox.put(entry)
        say("accepted", entry.id)
        return entry.id

    async def settle(id_: str) -> None:
        await outbox.settle(id_, Answered(_answer(id_)))
        say("answered", id_)

    first, second = await put(1, large=False), await put(2, large=True)
    await asyncio.gather(put(3, large=False), put(4, large=True), put(2, large=True), settle(first))
    outbox.received(second)  # its payload goes with the next flush
    outbox.arrived(TASK)
    outbox.count_local(TASK, "edge")
    await asyncio.sleep(0.1)
    await settle(second)
    await put(5, large=True)
    await outbox.stop()


def check_outbox(folder: Path, said: list[str]) -> list[Broken]:
    """Everything accepted is there, with its payload or its one answer, and the account adds up."""
    try:
        return asyncio.run(_outbox_faults(folder / "outbox", said))
    except OutriderError as error:
        return [Broken(f"the outbox does not open: {error}")]


async def _outbox_faults(folder: Path, said: list[str]) -> list[Broken]:
    outbox = Outbox(folder=folder)
    await outbox.start()
    rows = {row.id: row for row in await outbox.open_rows()}
    answered = {id_ for (id_,) in told(said, "answered")}
    broken = []
    for (id_,) in told(said, "accepted"):
        report = await outbox.find(id_)
        if report is None:
            broken.append(Broken(f"{id_} was accepted and is not there"))
        elif id_ in answered and (report.state, report.label) != ("cloud", "no"):
            broken.append(Broken(f"{id_} was answered and is {report.state}"))
        elif report.state == "pending" and id_ not in rows:
            broken.append(Broken(f"{id_} is pending and will never be offered"))
        elif report.state != "pending" and id_ in rows:
            broken.append(Broken(f"{id_} is answered and would be offered again", lost=False))
    broken += [
        problem for row in rows.values() if not row.received for problem in await _payload_faults(outbox, row.id)
    ]
    account = outbox.account()
    if not account.adds_up or account.pending != len(rows) or account.cloud > len(answered) + 1:
        broken.append(Broken(f"the account does not add up: {account}", lost=False))
    await outbox.stop()
    return broken


async def _payload_faults(outbox: Outbox, id_: str) -> list[Broken]:
    """Whether what would be offered is what was put in."""
    found = await outbox.load(id_)
    if found is None:
        return [Broken(f"{id_} cannot be loaded")]
    row, data = found
    broken = []
    for part, inline in zip(row.envelope.parts, data, strict=True):
        held = inline if inline is not None else outbox.open_blob(part.sha256)
        got = held.read_bytes() if isinstance(held, Path) else held
        if got is None or hashlib.sha256(got).hexdigest() != part.sha256:
            broken.append(Broken(f"the payload of {id_} is {'damaged' if got else 'gone'}"))
    return broken


def prepare_releases(work: Path) -> None:
    """Two releases of the model that ships, and its task, on a disk that nothing happens to."""
    import outrider_edge

    demo = Path(outrider_edge.__file__).parent / "demo"
    shutil.copyfile(demo / "task.toml", work / "task.toml")
    for version in ("old", "new"):
        shutil.copytree(demo / "bundle", work / version)
        manifest = decode_manifest((work / version / MANIFEST_FILE).read_bytes())
        (work / version / MANIFEST_FILE).write_bytes(encode_manifest(replace(manifest, version=version)))


async def switch(folder: Path, say: Say, work: Path) -> None:
    """A device's first start, then an update over the air: fetched, tested, swapped, watched, kept."""
    start = await asyncio.to_thread(_started, folder, work, work / "old")
    say("running", start.model.digest)
    runtime = TaskRuntime(task=start.folder.task, model=start.model)
    committed = asyncio.Event()

    def changed() -> None:
        report: SlotReport = updater.report()
        if report.state in ("probation", "committed"):
            say("running", report.running)
        if report.state == "committed":
            committed.set()

    source = Shelf(work / "new")
    updater = TaskUpdater(
        start=start,
        runtime=runtime,
        source=source,
        load=load_plain,
        changed=changed,
        terms=UpdateTerms(probation_s=_PROBATION_S, retry_s=0.1),
    )
    updater.start()
    updater.assign(Assigned(release=source.release, size=source.size, counter=1))
    async with asyncio.timeout(60):
        await committed.wait()
    await updater.stop()
    runtime.close()


def check_slots(folder: Path, said: list[str], work: Path) -> list[Broken]:
    """The device starts without its factory bundle, with a model that answers: the last one that was said to run, or the next."""
    running = [digest for (digest,) in told(said, "running")]
    if not running:
        return []
    try:
        start = _started(folder, work, work / "nowhere")
    except (OutriderError, OSError) as error:
        return [Broken(f"no model after the cut: {error}")]
    digest = start.model.digest
    new = manifest_digest((work / "new" / MANIFEST_FILE).read_bytes())
    if digest not in (running[-1], new):
        return [Broken(f"{running[-1][:12]} was said to run, and after the cut it is {digest[:12]}")]
    return []


def _started(folder: Path, work: Path, factory: Path) -> SlotStart:
    slots = SlotFolder(folder=folder / "slots" / TASK, task=_task(work))
    return start_slots(folder=slots, factory=factory, load=load_plain)


def _task(work: Path) -> Task:
    return parse_task((work / "task.toml").read_text(), "task.toml")


def load_plain(bundle: Bundle) -> Model:
    """As an agent does, without a profile."""
    return load_model(bundle)


class Shelf:
    """`outrider_edge.updates.fetching.ReleaseSource` from a folder."""

    def __init__(self, bundle: Path) -> None:
        self._blobs = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in bundle.iterdir()}
        manifest = (bundle / MANIFEST_FILE).read_bytes()
        self.release, self.size = manifest_digest(manifest), len(manifest)

    async def pull_manifest(self, *, sha256: str, size: int) -> bytes:
        if (path := self._blobs.get(sha256)) is None:
            raise PeerError("it is not here", reason="blob_gone")
        return path.read_bytes()

    async def pull_file(self, *, sha256: str, size: int, to: Path) -> Path:
        write_durably(to, await self.pull_manifest(sha256=sha256, size=size))
        return to


def _entry(number: int, *, large: bool) -> OutboxEntry:
    report = AnswerReport(
        id=f"01990000-0000-7000-8000-{number:012x}",
        task=TASK,
        state="pending",
        label=LABELS[0],
        confidence=0.6,
        threshold=0.8,
        answered_by="edge",
        final=False,
        certified=False,
        why="low_confidence",
        model="1",
        model_digest="0" * 64,
        probabilities={"yes": 0.6, "no": 0.4},
    )
    picture = b"%08d" % number * (INLINE_BYTES // 8 + 512 if large else 16)
    return OutboxEntry(
        id=report.id,
        task=TASK,
        parts=[OutboxPart(name="image", modality="image", media_type="image/png", data=picture)],
        model="0" * 64,
        label=LABELS[0],
        probabilities=[0.6, 0.4],
        why="low_confidence",
        audit=0.0,
        answer_within_ms=1000,
        keep_for_s=3600,
        state="pending",
        report=report,
    )


def _answer(id_: str) -> Answer:
    return Answer(
        id=id_,
        task=TASK,
        label=LABELS[1],
        confidence=0.9,
        probabilities=[0.1, 0.9],
        strategy="shunt",
        model="large",
    )


__all__ = ["check_outbox", "check_slots", "enqueue", "prepare_releases", "switch"]
