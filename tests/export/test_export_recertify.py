"""A finished bundle certified anew: the same rule, fresh rows, a copy; and rows that may not be used for it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from outrider_engine.bundle import open_bundle
from outrider_engine.model import load_model
from outrider_export.beside import checkpoint_path
from outrider_export.build import BuildReport
from outrider_export.data import Table
from outrider_export.promises import Promise
from outrider_export.recertify import recertify, reused, write_copy
from outrider_wire.errors import BundleMismatchError, OperatorSetupError, RuleRefusalError
from outrider_wire.task import AnswerSpace, InputPart, Task

PROMISE = Promise(risk=0.1, delta=0.1)


def parted(table: Table, tuning: int) -> tuple[Table, Table]:
    return table.take(np.arange(tuning)), table.take(np.arange(tuning, len(table)))


@pytest.fixture(scope="module")
def fresh(squares: Callable[[int, int], Table]) -> tuple[Table, Table]:
    return parted(squares(400, 11), 120)


def test_the_rule_stays_and_its_thresholds_and_certificate_are_new(
    built: BuildReport, task: Task, fresh: tuple[Table, Table], tmp_path: Path
) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    found = recertify(model=model, task=task, tuning=fresh[0], certification=fresh[1], promise=PROMISE, key="k")
    assert found.ruling.valid
    assert (found.ruling.n, found.ruling.reason) == (280, "certified")
    assert 0 <= (found.ruling.calibration_error or 0) < 0.3
    assert {each.name for each in found.ruling.kept} == set(task.labels)
    old, new = model.manifest, found.manifest
    assert (new.calibration, new.acceptance.score) == (old.calibration, old.acceptance.score)
    assert new.acceptance.support_threshold == old.acceptance.support_threshold
    assert new.certificate is not None
    assert new.certificate != old.certificate

    digest = write_copy(built.bundle, tmp_path / "again", new)
    copy = load_model(tmp_path / "again", bounds=task.inputs)
    assert (copy.digest, copy.certified) == (digest, "")
    assert checkpoint_path(tmp_path / "again").is_file()
    assert open_bundle(built.bundle).digest == built.digest  # the original is as it was


def test_in_place_only_the_manifest_and_the_items_change(
    built: BuildReport, task: Task, fresh: tuple[Table, Table], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(built.bundle, mine)
    model = load_model(mine, bounds=task.inputs)
    found = recertify(model=model, task=task, tuning=fresh[0], certification=fresh[1], promise=PROMISE, key="k")
    assert write_copy(mine, mine, found.manifest, found.items) == load_model(mine, bounds=task.inputs).digest
    assert sorted(each.name for each in mine.iterdir()) == sorted(each.name for each in built.bundle.iterdir())


def test_rows_that_certified_the_bundle_are_recognised(
    built: BuildReport, squares: Callable[[int, int], Table], fresh: tuple[Table, Table]
) -> None:
    assert reused(built.manifest, squares(250, 3))
    assert not reused(built.manifest, fresh[1])


@pytest.mark.parametrize(
    ("copy", "original", "reason"),
    [(200, 0, "roles_overlap"), (250, 200, "copies_counted")],
    ids=["in two roles", "counted as independent"],
)
def test_copies_of_a_picture_under_another_group_are_refused(  # noqa: PLR0917 -- pytest passes fixtures by name
    built: BuildReport, task: Task, squares: Callable[[int, int], Table], copy: int, original: int, reason: str
) -> None:
    table = squares(300, 12)
    places = {part: np.where(np.arange(300) == copy, index[original], index) for part, index in table.index.items()}
    copied = Table(values=table.values, index=places, labels=table.labels, groups=table.groups)
    tuning, certification = parted(copied, 100)
    model = load_model(built.bundle, bounds=task.inputs)
    with pytest.raises(RuleRefusalError) as raised:
        recertify(model=model, task=task, tuning=tuning, certification=certification, promise=PROMISE, key="k")
    assert raised.value.reason == reason


def test_labels_in_another_order_are_refused_and_labels_that_are_all_wrong_too(
    built: BuildReport, task: Task, fresh: tuple[Table, Table]
) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    turned = Task(
        name=task.name,
        inputs=[InputPart(name="image", modality="image")],
        answer=AnswerSpace(labels=[*task.labels[1:], task.labels[0]]),
    )
    with pytest.raises(BundleMismatchError):
        recertify(model=model, task=turned, tuning=fresh[0], certification=fresh[1], promise=PROMISE, key="k")
    said = np.array([model.infer([model.prepare(fresh[1].parts(row))])[0].probabilities.argmax() for row in range(280)])
    wrong = Table(values=fresh[1].values, index=fresh[1].index, labels=(said + 1) % 3, groups=fresh[1].groups)
    with pytest.raises(RuleRefusalError) as raised:
        recertify(model=model, task=task, tuning=fresh[0], certification=wrong, promise=PROMISE, key="k")
    assert raised.value.reason == "all_wrong"


def test_a_folder_that_is_no_bundle_is_not_written_over(built: BuildReport, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(OperatorSetupError):
        write_copy(built.bundle, tmp_path / "notes", built.manifest)
    assert (tmp_path / "notes" / "mine.txt").read_text() == "keep"
