"""A running cloud with a large model behind a server: what the strategy asks and tells, and what a bad server costs nobody."""

import asyncio
import errno
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from aiohttp import web
from cloud_device import Device, make_escalation, sha256
from cloud_service import HeldModel, eventually, get, make_service, ready, the_task, write_config
from large_server import MODEL, ChatServer, completion, prose, says, status, tokens

from factory import make_bundle, sure
from outrider_cloud.service import _DRAIN_S, CloudService
from outrider_cloud.store import inputs, schema
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.retention import Keeper
from outrider_cloud.store.store import Store
from outrider_wire.codec import encode
from outrider_wire.messages import Answer, Escalation, Fact, Receipt, Refusal

pytestmark = pytest.mark.broker

SUBTASKS = '[[subtasks]]\nname = "shape"\nlabels = ["circle", "square"]\n'


def configured(
    folder: Path, broker: str, large: str, strategy: str = "shunt", *, more: str = "", task: str = ""
) -> Path:
    """A configuration whose task says ``more``, and a task file that ends in ``task``."""
    path = write_config(folder, broker, large=large, strategy="shunt")
    path.write_text(path.read_text().replace('"shunt"', f'"{strategy}"') + more)
    file = folder / "task.toml"
    file.write_text(file.read_text() + task)
    return path


def place(server: ChatServer) -> str:
    return f"openai:{server.url}#{MODEL}"


def unsure(folder: Path, image: bytes = b"\x89PNG", **fields: object) -> Escalation:
    return make_escalation(the_task(folder), {"image": image, "question": "what?"}, **fields)


async def metric(service: CloudService, name: str) -> float:
    import aiohttp

    async with aiohttp.ClientSession() as client, client.get(f"{service.url}/metrics") as response:
        lines = (await response.text()).splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


async def test_an_input_waits_for_a_server_that_is_down_and_is_answered_when_it_is_up(
    broker: str, tmp_path: Path
) -> None:
    async with ChatServer([status(503), status(503), says(B=0.99)]) as server:
        path = configured(tmp_path, broker, place(server), more="[tasks.asking]\nretries = 0\n")
        async with make_service(path) as service, Device(broker, "cam-down") as device:
            await ready(service)
            sent = unsure(tmp_path)
            await device.escalate(sent)
            answer = await device.hears(Answer, sent.id)
            assert answer.label == "green" and answer.model.startswith(f"{MODEL}@")
            assert device.of(Refusal) == []
            assert len(server.bodies) == 3
            assert await metric(service, "outrider_put_off_total") == 2
            assert (await get(service, "/v1/account"))[1]["adds_up"]


async def test_a_server_that_limits_the_rate_costs_an_input_time_and_nothing_but_its_time(
    broker: str, tmp_path: Path
) -> None:
    for manner, kept_s, ends in ((status(429, **{"Retry-After": "86400"}), 2, "expired"), (status(429), 600, "green")):
        async with ChatServer([manner, says(B=0.99)]) as server:
            folder = tmp_path / ends
            path = configured(folder, broker, place(server), more="[tasks.asking]\nretries = 0\n")
            async with make_service(path) as service, Device(broker, f"cam-limit-{ends}") as device:
                await ready(service)
                sent = unsure(folder, keep_for_s=kept_s)
                await device.escalate(sent)
                if ends == "expired":
                    assert (await device.hears(Refusal, sent.id)).reason == "expired"
                else:
                    assert (await device.hears(Answer, sent.id)).label == ends
                said = (await get(service, "/v1/account"))[1]
                assert (said["received"], said["pending"], said["adds_up"]) == (1, 0, True)


async def test_a_model_that_writes_prose_answers_a_shunt_with_little_confidence_and_teaches_nothing(
    broker: str, tmp_path: Path
) -> None:
    async with ChatServer([prose]) as server:
        path = configured(tmp_path, broker, place(server))
        async with make_service(path) as service, Device(broker, "cam-prose") as device:
            await ready(service)
            sent = unsure(tmp_path)
            await device.escalate(sent)
            answer = await device.hears(Answer, sent.id)
            assert answer.label == "green" and answer.confidence == pytest.approx(0.04 + 0.95 / 3)
            assert (await get(service, "/v1/tasks/colours/examples/stats"))[1]["examples"] == 0


