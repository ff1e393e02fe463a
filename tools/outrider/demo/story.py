"""The demo from beginning to end: what is started, played and learnt, in order. Each step's inside is elsewhere."""

import asyncio
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from outrider.client import Client
from outrider.demo import show
from outrider.demo.figures import Figures, Phase, measure
from outrider.demo.foreign import FOREIGN, altered
from outrider.demo.models import Judge, Models, make_models
from outrider.demo.play import Item, Tally, play
from outrider.demo.settings import Settings, write_settings
from outrider.demo.world import QUESTIONS_PLAYED, TASK_NAME, World, make_world, write_rows
from outrider.processes import Processes
from outrider.progress import Tell
from outrider_engine.bundle import open_bundle
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import UndecidedError

Bar = Callable[[], AbstractContextManager[Tell]]
FOREIGN_PICTURES = 60
COMMITTED_WITHIN_S = 60.0


@dataclass(frozen=True, kw_only=True)
class Demo:
    """What the steps share."""

    world: World
    models: Models
    settings: Settings
    processes: Processes
    show: show.Show


def run(*, seed: int, port_offset: int, folder: Path, show_on: show.Show, progress: Bar) -> Figures:
    """Plays the whole demo and returns its figures; what it made stays under ``folder``."""
    started = time.monotonic()
    show_on.step("1", "A large model trained on many clean pictures, a small one on 300 labelled device pictures")
    with progress() as tell:
        world = make_world(seed, tell)
        models = make_models(world, folder / "models", tell)
    for sentence in models.sentences:
        show_on.say(sentence)
    run_folder = folder / "run"
    shutil.rmtree(run_folder, ignore_errors=True)
    settings = write_settings(run_folder, world.task, models, port_offset=port_offset)
    with Processes(logs=run_folder / "logs") as processes:
        demo = Demo(world=world, models=models, settings=settings, processes=processes, show=show_on)
        figures = _played(demo)
    return _timed(figures, time.monotonic() - started)


def write_device_bundle(out: Path, *, seed: int, folder: Path, tell: Tell) -> None:
    """Writes the certified small bundle and its task into ``out``: what the base wheel carries."""
    world = make_world(seed, tell)
    models = make_models(world, folder / "models", tell)
    shutil.rmtree(out / "bundle", ignore_errors=True)
    shutil.copytree(models.small, out / "bundle")
    (out / "task.toml").write_text(task_to_toml(world.task))


def _timed(figures: Figures, seconds: float) -> Figures:
    return msgspec.structs.replace(figures, seconds=seconds)


def _played(demo: Demo) -> Figures:
    world, judge = demo.world, Judge(demo.world, demo.models)
    demo.show.step("2", "Broker, cloud and two devices start, each a process of its own")
    _start(demo)
    questions = world.questions(world.deal.test, QUESTIONS_PLAYED)
    items = world.items(questions)
    demo.show.step("3", f"{len(items)} held-out questions, before any update")
    before = _phase(demo, items, judge.small_accuracy(demo.models.small, questions), demo.models.small, "test")
    foreign_before = _foreign(demo)
    stream = world.items(world.questions(world.deal.stream))
    demo.show.step(
        "4",
        f"The stream: {len(stream)} unlabelled questions; what is escalated comes back as answers, and is kept to learn from",
    )
    _play(demo, stream, "stream")
    demo.show.step("5", "One learning round: distil, quantize, gate, certify")
    released, verdict = _learn(demo)
    after, foreign_after, update = None, None, _Update(0, 0, 0)
    if released is not None:
        demo.show.step("6", "The update goes to both devices while they keep answering")
        update = _publish(demo, released, stream)
        demo.show.step("7", "The same held-out questions, after the update")
        after = _phase(demo, items, judge.small_accuracy(released, questions), released, "test")
        foreign_after = _foreign(demo)
    return Figures(
        seed=world.seed,
        seconds=0.0,
        majority_accuracy=judge.majority_accuracy(questions),
        large_accuracy=judge.large_accuracy(questions),
        before=before,
        after=after,
        gate=verdict,
        foreign={kind: (foreign_before[kind], foreign_after[kind] if foreign_after else None) for kind in FOREIGN},
        update_bytes=update.bytes,
        requests_refused_during_update=update.refused,
        answered_during_update=update.answered,
        curve_before=judge.curve(demo.models.small, questions),
        curve_after=judge.curve(released, questions) if released else None,
    )


def _start(demo: Demo) -> None:
    settings, processes = demo.settings, demo.processes
    processes.start("broker", ["broker", "run", "--port", str(settings.broker_port)])
    processes.wait_port("broker", settings.broker_port)
    rows = write_rows(demo.world, demo.models.imported, settings.folder / "labelled")
    _outrider(demo, "data", "import", str(rows), "--task", TASK_NAME, "--config", str(settings.cloud_file))
    processes.start("cloud", ["cloud", "serve", "--config", str(settings.cloud_file)])
    for name, file in settings.agent_files.items():
        processes.start(name, ["edge", "run", "--config", str(file)])
    processes.wait_ready("cloud", f"{settings.cloud}/health/ready")
    for name, address in settings.agents.items():
        processes.wait_ready(name, f"{address}/health/ready")
    for command in settings.commands:
        demo.show.say(f"  $ {command}")


