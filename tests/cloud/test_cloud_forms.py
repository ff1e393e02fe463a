"""First forms in the cloud: what is asked again, what a device is told meanwhile, and what a crash in between costs."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from cloud_device import Device, make_escalation, sha256
from cloud_service import account, eventually, make_service, ready, request, the_task, write_config
from msgspec import UNSET
from msgspec.structs import replace

from factory import make_bundle, make_task, model_inputs
from outrider.processes import any_port
from outrider_cloud.answering.forms import completed, decided_on, suffices, unseen
from outrider_cloud.answering.grades import Grade
from outrider_cloud.config import TaskSettings
from outrider_cloud.intake.completing import TRIES, Completing
from outrider_cloud.intake.jobs import Job, new_job
from outrider_cloud.large.base import LargeRefusal, LargeReply, LargeRequest
from outrider_cloud.large.embeddings import check_embeddings
from outrider_cloud.large.table import load_large
from outrider_link.blobs import BlobHolder
from outrider_link.broker import EmbeddedBroker
from outrider_wire.errors import OperatorConfigError, OutriderError, PeerError, UnreachableError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.messages import Answer, Escalation, FullForm, Part, Receipt, Refusal
from outrider_wire.privacy import PartPrivacy, Privacy
from outrider_wire.task import Task

TESTS = Path(__file__).parent.parent
FIRST = b"first form"


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as running:
        yield running.url


def first_of(task: Task, full: bytes, question: str = "1", *, size: int | None = None) -> Escalation:
    """An escalation with a first form inline and ``full`` on offer beside it."""
    sent = make_escalation(task, {"image": FIRST, "question": question})
    offered = FullForm(media_type="image/png", size=len(full) if size is None else size, sha256=sha256(full))
    return replace(sent, parts=[replace(sent.parts[0], full=offered), sent.parts[1]])


class Chooser:
    """Refuses, is unsure or is sure, as the test says of each picture."""

    name = "chooser@1"

    def __init__(self, says: dict[bytes, LargeReply | LargeRefusal]) -> None:
        self.says = says
        self.asked: list[bytes] = []

    async def answer(self, batch: Sequence[LargeRequest]) -> Sequence[LargeReply | LargeRefusal]:
        self.asked += [request.parts["image"] for request in batch]
        return [self.says.get(request.parts["image"], SURE) for request in batch]

    async def close(self) -> None:
        pass


SURE, UNSURE = LargeReply(probabilities=[0.0, 0.0, 1.0]), LargeReply(probabilities=[0.4, 0.3, 0.3])


def test_what_is_unseen_is_pulled_once_and_marks_what_it_was_decided_on() -> None:
    sent = first_of(make_task(), b"the full one")
    [wanted] = unseen(sent)
    assert (wanted.name, wanted.size, wanted.sha256, wanted.inline) == ("image", 12, sha256(b"the full one"), None)
    made = completed(sent, {"image": b"the full one"})
    assert made.parts[0].inline == b"the full one" and made.parts[1] == sent.parts[1]
    assert not unseen(made)
    assert (decided_on(sent), decided_on(made)) == ("first", "full")
    assert decided_on(make_escalation(make_task(), {"image": b"x"})) is UNSET


def test_how_sure_is_enough_is_the_grades_word() -> None:
    parts = make_escalation(make_task(), {"image": b"x" * 500}).parts
    assert suffices([0.95, 0.05], parts, []) and not suffices([0.94, 0.06], parts, [])
    grades = [Grade(temperature=1.0, max_bytes=600, enough=0.8), Grade(temperature=1.0, enough=1.0)]
    assert suffices([0.8, 0.2], parts, grades) and not suffices([0.8, 0.2], parts, grades[1:])


@pytest.mark.broker
@pytest.mark.parametrize("durability", ["disk", "memory"])
@pytest.mark.parametrize(
    "says",
    [UNSURE, LargeRefusal(reason="too_small", detail="one cannot see a thing")],
    ids=["unsure", "refused"],
)
async def test_a_first_form_that_does_not_suffice_is_followed_by_the_full_one(
    broker: str, tmp_path: Path, durability: str, says: LargeReply | LargeRefusal
) -> None:
    full = os.urandom(100_000)
    model = Chooser({FIRST: says})
    path = write_config(tmp_path, broker, durability=durability)
    async with make_service(path, model) as service, Device(broker, "cam-first") as device:  # type: ignore[arg-type]  # a large model
        await ready(service)
        device.serve(full)
        sent = first_of(the_task(tmp_path), full)
        await device.escalate(sent)
        answer = await device.hears(Answer, sent.id)
        assert (answer.label, answer.form) == ("blue", "full") and answer.ms["pull"] > 0
        assert model.asked == [FIRST, full]

        async def counted() -> bool:
            said = await account(service)
            return (said["received"], said["cloud"], said["pending"]) == (1, 1, 0)

        await eventually(counted)  # a task that gave durability up is recorded behind


@pytest.mark.broker
@pytest.mark.parametrize("one", [False, True], ids=["its device", "the input alone"])
async def test_nothing_is_left_of_an_input_that_is_forgotten_while_its_full_form_is_pulled(
    broker: str, tmp_path: Path, one: bool
) -> None:
    model, wanted = Chooser({FIRST: UNSURE}), asyncio.Event()
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-gone-by") as device:  # type: ignore[arg-type]  # a large model
        await ready(service)

        async def silent(want: object, topic: str) -> None:
            wanted.set()

        device._holder.on_want = silent  # type: ignore[method-assign]  # it has heard, and says nothing yet
        sent = first_of(the_task(tmp_path), os.urandom(100_000))
        await device.escalate(sent)
        await asyncio.wait_for(wanted.wait(), 10)
        status, said = await request(
            service, "POST", "/v1/forget", body={"input": sent.id} if one else {"device": "cam-gone-by"}
        )
        assert status == 200, said
        intake = service._intake
        assert intake is not None and await intake.standing("cam-gone-by", sent.id) is None
        assert intake.workers[0].find(("cam-gone-by", sent.id)) is None
        assert not intake._pulls._fetching, "nobody goes on pulling"
        assert model.asked == [FIRST]


@pytest.mark.broker
async def test_a_refusal_stands_where_the_full_form_is_gone(broker: str, tmp_path: Path) -> None:
    model = Chooser({FIRST: LargeRefusal(reason="too_small", detail="one cannot see a thing")})
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-gone") as device:  # type: ignore[arg-type]  # a large model
        await ready(service)
        sent = first_of(the_task(tmp_path), b"nobody has this")
        await device.escalate(sent)
        assert (await device.hears(Refusal, sent.id)).reason == "too_small"


@pytest.mark.broker
async def test_a_full_form_that_is_too_large_is_refused_before_anybody_looks(broker: str, tmp_path: Path) -> None:
    model = Chooser({})
    path = write_config(tmp_path, broker)
    async with make_service(path, model) as service, Device(broker, "cam-large") as device:  # type: ignore[arg-type]  # a large model
        await ready(service)
        sent = first_of(the_task(tmp_path), b"", size=2_000_001)
        await device.escalate(sent)
        assert (await device.hears(Refusal, sent.id)).reason == "part_too_large"
        assert not model.asked


@contextmanager
def cloud(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (config.parent / "cloud.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, TESTS / "cloud_child.py", config], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def offered_until(device: Device, sent: Escalation, true: object) -> None:
    """Offers again and again, as an outbox does without a receipt."""
    async with asyncio.timeout(30):
        while not true():  # type: ignore[operator]  # a look of the test's
            await device.escalate(sent)
            await asyncio.sleep(0.3)


@pytest.mark.broker
async def test_a_kill_before_the_full_form_is_stored_costs_one_more_pull_and_one_after_it_costs_nothing(
    broker: str, tmp_path: Path
) -> None:
    """The device forgets its payload at the receipt; what nobody has stored by then would be lost."""
    config = write_config(tmp_path, broker, keep=False)
    stored, cut = os.urandom(100_000), os.urandom(1_900_000)
    async with Device(broker, "cam-cut") as device:
        device.serve(stored)
        one, other = (first_of(the_task(tmp_path), full, str(k)) for k, full in ((1, stored), (2, cut)))
        with cloud(config) as process:
            await offered_until(device, one, lambda: device.of(Receipt, one.id))
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert not device.of(Answer)
        device.blobs.clear()
        device.serve(cut)
        with cloud(config) as process:
            await device.hears(Answer, one.id, within_s=30)

            def killing(digest: str) -> bytes | None:
                """At the first want of it."""
                process.kill()
                return device.blobs.get(digest)

            device._holder = BlobHolder(publish=device.session.publish, open_blob=killing)
            await offered_until(device, other, lambda: process.poll() is not None)
        assert not device.of(Receipt, other.id) and not device.of(Answer, other.id)
        device._holder = BlobHolder(publish=device.session.publish, open_blob=device.blobs.get)
        with cloud(config):
            await device.hears(Answer, other.id, within_s=30)
        answers = [device.of(Answer, sent.id)[0] for sent in (one, other)]
        assert [(answer.label, answer.form) for answer in answers] == [("green", "full"), ("blue", "full")]


class HandPulls:
    """Pulls that fail as a test says, and then bring what is asked for."""

    def __init__(self, *failures: OutriderError | OSError) -> None:
        self.failures = list(failures)
        self.tries = 0

    async def fetch(self, device: str, part: Part, *, keep: bool) -> bytes:
        self.tries += 1
        if self.failures:
            raise self.failures.pop(0)
        return b"the full one"


class HandSettler:
    """Notes what is stored."""

    def __init__(self) -> None:
        self.stored: list[Escalation] = []

    async def restate(self, job: Job) -> None:
        self.stored.append(job.escalation)


SILENT = UnreachableError("nothing came", reason="blob_timed_out")
GONE = PeerError("it is gone", reason="blob_gone")


@pytest.mark.parametrize(
    ("failures", "tries", "complete"),
    [
        ([], 1, True),
        ([SILENT, OSError("the disk is full")], 3, True),
        ([SILENT] * TRIES, TRIES, False),
        ([GONE], 1, False),
        ([SILENT, GONE], 2, False),
    ],
)
async def test_a_device_that_is_silent_is_asked_again_and_one_that_has_nothing_is_not(
    failures: list[OutriderError | OSError], tries: int, complete: bool
) -> None:
    sent = first_of(make_task(), b"the full one")
    now = asyncio.get_running_loop().time()
    job = new_job(
        device="cam", task=make_task(), escalation=sent, content_type="", correlation=None, now=now, received_ms=0
    )
    pulls, settler = HandPulls(*failures), HandSettler()
    completing = Completing(pulls=pulls, settler=settler, pause_s=0.0)  # type: ignore[arg-type]  # what it asks of both
    assert await completing.complete(job) == complete
    assert pulls.tries == tries
    assert settler.stored == ([job.escalation] if complete else [])
    assert job.holds_back != complete


def embedding_task() -> Task:
    return make_task(privacy=Privacy(parts={"image": PartPrivacy(embedding_only=True)}))


def test_a_large_model_that_cannot_read_an_embedding_is_refused_at_the_start(tmp_path: Path) -> None:
    task = embedding_task()
    bundle = make_bundle(tmp_path / "expert", make_task())
    for large in (f"onnx:{bundle}", f"transformers:{tmp_path}", "openai:http://127.0.0.1:9/v1#m"):
        with pytest.raises(OperatorConfigError, match="as an embedding only") as refused:
            load_large(TaskSettings(file="task.toml", large=large), task)
        assert refused.value.reason == "embedding_unread"
    load_large(TaskSettings(file="task.toml", large="zero:echo"), task)


def test_an_expert_whose_first_step_reads_an_embedding_is_taken() -> None:
    words = model_inputs(text_only=True)
    reads = ModelInput(part="image", tensor="e", steps=[Step(op="embedding", args={"size": 3})], shape=[3])
    check_embeddings(embedding_task(), [reads, *words], named="onnx:expert")
    with pytest.raises(OperatorConfigError):
        check_embeddings(embedding_task(), [reads, *model_inputs()], named="onnx:expert")