async def test_a_strategy_that_needs_a_distribution_refuses_one_of_little_mass(broker: str, tmp_path: Path) -> None:
    async with ChatServer([prose]) as server:
        path = configured(tmp_path, broker, place(server), "soft-prune")
        async with make_service(path) as service, Device(broker, "cam-mass") as device:
            await ready(service)
            sent = unsure(tmp_path)
            await device.escalate(sent)
            refusal = await device.hears(Refusal, sent.id)
            assert refusal.reason == "mass_too_low" and "5.0%" in refusal.detail
            assert await metric(service, "outrider_tokens_total") == 41, "what was refused was billed"


async def test_a_large_model_that_changes_is_counted_and_cited_by_its_new_name(broker: str, tmp_path: Path) -> None:
    def other(*_: object) -> web.Response:
        return web.json_response(completion(tokens(A=0.99), system_fingerprint="another"))

    async with ChatServer([says(A=0.99), says(A=0.99), other]) as server:
        path = configured(tmp_path, broker, place(server))
        async with make_service(path) as service, Device(broker, "cam-change") as device:
            await ready(service)
            names = []
            for _ in range(3):
                sent = unsure(tmp_path)
                await device.escalate(sent)
                names.append((await device.hears(Answer, sent.id)).model)
            assert names[0] == names[1] != names[2]
            assert await metric(service, "outrider_large_model_changes_total") == 1


async def test_an_audit_is_asked_plainly_and_its_outcome_kept_whatever_the_strategy(
    broker: str, tmp_path: Path
) -> None:
    async with ChatServer([prose]) as server:
        path = configured(tmp_path, broker, place(server), "soft-prune", more='prune_in = "prompt"\n')
        async with make_service(path) as service, Device(broker, "cam-audit") as device:
            await ready(service)
            sent = unsure(tmp_path, probabilities=[0.0, 0.9, 0.1], why="audit", audit=0.02)
            await device.escalate(sent)
            assert (await device.hears(Answer, sent.id)).strategy == "shunt"
            assert (await get(service, "/v1/tasks/colours/examples/stats"))[1]["examples"] == 1
    assert "with probability" not in server.bodies[0]["messages"][0]["content"][0]["text"]


async def test_facts_are_told_under_transfer_and_under_no_other_strategy(broker: str, tmp_path: Path) -> None:
    facts = [Fact(name="shape", label="circle", confidence=0.9)]
    for strategy in ("transfer", "shunt"):
        async with ChatServer([says(A=0.99)]) as server:
            path = configured(tmp_path / strategy, broker, place(server), strategy, task=SUBTASKS)
            async with make_service(path) as service, Device(broker, f"cam-{strategy}") as device:
                await ready(service)
                sent = unsure(tmp_path / strategy, facts=facts)
                await device.escalate(sent)
                await device.hears(Answer, sent.id)
        told = server.bodies[0]["messages"][0]["content"][0]["text"]
        assert ("- shape: circle (confidence 0.90)" in told) == (strategy == "transfer")


@pytest.mark.parametrize(
    "facts",
    [
        [Fact(name="size", label="circle", confidence=0.9)],
        [Fact(name="shape", label="star", confidence=0.9)],
        [Fact(name="shape", label="circle", confidence=0.9)] * 2,
    ],
)
async def test_facts_that_answer_no_sub_task_are_refused(broker: str, tmp_path: Path, facts: list[Fact]) -> None:
    path = configured(tmp_path, broker, "zero:echo", task=SUBTASKS)
    async with make_service(path) as service, Device(broker, "cam-facts") as device:
        await ready(service)
        sent = unsure(tmp_path, facts=facts)
        await device.escalate(sent)
        assert (await device.hears(Refusal, sent.id)).reason == "facts_mismatch"


