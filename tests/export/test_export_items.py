"""A built bundle carries its certification rows; what else runs it is put to the same test with them."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from outrider_engine.bundle import open_bundle
from outrider_engine.items import ITEMS_FILE, CertificationItems, decode_items
from outrider_engine.model import Model, load_model
from outrider_engine.replaying import Replaying
from outrider_engine.session import Feeds
from outrider_export.build import BuildReport, build_bundle
from outrider_export.data import Table
from outrider_export.promises import Promise
from outrider_export.recertify import recertify, write_copy
from outrider_export.students import Architecture
from outrider_wire.errors import BundleMismatchError
from outrider_wire.task import Task


def items_of(model: Model) -> CertificationItems:
    assert model.manifest.certification == ITEMS_FILE
    return decode_items(model.bundle.read(ITEMS_FILE), labels=len(model.labels))


def replayed(model: Model, items: CertificationItems, k: int = 2) -> Model | None:
    running = Replaying(model, items)
    while running.step():
        assert 0 < running.share < 1
    found = running.ended(k)
    return model.claiming(found) if found.rule is not None else None


class Bent:
    """A session whose logits are bent, as another precision's are."""

    def __init__(
        self, model: Model, bend: Callable[[np.ndarray], np.ndarray], provider: str = "OtherExecutionProvider"
    ) -> None:
        self._inner, self._bend = model.session, bend
        self.inputs, self.provider, self.passed_over = model.session.inputs, provider, ()

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        """As the model, bent."""
        found = self._inner.run(feeds)
        return {**found, "logits": self._bend(found["logits"])}


def elsewhere(model: Model, bend: Callable[[np.ndarray], np.ndarray], task: Task) -> Model:
    return Model(bundle=model.bundle, session=Bent(model, bend), variant=model.bundle.variant(), bounds=task.inputs)


def test_the_certified_model_replays_its_own_items_row_for_row(built: BuildReport, task: Task) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    items = items_of(model)
    certificate = model.manifest.certificate
    assert certificate is not None
    assert (len(items), items.certificate, items.rows.fault(certificate)) == (certificate.n, certificate.id, "")
    running = Replaying(model, items)
    while running.step():
        pass
    found = running.ended(2)
    assert (found.identical, found.rule, found.errors) == (True, model.manifest.acceptance, certificate.errors)


def test_another_provider_claims_nothing_before_its_replay_and_the_certificate_after(
    built: BuildReport, task: Task
) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    other = elsewhere(model, lambda logits: logits + np.float32(1e-6), task)
    assert "OtherExecutionProvider runs" in other.certified
    claiming = replayed(other, items_of(model))
    assert claiming is not None
    assert (claiming.certified, claiming.certificate_id) == ("", model.certificate_id)
    assert other.certified, "the model before it stays as it was"


def test_the_fp32_variant_claims_by_replay_what_int8_was_certified_for(built: BuildReport, task: Task) -> None:
    model = load_model(built.bundle, variant="fp32", bounds=task.inputs)
    assert "fp32 runs" in model.certified
    claiming = replayed(model, items_of(model))
    assert claiming is not None
    rule, own = claiming.manifest.acceptance, model.manifest.acceptance
    assert rule.threshold is not None
    assert own.threshold is not None
    assert rule.threshold >= own.threshold


def test_a_worse_engine_is_not_claimed_for(built: BuildReport, task: Task) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    assert replayed(elsewhere(model, lambda logits: np.roll(logits, 1, axis=1), task), items_of(model)) is None


def test_items_of_another_certificate_renew_nothing(built: BuildReport, task: Task) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    with pytest.raises(BundleMismatchError, match="made certificate"):
        Replaying(model, dataclasses.replace(items_of(model), certificate="0" * 16))
    model.manifest = msgspec.structs.replace(
        model.manifest, calibration=msgspec.structs.replace(model.manifest.calibration, n=1)
    )
    with pytest.raises(BundleMismatchError, match="its calibration changed"):
        Replaying(model, items_of(model))


def test_a_bundle_is_whole_without_its_items_and_not_with_others(built: BuildReport, tmp_path: Path) -> None:
    manifest = built.manifest
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in built.bundle.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    (copy / ITEMS_FILE).unlink()
    assert open_bundle(copy).digest == built.digest
    assert [entry.path for entry in manifest.files if entry not in manifest.needed] == [ITEMS_FILE]
    (copy / ITEMS_FILE).write_bytes(b"others")
    with pytest.raises(Exception, match=ITEMS_FILE):
        open_bundle(copy)


def test_items_may_be_left_out(  # noqa: PLR0917 -- pytest passes fixtures by name
    trained: torch.nn.Module,
    architecture: Architecture,
    task: Task,
    training_rows: Table,
    squares: Callable[[int, int], Table],
    tmp_path: Path,
) -> None:
    report = build_bundle(
        task=task,
        model=trained,
        architecture=architecture,
        tuning=squares(150, 2),
        certification=squares(250, 3),
        support=training_rows,
        out=tmp_path / "bare",
        version="1",
        items=False,
    )
    assert report.manifest.certification is None
    assert not (report.bundle / ITEMS_FILE).exists()
    model = load_model(report.bundle, variant="fp32", bounds=task.inputs)
    assert model.manifest.replay_fault(model.variant) == "the bundle carries no certification items"


def test_a_new_certificate_brings_its_own_items(
    built: BuildReport, task: Task, squares: Callable[[int, int], Table], tmp_path: Path
) -> None:
    model = load_model(built.bundle, bounds=task.inputs)
    promise = Promise(risk=0.1, delta=0.1)
    found = recertify(
        model=model, task=task, tuning=squares(150, 22), certification=squares(250, 33), promise=promise, key="k"
    )
    out = tmp_path / "again"
    write_copy(built.bundle, out, found.manifest, found.items)
    again = load_model(out, bounds=task.inputs)
    assert items_of(again).certificate == again.certificate_id != model.certificate_id
    write_copy(out, out, msgspec.structs.replace(found.manifest, certification=None, files=found.manifest.needed))
    assert not (out / ITEMS_FILE).exists()
    assert load_model(out, bounds=task.inputs).certificate_id == again.certificate_id
