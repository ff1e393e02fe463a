"""A folder of labelled images becomes a certified small model beside a large one, whatever the models are named as."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from own_students import MEAN_COLOUR, knowing
from PIL import Image
from safetensors.torch import save_file

from factory import COLOURS, make_bundle, make_task
from outrider.fitting import Fitting, next_commands, task_for
from outrider_cloud.config import load_cloud_config
from outrider_edge.config import load_edge_config
from outrider_engine.model import load_model
from outrider_export.fit import Allowance, Fit, FitReport
from outrider_export.named import find_named
from outrider_export.sources import from_folder, task_from_folder
from outrider_export.split import foresee, split
from outrider_export.to_onnx import export_onnx
from outrider_wire.certificate import reused_delta
from outrider_wire.errors import BundleMismatchError, OperatorConfigError, OutriderError, RuleRefusalError
from outrider_wire.roles import DEFAULT_SHARES, ROLES
from outrider_wire.task import Task

LABELS = ("blue", "green", "red")
IMAGES = 460
KEY = "fit"


def write_folder(folder: Path, n: int = IMAGES) -> Path:
    """Noisy pictures, one sub-folder a colour; the nearest colour is the label."""
    rng = np.random.default_rng(5)
    known = np.array([COLOURS[label] for label in LABELS])
    for number in range(n):
        pixels = np.clip(rng.integers(0, 256, 3) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        label = LABELS[int(((known - pixels.mean((0, 1))) ** 2).sum(1).argmin())]
        (folder / label).mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        Image.fromarray(pixels).save(out, "PNG")
        (folder / label / f"{number}.png").write_bytes(out.getvalue())
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    return write_folder(tmp_path_factory.mktemp("data") / "hues")


@pytest.fixture(scope="module")
def task(folder: Path) -> Task:
    return task_for(folder, None, risk=0.1, delta=0.1)


@pytest.fixture(scope="module")
def weights(task: Task, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weights of a teacher that is right: what a user brings of an own module."""
    path = tmp_path_factory.mktemp("weights") / "teacher.safetensors"
    save_file(knowing([COLOURS[label] for label in LABELS], task).state_dict(), path)
    return path


def fit(folder: Path, task: Task, out: Path, *, teacher: str, student: str, delta: float | None = None) -> FitReport:
    tables = split(from_folder(folder, task), key=KEY, shares=DEFAULT_SHARES)
    return Fit(
        task=task,
        tables=tables,
        out=out,
        seed=0,
        allow=lambda groups: Allowance(groups, delta or task.delta),
        progress=lambda *_: None,
    ).run(teacher=teacher, student=student)


@pytest.fixture(scope="module")
def fitted(folder: Path, task: Task, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FitReport]:
    out = tmp_path_factory.mktemp("fitted")
    teacher = f"own_students:MEAN_COLOUR#{weights}"
    return out, fit(folder, task, out, teacher=teacher, student="image-small")


def test_a_teacher_with_weights_is_not_trained_and_its_student_is_certified(fitted: tuple[Path, FitReport]) -> None:
    out, report = fitted
    assert report.teacher_accuracy > 0.97, "it knows the rule that the images were labelled by"
    assert report.student_accuracy > 0.85
    assert report.certificate is not None and report.certificate.risk == 0.1
    assert report.kept_risk <= 0.15 and report.kept > 0.2
    assert report.system_accuracy >= report.student_accuracy
    assert load_model(out / "large").manifest.architecture == "own_students:MEAN_COLOUR"
    assert report.table()[0] == ("large model right", f"{report.teacher_accuracy:.1%}")


def test_the_small_bundle_may_claim_its_certificate_and_has_a_checkpoint_to_go_on_from(
    fitted: tuple[Path, FitReport], task: Task
) -> None:
    out, report = fitted
    model = load_model(out / "small")
    assert (model.certified, model.digest) == ("", report.small)
    assert find_named(str(out / "small"), task).architecture.name == "image-small"


def test_an_onnx_student_gets_a_bundle_and_a_bundle_is_a_teacher_as_it_is(
    fitted: tuple[Path, FitReport], folder: Path, task: Task, tmp_path: Path
) -> None:
    large = fitted[0] / "large"
    module = knowing([COLOURS[label] for label in LABELS], task)
    (tmp_path / "net.onnx").write_bytes(export_onnx(module, MEAN_COLOUR.inputs(task), ["logits"]))
    report = fit(folder, task, tmp_path / "out", teacher=str(large), student=str(tmp_path / "net.onnx"), delta=0.01)
    assert report.large == load_model(large).digest
    assert report.student_accuracy > 0.9 and not report.distilled
    assert report.certificate is None or report.certificate.delta == 0.01
    assert not (tmp_path / "out" / "small.safetensors").exists()
    assert load_model(tmp_path / "out" / "small").certified == (
        "" if report.certificate else "the bundle carries no certificate"
    )