async def test_hard_pruning_asks_about_the_candidates_and_pays_for_no_others(broker: str, tmp_path: Path) -> None:
    async with ChatServer([says(A=0.2, C=0.79)]) as server:
        path = configured(tmp_path, broker, place(server), "hard-prune", more="keep = 0.2\n")
        async with make_service(path) as service, Device(broker, "cam-hard") as device:
            await ready(service)
            sent = unsure(tmp_path, probabilities=[0.5, 0.1, 0.4])
            await device.escalate(sent)
            answer = await device.hears(Answer, sent.id)
            assert (answer.label, answer.probabilities[1]) == ("blue", 0.0)
            assert await metric(service, "outrider_label_scores_total") == 2
    text = server.bodies[0]["messages"][0]["content"][0]["text"]
    assert "A: red\nC: blue" in text and "green" not in text


async def test_the_small_models_distribution_is_told_where_it_is_pruned_in_the_prompt(
    broker: str, tmp_path: Path
) -> None:
    async with ChatServer([says(A=0.6, B=0.39)]) as server:
        path = configured(tmp_path, broker, place(server), "soft-prune", more='prune_in = "prompt"\n')
        async with make_service(path) as service, Device(broker, "cam-prompt") as device:
            await ready(service)
            sent = unsure(tmp_path, probabilities=[0.0, 0.9, 0.1])
            await device.escalate(sent)
            answer = await device.hears(Answer, sent.id)
            assert answer.label == "red", "what was told is not multiplied in as well"
    text = server.bodies[0]["messages"][0]["content"][0]["text"]
    assert "- a green with probability 0.90\n- a blue with probability 0.10" in text and "a red with" not in text


async def test_the_first_models_distribution_is_fused_in_place_of_the_devices(broker: str, tmp_path: Path) -> None:
    said = {}
    for fused in (True, False):
        folder = tmp_path / str(fused)
        path = configured(folder, broker, "zero:uniform", "soft-prune", more='fuse_with = "first"\n' if fused else "")
        make_bundle(folder / "first", the_task(folder))
        async with make_service(path) as service, Device(broker, f"cam-first-{str(fused).lower()}") as device:
            await ready(service)
            sent = unsure(folder, sure(0), probabilities=[0.0, 0.0, 1.0])
            await device.escalate(sent)
            said[fused] = (await device.hears(Answer, sent.id)).label
            broken = unsure(folder, b"no picture", probabilities=[0.0, 0.0, 1.0])
            await device.escalate(broken)
            assert (await device.hears(Answer, broken.id)).label == "blue", "what it cannot read keeps the device's"
    assert said == {True: "red", False: "blue"}


async def test_a_thumbnail_is_believed_less_by_its_grade(broker: str, tmp_path: Path) -> None:
    more = '[[tasks.grades]]\npart = "image"\nmax_bytes = 100\ntemperature = 3.0\n'
    path = configured(tmp_path, broker, "zero:echo", more=more)
    async with make_service(path, HeldModel()) as service, Device(broker, "cam-grade") as device:
        await ready(service)
        sent = [unsure(tmp_path, b"\x89PNG" + bytes(size)) for size in (10, 1000)]
        for each in sent:
            await device.escalate(each)
        thumbnail, whole = [await device.hears(Answer, each.id) for each in sent]
        assert whole.confidence == pytest.approx(0.9)
        assert thumbnail.label == whole.label and thumbnail.confidence == pytest.approx(0.567, abs=0.005)


async def test_a_stop_does_not_wait_for_a_server_that_is_down(broker: str, tmp_path: Path) -> None:
    async with ChatServer([status(500)]) as server:
        path = configured(tmp_path, broker, place(server), more="[tasks.asking]\nretries = 0\n")
        async with make_service(path) as service, Device(broker, "cam-stop") as device:
            await ready(service)
            await device.escalate(unsure(tmp_path))

            async def was_put_off() -> bool:
                return await metric(service, "outrider_put_off_total") >= 1

            await eventually(was_put_off)
            began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < _DRAIN_S


