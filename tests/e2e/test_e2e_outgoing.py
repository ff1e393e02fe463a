"""What leaves a real device, over a real broker, as a spy on that broker hears it: little first, all on request, marks never."""

import asyncio
import io
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import ClientSession
from cloud_service import ready
from outgoing_world import Beholder, Spy, around, grainy, write
from PIL import Image

from factory import sure
from outrider.processes import any_port
from outrider_cloud.config import load_cloud_config
from outrider_cloud.service import CloudService
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_link.broker import EmbeddedBroker
from outrider_link.session import Incoming
from outrider_wire.codec import decode
from outrider_wire.messages import Answer, Escalation, Receipt

pytestmark = pytest.mark.broker

MARK = b"GPS-48.137N-11.575E"
JPEG_FIRST = '[inputs.first]\nas = "jpeg"\nquality = 50\n'


@pytest.fixture
def broker() -> Iterator[str]:
    with EmbeddedBroker(port=any_port()) as broker:
        yield broker.url


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not fact():  # noqa: ASYNC110 - a fact of a file or of another session sets no event
            await asyncio.sleep(0.02)


def is_jpeg(image: bytes) -> bool:
    return image.startswith(b"\xff\xd8")


async def test_a_first_form_that_suffices_is_all_that_ever_leaves(broker: str, tmp_path: Path) -> None:
    async with around(tmp_path, broker, image=JPEG_FIRST) as at:
        full = grainy()
        report = await at.agent.submit("colours", {"image": full, "question": "what?"})
        assert (report.state, report.label, report.form, report.note) == ("cloud", "blue", "first", "")
        assert [is_jpeg(shown["image"]) for shown in at.model.shown] == [True]
        await until(lambda: not at.payload)
        assert not at.spy.said("up/blob") and at.spy.bytes_up() < len(full) / 3
        [sent] = [decode(message.payload) for message in at.spy.said("up/escalate")]
        assert isinstance(sent, Escalation) and sent.parts[0].unseen is not None
        assert sent.parts[0].unseen.size == len(full)


@pytest.mark.parametrize("keep", ["true", "false"])
async def test_where_it_does_not_suffice_all_of_it_is_pulled_and_decides(
    broker: str, tmp_path: Path, keep: str
) -> None:
    task = f"[privacy]\nkeep_examples = {keep}\n"
    async with around(tmp_path, broker, image=JPEG_FIRST, task=task, unsure=is_jpeg) as at:
        full = grainy()
        report = await at.agent.submit("colours", {"image": full, "question": "what?"})
        assert (report.state, report.label, report.form, report.note) == ("cloud", "blue", "full", "")
        assert [is_jpeg(shown["image"]) for shown in at.model.shown] == [True, False]
        assert at.model.shown[1] == {"image": full, "question": b"what?"}
        await until(lambda: not at.payload)
        async with ClientSession() as client, client.get(f"{at.service.url}/metrics") as reply:
            assert 'outrider_forms_total{form="full",task="colours"} 1.0' in await reply.text()


@pytest.mark.parametrize("first", [JPEG_FIRST, ""], ids=["first form", "all at once"])
async def test_while_the_large_model_looks_at_a_first_form_there_is_no_receipt_and_the_payload_stays(
    broker: str, tmp_path: Path, first: str
) -> None:
    """For an input that is all there, the same slow model gets its receipt at once."""
    async with around(tmp_path, broker, image=first, unsure=is_jpeg) as at:
        at.model.open.clear()
        asked = asyncio.create_task(at.agent.submit("colours", {"image": grainy(), "question": "what?"}))
        await until(lambda: at.model.shown)
        if first:
            await asyncio.sleep(0.5)  # a receipt would have come after a quarter of a second
            assert at.payload and not at.spy.said("down/answer")
        else:
            await until(lambda: not at.payload and at.spy.said("down/answer"))
        at.model.open.set()
        assert (await asked).form == ("full" if first else "")
        told = [decode(message.payload) for message in at.spy.said("down/answer")]
        assert isinstance(told[-1], Answer) and all(isinstance(message, Receipt) for message in told[:-1])


async def test_a_device_that_restarts_while_the_large_model_looks_still_has_the_full_form(
    broker: str, tmp_path: Path
) -> None:
    write(tmp_path, broker, image=JPEG_FIRST, task="", audits=0.0, cloud="", embedding=False)
    model, device = Beholder(is_jpeg), load_edge_config(tmp_path / "device" / "edge.toml")
    model.open.clear()
    config = load_cloud_config(tmp_path / "cloud" / "cloud.toml")
    async with CloudService(config, load=lambda _settings, _task: model) as service:
        await ready(service)
        async with serving(device) as served:
            asked = await served.agent.submit("colours", {"image": grainy(), "question": "what?"}, wait=False)
            await until(lambda: model.shown)
        model.open.set()  # nobody is there to pull from
        await asyncio.sleep(0.2)
        async with serving(device) as served:
            final = await served.agent.wait_final(asked.id, 15)
            assert (final.state, final.label, final.form) == ("cloud", "blue", "full")
            assert served.agent.account().adds_up


async def test_when_the_device_has_it_no_more_the_first_form_decides_and_the_answer_says_so(
    broker: str, tmp_path: Path
) -> None:
    async with around(tmp_path, broker, image=JPEG_FIRST, unsure=is_jpeg) as at:
        at.model.open.clear()
        asked = asyncio.create_task(at.agent.submit("colours", {"image": grainy(), "question": "what?"}))
        await until(lambda: at.model.shown)
        for file in at.payload:
            file.unlink()
        at.model.open.set()
        report = await asked
        assert (report.state, report.label, report.form) == ("cloud", "red", "first_only")
        assert "could not have the full one" in report.note


