"""The way out of the device: made on the loop or beside it, the same; refused at the start where it cannot be made at all."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from factory import make_bundle, make_task, parts_of, png, unsure
from outrider_edge.journey.pipeline import LocalAnswer, TaskRuntime
from outrider_edge.journey.way_out import LOOP_TEXT, WayOut, check_way_out
from outrider_engine.model import load_model
from outrider_wire.errors import OperatorConfigError
from outrider_wire.privacy import FirstForm, PartPrivacy, Privacy
from outrider_wire.task import InputPart, Task

REDACTING = Privacy(redact=["email"])
ALONE = Privacy(parts={"image": PartPrivacy(embedding_only=True)})


@pytest.fixture
def local(tmp_path: Path) -> LocalAnswer:
    runtime = TaskRuntime(task=make_task(), model=load_model(make_bundle(tmp_path / "bundle", embedding=True)))
    try:
        return runtime.answer(parts_of(unsure()))
    finally:
        runtime.close()


@pytest.mark.parametrize("more", ["", "x" * LOOP_TEXT])
async def test_a_long_text_is_searched_beside_the_loop_with_the_same_outcome(local: LocalAnswer, more: str) -> None:
    redacted: Counter[str] = Counter()
    way = WayOut(make_task(privacy=REDACTING), key="k", redacted=redacted)
    left = await way.leave({"image": png(), "question": f"ask ann@example.org {more}"}, local, group="g")
    assert left.parts[1].data == f"ask [email] {more}".encode()
    assert redacted == {"email": 1} and left.group == "g"
    assert (way._thread is not None) == bool(more)
    way.close()


async def test_another_model_of_the_device_reads_all_that_may_leave_and_no_embedding(local: LocalAnswer) -> None:
    whole = png((128, 128, 0), size=400)
    image, question = make_task().inputs
    first = FirstForm(kind="thumbnail", side=8)
    image = InputPart(name="image", modality="image", first=first, max_pixels=image.max_pixels)
    task = Task(name="t", inputs=[image, question], answer=make_task().answer, privacy=REDACTING)
    way = WayOut(task, key="k", redacted=Counter())
    left = await way.leave({"image": whole, "question": "ann@example.org?"}, local, group="")
    assert left.parts[0].data != whole
    assert left.readable == {"image": whole, "question": b"[email]?"}
    way.close()
    way = WayOut(make_task(privacy=ALONE), key="k", redacted=Counter())
    left = await way.leave({"image": whole, "question": "what?"}, local, group="")
    assert left.readable == {}
    assert np.frombuffer(left.parts[0].data, "<f4").tolist() == np.asarray(local.embedding).tolist()


def test_a_bundle_that_makes_no_embedding_of_a_part_that_leaves_as_one_is_refused(tmp_path: Path) -> None:
    task = make_task(privacy=ALONE)
    check_way_out(task, load_model(make_bundle(tmp_path / "with", embedding=True)).manifest)
    manifest = load_model(make_bundle(tmp_path / "without")).manifest
    check_way_out(make_task(), manifest)
    with pytest.raises(OperatorConfigError, match="the bundle makes none") as refused:
        check_way_out(task, manifest)
    assert refused.value.reason == "no_embedding"
