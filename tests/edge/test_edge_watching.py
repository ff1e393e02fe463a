"""What is seen of a release in its probation, whichever of its engines answers."""

import time
from copy import copy
from pathlib import Path

from factory import make_bundle, make_task, parts_of, sure
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.updates.watching import SHARE, Before, Senses, Watching
from outrider_engine.model import load_model

TASK = make_task()


def test_a_release_whose_certificate_is_renewed_in_its_probation_goes_on_being_compared(tmp_path: Path) -> None:
    before, new = (load_model(make_bundle(tmp_path / str(n), TASK, seed=n), bounds=TASK.inputs) for n in range(2))
    runtime = TaskRuntime(task=TASK, model=new)
    watching = Watching(runtime=runtime, before=before, was=Before(), senses=Senses())
    assert runtime.renew(new, copy(new))  # as a replay of its certification items does
    for _ in range(SHARE):
        runtime.answer(parts_of(sure(1)))
    end = time.monotonic() + 20
    while not watching.seen(0.0).compared and time.monotonic() < end:
        time.sleep(0.01)
    assert watching.seen(0.0).compared == 1
    watching.close()
    runtime.close()