async def test_a_grade_says_how_sure_of_a_first_form_is_sure_enough(broker: str, tmp_path: Path) -> None:
    grades = '[[tasks.grades]]\nmedia_type = "image/jpeg"\ntemperature = 1.0\nenough = 0.99\n'
    async with around(tmp_path, broker, image=JPEG_FIRST, cloud=grades) as at:
        report = await at.agent.submit("colours", {"image": grainy(), "question": "what?"})
        assert (report.form, report.confidence) == ("full", 0.98)


async def test_a_budget_counts_what_is_sent_and_what_is_pulled(broker: str, tmp_path: Path) -> None:
    budget = "[budget]\nbytes_per_day = 1_000_000\n"
    unsure = {"yes": False}
    async with around(
        tmp_path, broker, image=JPEG_FIRST, task=budget, unsure=lambda image: unsure["yes"] and is_jpeg(image)
    ) as at:
        spent = lambda: at.agent.budgets()["colours"]["bytes_per_day"].spent  # noqa: E731 - one look
        near = lambda: at.spy.bytes_up() <= spent() <= at.spy.bytes_up() + 1500  # noqa: E731 - one look
        await at.agent.submit("colours", {"image": grainy(1), "question": "what?"}, insist=True)
        first = spent()
        await until(near)
        unsure["yes"] = True
        await at.agent.submit("colours", {"image": grainy(2), "question": "what?"}, insist=True)
        await until(near)
        assert first < len(grainy(1)) / 3 and spent() - first > len(grainy(2))


def exif() -> bytes:
    said = Image.Exif()
    said[0x010F] = MARK.decode()
    said.get_ifd(0x8825)[1] = MARK.decode()
    return said.tobytes()


async def test_a_mark_in_the_metadata_reaches_nobody_in_an_escalation_an_audit_or_a_pulled_part(
    broker: str, tmp_path: Path
) -> None:
    async with around(tmp_path, broker, audits=1.0) as at:
        marked = grainy(exif=exif())
        large = io.BytesIO()
        Image.effect_noise((400, 400), 90).save(large, "PNG", exif=exif())
        kept = grainy(colour=(250, 5, 5), exif=exif()) + MARK
        for number, image in enumerate((marked, large.getvalue(), kept)):
            assert MARK in image
            report = await at.agent.submit(
                "colours", {"image": image, "question": f"what {number}?"}, insist=number < 2
            )
            assert report.audited == (number == 2)
        await until(lambda: len(at.model.shown) == 3)
        await until(lambda: at.agent.account().pending == 0)
        assert at.spy.said("up/blob") and len(at.spy.said("up/escalate")) >= 3
        assert not at.spy.knows(MARK) and not at.stored(MARK)
        assert not at.stored(MARK, "device")  # nor does the device keep it


async def test_what_is_redacted_reaches_nobody_by_text_or_group(broker: str, tmp_path: Path) -> None:
    task = '[privacy]\nredact = ["email"]\n[privacy.patterns]\nplate = "[A-Z]-[0-9]{3}"\n'
    async with around(tmp_path, broker, task=task, audits=1.0) as at:
        group = "call with ann@example.org"
        asked = [(grainy(), "is B-123 of ann@example.org blue?"), (sure(0), "who is ann@example.org?")]
        for image, question in asked:
            report = await at.agent.submit("colours", {"image": image, "question": question}, group=group)
        assert report.audited
        await until(lambda: len(at.model.shown) == 2)
        assert [shown["question"] for shown in at.model.shown] == [b"is [plate] of [email] blue?", b"who is [email]?"]
        for mark in (b"ann@", b"B-123"):
            assert not at.spy.knows(mark) and not at.stored(mark) and not at.stored(mark, "device")
        sent = [decode(message.payload) for message in at.spy.said("up/escalate")]
        groups = {message.group for message in sent if isinstance(message, Escalation)}
        assert len(groups) == 1 and groups.pop().startswith("p-")
        async with ClientSession() as client, client.get(f"{at.address}/metrics") as reply:
            assert 'outrider_redacted_total{pattern="email",task="colours"} 2.0' in await reply.text()


async def test_a_part_that_leaves_as_an_embedding_leaves_as_nothing_else(broker: str, tmp_path: Path) -> None:
    task = "[privacy.parts.image]\nembedding_only = true\n"
    async with around(tmp_path, broker, task=task, embedding=True) as at:
        full = grainy()
        report = await at.agent.submit("colours", {"image": full, "question": "what?"})
        assert report.answered_by == "cloud"
        assert [len(shown["image"]) for shown in at.model.shown] == [3 * 4]
        assert not at.spy.knows(full[-200:-20]) and not at.stored(full[-200:-20])


async def test_what_cannot_be_made_fit_to_leave_stays_and_its_caller_is_told(broker: str, tmp_path: Path) -> None:
    task = '[privacy]\nredact = ["email"]\n'
    async with around(tmp_path, broker, task=task) as at:
        report = await at.agent.submit("colours", {"image": grainy(), "question": "x" * 70_000})
        assert (report.state, report.answered_by, report.certified) == ("edge", "edge", False)
        assert "cannot be searched for what must not leave" in report.note
        assert at.agent.account().adds_up and not at.spy.said("up/escalate")


def test_the_spy_would_hear_a_mark() -> None:
    """The searches above can fail: what they look for is found where it is."""
    spy = Spy("mqtt://127.0.0.1:1")
    assert not spy.knows(MARK)
    spy.heard.append(Incoming(topic="t", payload=b"..." + MARK + b"..."))
    assert spy.knows(MARK)