async def test_an_input_that_another_worker_has_answered_is_not_counted_here(broker: str, tmp_path: Path) -> None:
    model = HeldModel()
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-other") as device:
        await ready(service)
        model.open.clear()
        sent = await device.escalate(unsure(tmp_path))
        await device.hears(Receipt, sent)
        theirs = Refusal(id=sent, reason="theirs")
        end = inputs.Settlement(
            device="cam-other", id=sent, task="colours", state="refused", reply=encode(theirs), settled_ms=1
        )
        store = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        store.open()
        await store.write(partial(inputs.settle, end=end))
        store.close()
        model.open.set()
        assert await device.hears(Refusal, sent) == theirs
        assert await metric(service, "outrider_inputs_settled_total") == 0


async def test_a_lost_payload_ends_its_input_once_though_its_batch_fails(broker: str, tmp_path: Path) -> None:
    model, image = HeldModel(), b"x" * 100_000
    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-once") as device:
        await ready(service)
        device.serve(image)
        model.open.clear()
        task = the_task(tmp_path)
        for parts in ({"image": b"1", "question": "first"}, {"image": image, "question": "lost"}):
            sent = await device.escalate(make_escalation(task, parts))
            await device.hears(Receipt, sent)
        failing = await device.escalate(make_escalation(task, {"image": b"2", "question": "explode"}))
        await device.hears(Receipt, failing)
        digest = sha256(image)
        (tmp_path / "data/blobs" / digest[:2] / digest).unlink()
        model.open.set()
        assert (await device.hears(Refusal, sent)).reason == "payload_lost"
        await eventually(lambda: _asked_alone(model))
        await asyncio.sleep(0.1)
        assert await metric(service, 'outrider_inputs_settled_total{state="refused"') == 1


async def test_a_part_that_cannot_be_read_now_waits_and_is_no_fault_of_the_model(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, image, read = HeldModel(), b"y" * 100_000, BlobStore.read
    troubles = [OSError(errno.EMFILE, "Too many open files") for _ in range(4)]

    def troubled(blobs: BlobStore, digest: str) -> bytes | None:
        if troubles:
            raise troubles.pop()
        return read(blobs, digest)

    async with make_service(write_config(tmp_path, broker), model) as service, Device(broker, "cam-fd") as device:
        await ready(service)
        device.serve(image)
        monkeypatch.setattr(BlobStore, "read", troubled)
        sent = await device.escalate(make_escalation(the_task(tmp_path), {"image": image, "question": "later"}))
        assert (await device.hears(Answer, sent)).label
        assert not troubles
        assert model.questions == ["later"]


async def test_tidying_for_long_lets_no_lease_run_out(
    broker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tidying = HeldModel(), asyncio.Event()

    async def endless(_: Keeper) -> dict[str, int]:
        tidying.set()
        await asyncio.Event().wait()
        return {}

    monkeypatch.setattr(Keeper, "keep", endless)
    config = write_config(tmp_path, broker, more="lease_s = 2")
    async with make_service(config, model) as service, Device(broker, "cam-tidy") as device:
        await ready(service)
        model.open.clear()
        sent = await device.escalate(unsure(tmp_path))
        await device.hears(Receipt, sent)
        await tidying.wait()
        store = Store(url=f"sqlite:///{tmp_path / 'data/cloud.db'}")
        store.open()

        async def until_ms() -> int:
            column = schema.inputs.c.lease_until_ms
            return int(await store.read(lambda connection: connection.execute(sa.select(column)).scalar_one()))

        before = await until_ms()

        async def renewed() -> bool:
            return await until_ms() > before + 2000

        await eventually(renewed)
        store.close()
        model.open.set()
        await device.hears(Answer, sent)


async def _asked_alone(model: HeldModel) -> bool:
    return model.questions.count("explode") >= 2