def _phase(demo: Demo, items: Sequence[Item], small_accuracy: float, bundle: Path, name: str) -> Phase:
    sent = _bytes_up(demo)
    tally = _play(demo, items, name)
    certificate = open_bundle(bundle).manifest.certificate
    return measure(
        tally,
        certified_risk=certificate.risk if certificate else None,
        certified_coverage=certificate.coverage if certificate else 0.0,
        small_accuracy=small_accuracy,
        bytes_up=_bytes_up(demo) - sent,
    )


def _play(demo: Demo, items: Sequence[Item], name: str, stop: asyncio.Event | None = None) -> Tally:
    with demo.show.live(name, len(items)) as watch:
        return asyncio.run(_playing(demo, items, watch, stop))


async def _playing(demo: Demo, items: Sequence[Item], watch: show.Watch, stop: asyncio.Event | None) -> Tally:
    return await play(
        items,
        list(demo.settings.agents.values()),
        task=TASK_NAME,
        answer_within_ms=demo.world.task.policy.answer_within_ms,
        watch=watch,
        stop=stop,
    )


def _bytes_up(demo: Demo) -> int:
    """Bytes of escalations and blobs that the devices have published so far."""
    total = 0
    for address in demo.settings.agents.values():
        with Client(address) as client:
            total += int(client.status()["bytes_up"])
    return total


def _foreign(demo: Demo) -> dict[str, float]:
    """Share of each kind of foreign picture that a device would keep; asked without waiting for the large model."""
    questions = demo.world.questions(demo.world.deal.test[:FOREIGN_PICTURES], 1)
    kept: dict[str, float] = {}
    with Client(next(iter(demo.settings.agents.values()))) as client:
        for kind in FOREIGN:
            reports = [
                client.ask(
                    TASK_NAME,
                    {"image": altered(demo.world.captures[question.picture], kind), "question": question.text},
                    wait=False,
                    group=demo.world.vqa.groups[question.picture],
                )
                for question in questions
            ]
            kept[kind] = sum(report.certified for report in reports) / len(reports)
    return kept


def _learn(demo: Demo) -> tuple[Path | None, str]:
    """The released bundle, or None, and the gate's verdict."""
    settings = demo.settings
    out = settings.folder / "small-2"
    command = [
        "distill", "run", "--task", TASK_NAME, "--config", str(settings.cloud_file), "--base", str(demo.models.small),
        "-o", str(out), "--seed", str(demo.world.seed), "--threads", "2", "--json",
    ]  # fmt: skip
    with demo.show.waiting("learning"):
        done = _run(command, settings.folder / "logs" / "distill.log")
    if done.returncode not in (0, 3):
        raise UndecidedError("the learning round failed", reason="round_failed", fix=f"see {settings.folder / 'logs'}")
    report = json.loads(done.stdout.strip().splitlines()[-1])
    verdict = str(report.get("verdict") or report.get("error", {}).get("what", ""))
    demo.show.say(verdict)
    return (out if done.returncode == 0 else None), verdict


@dataclass(frozen=True)
class _Update:
    bytes: int
    refused: int
    answered: int


def _publish(demo: Demo, released: Path, background: Sequence[Item]) -> _Update:
    """Publishes and waits for both devices, with questions under way all the time."""
    bundle = open_bundle(released)
    size = sum(entry.size for entry in bundle.manifest.files) + len((released / "manifest.json").read_bytes())

    async def both() -> Tally:
        stop = asyncio.Event()
        with demo.show.live("during the update", len(background)) as watch:
            playing = asyncio.create_task(_playing(demo, background, watch, stop))
            try:
                await asyncio.to_thread(
                    _outrider, demo, "ota", "publish", str(released), "--cloud", demo.settings.cloud, "--yes"
                )
                await asyncio.to_thread(_wait_committed, demo, bundle.digest)
            finally:
                stop.set()
            return await playing

    tally = asyncio.run(both())
    return _Update(size, tally.failed, len(tally.told) - tally.failed)


def _wait_committed(demo: Demo, digest: str) -> None:
    deadline = time.monotonic() + COMMITTED_WITHIN_S
    waiting = dict(demo.settings.agents)
    while waiting:
        for name, address in list(waiting.items()):
            with Client(address) as client:
                slot = next(slot for slot in client.status()["slots"] if slot["task"] == TASK_NAME)
            if slot["running"] == digest and slot["state"] in ("committed", "idle"):
                del waiting[name]
            elif digest in slot["refused"]:
                raise UndecidedError(f"{name} refused the update: {slot['reason']}", reason="update_refused")
        if time.monotonic() > deadline:
            raise UndecidedError(f"{', '.join(waiting)} did not finish the update", reason="update_unfinished")
        time.sleep(0.2)


def _outrider(demo: Demo, *command: str) -> None:
    """Runs one command of ours to its end.

    Raises:
        UndecidedError: it failed, with what it said.
    """
    log = demo.settings.folder / "logs" / f"{command[0]}-{command[1]}.log"
    done = _run(command, log)
    if done.returncode:
        said = log.read_text(errors="replace").strip().splitlines()
        raise UndecidedError(
            f"outrider {' '.join(command[:2])} failed: {said[-1] if said else done.returncode}", reason="command_failed"
        )


def _run(command: Sequence[str], log: Path) -> "subprocess.CompletedProcess[str]":
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as errors:
        return subprocess.run(
            [sys.executable, "-m", "outrider", *command], stdout=subprocess.PIPE, stderr=errors, text=True, check=False
        )