def test_a_teacher_for_other_labels_is_refused(folder: Path, task: Task, tmp_path: Path) -> None:
    make_bundle(tmp_path / "other", make_task("other"))
    with pytest.raises(BundleMismatchError, match="other labels or parts"):
        fit(folder, task, tmp_path / "out", teacher=str(tmp_path / "other"), student="image-small")


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("image-huge", "no student 'image-huge'"),
        ("own_students:Nothing", "cannot be imported"),
        ("own_students:MEAN_COLOUR#nowhere.safetensors", "is not a checkpoint"),
        ("nowhere.onnx", "cannot be read"),
    ],
)
def test_a_model_that_cannot_be_found_is_refused_in_one_sentence(name: str, says: str, task: Task) -> None:
    with pytest.raises(OutriderError, match=says):
        find_named(name, task)


def test_weights_of_another_network_are_refused(weights: Path, task: Task) -> None:
    with pytest.raises(OperatorConfigError, match="does not hold the weights of image-small"):
        find_named(f"image-small#{weights}", task)


def test_roles_share_no_group_and_follow_their_shares(folder: Path, task: Task) -> None:
    tables = split(from_folder(folder, task), key=KEY, shares=DEFAULT_SHARES)
    groups = [set(tables[role].groups) for role in ROLES]
    assert sum(map(len, groups)) == len(set().union(*groups)) == IMAGES
    assert abs(len(tables["train"]) / IMAGES - DEFAULT_SHARES.train) < 0.1


def test_it_is_said_beforehand_what_the_data_can_certify(folder: Path, task: Task) -> None:
    foreseen = foresee(split(from_folder(folder, task), key=KEY, shares=DEFAULT_SHARES), task)
    assert foreseen.can_certify
    assert f"{foreseen.groups['certification']} certification rows can certify" in foreseen.sentences[0]
    assert "22 kept certification rows without an error" in foreseen.sentences[1]
    assert f"with {2 * foreseen.rows['certification']} rows" in foreseen.sentences[2]


def test_data_that_can_certify_nothing_is_warned_of_and_not_refused(tmp_path: Path) -> None:
    few = write_folder(tmp_path / "few", 60)
    task = task_from_folder(few, "few")
    foreseen = foresee(split(from_folder(few, task), key=KEY, shares=DEFAULT_SHARES), task)
    assert not foreseen.can_certify
    assert "cannot certify" in foreseen.sentences[0] and foreseen.sentences[-1].startswith("WARNING: nothing can be")


def test_a_role_without_rows_is_refused(tmp_path: Path) -> None:
    few = write_folder(tmp_path / "few", 6)
    task = task_from_folder(few, "few")
    with pytest.raises(RuleRefusalError, match="none falls to the"):
        split(from_folder(few, task), key=KEY, shares=DEFAULT_SHARES)


def test_the_files_that_are_written_start_a_device_and_a_cloud_on_this_machine(
    fitted: tuple[Path, FitReport], folder: Path, tmp_path: Path
) -> None:
    stated = task_for(folder, None, risk=0.1, delta=0.2)
    assert (stated.name, stated.policy.target_risk, stated.delta) == ("hues", 0.1, 0.2)
    with Fitting(task=stated, data=folder, out=tmp_path, seed=0) as work:
        assert work.foresee().can_certify
    edge, cloud = load_edge_config(tmp_path / "edge.toml"), load_cloud_config(tmp_path / "cloud.toml")
    assert edge.broker.url == cloud.broker.url == "mqtt://127.0.0.1:1883"
    assert (edge.tasks[0].file, edge.tasks[0].bundle) == (str(tmp_path / "task.toml"), str(tmp_path / "small"))
    assert cloud.tasks[0].large == f"onnx:{tmp_path / 'large'}"
    assert (cloud.roles.shares, Path(cloud.roles.key_file).stat().st_mode & 0o77) == (DEFAULT_SHARES, 0)
    assert [command.split()[1] for command in next_commands(tmp_path)] == ["broker", "cloud", "edge"]


def test_files_that_a_person_has_changed_and_the_key_stay_when_fitting_again(folder: Path, tmp_path: Path) -> None:
    stated = task_for(folder, None)
    with Fitting(task=stated, data=folder, out=tmp_path, seed=0):
        pass
    key = (tmp_path / "roles.key").read_text()
    changed = (tmp_path / "edge.toml").read_text().replace("device-1", "gate-7")
    (tmp_path / "edge.toml").write_text(changed)
    with Fitting(task=stated, data=folder, out=tmp_path, seed=1):
        pass
    assert ((tmp_path / "edge.toml").read_text(), (tmp_path / "roles.key").read_text()) == (changed, key)


def test_a_second_fit_on_the_same_images_pays_for_the_certification_rows(
    fitted: tuple[Path, FitReport], folder: Path, task: Task, tmp_path: Path
) -> None:
    module = knowing([COLOURS[label] for label in LABELS], task)
    (tmp_path / "net.onnx").write_bytes(export_onnx(module, MEAN_COLOUR.inputs(task), ["logits"]))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "roles.key").write_text(KEY)
    paid = []
    for _ in range(2):
        with Fitting(task=task, data=folder, out=tmp_path / "out", seed=0) as work:
            report = work.run(
                teacher=str(fitted[0] / "large"), student=str(tmp_path / "net.onnx"), tell=lambda *_: None
            )
        paid.append(report.certificate.delta if report.certificate else None)
    assert paid[0] == task.delta
    assert paid[1] == reused_delta(task.delta, 2)
