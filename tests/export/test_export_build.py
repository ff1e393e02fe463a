"""A bundle: whole or not at all, the same bytes for the same inputs, certified only where that is true."""

import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from outrider_engine.bundle import open_bundle
from outrider_engine.golden import read_golden
from outrider_engine.model import load_model
from outrider_export.adopt import onnx_architecture
from outrider_export.build import BuildReport, build_bundle
from outrider_export.checkpoint import checkpoint_path, load_checkpoint, save_checkpoint
from outrider_export.data import Table
from outrider_export.named import find_named
from outrider_export.students import ARCHITECTURES, Architecture, new_module
from outrider_export.support import fit_known
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import OperatorConfigError, OperatorSetupError, RuleRefusalError
from outrider_wire.manifest import MANIFEST_FILE, Calibration, encode_manifest
from outrider_wire.privacy import FirstForm, PartPrivacy, Privacy
from outrider_wire.task import Budget, Memory, Task, parse_task

Squares = Callable[[int, int], Table]


def test_a_bundle_is_a_flat_directory_that_verifies(built: BuildReport, task: Task) -> None:
    bundle = open_bundle(built.bundle)

    assert bundle.digest == built.digest
    assert {path.name for path in built.bundle.iterdir()} == {
        MANIFEST_FILE,
        "certification.msgpack",
        "golden.msgpack",
        "license.txt",
        "model.fp32.onnx",
        "model.int8.onnx",
        "task.toml",
    }
    assert [variant.name for variant in bundle.manifest.variants] == ["int8", "fp32"]
    assert parse_task(bundle.read("task.toml").decode()) == task
    assert bundle.read("license.txt") == b"MIT"


def test_the_int8_variant_is_certified_and_the_other_is_not(built: BuildReport) -> None:
    certificate = built.manifest.certificate

    assert certificate is not None
    assert (certificate.precision, certificate.n, certificate.label_source) == ("int8", 250, "ground_truth")
    assert certificate.risk_bound <= certificate.risk == 0.1
    assert load_model(built.bundle).certified == ""
    assert "precision" in load_model(built.bundle, variant="fp32").certified
    assert built.sentences[0].startswith("certified: what it answers itself")


def test_known_pictures_are_kept_and_foreign_ones_are_not(built: BuildReport, squares: Squares) -> None:
    model = load_model(built.bundle)
    table = squares(100, 7)
    rows = [model.prepare(table.parts(row)) for row in range(100)]
    found = model.infer(rows)
    foreign = model.infer([{"image": np.full((3, 16, 16), level, np.float32)} for level in (0.0, 0.5, 1.0)])

    kept = [model.judge(each, {}) for each in found]
    right = [int(each.logits.argmax()) == label for each, label in zip(found, table.labels, strict=True)]
    assert sum(verdict.accepted for verdict in kept) >= 80
    assert sum(verdict.accepted and not ok for verdict, ok in zip(kept, right, strict=True)) <= 10
    assert {model.judge(each, {}).why for each in foreign} == {"unsupported"}


def test_golden_inputs_are_rows_with_the_shipped_session_s_logits(built: BuildReport, squares: Squares) -> None:
    model = load_model(built.bundle)
    examples = read_golden(model)
    found = model.infer([model.prepare(example.parts) for example in examples])

    assert len({int(np.argmax(example.logits)) for example in examples}) == 3
    for example, each in zip(examples, found, strict=True):
        assert np.allclose(example.logits, each.logits, atol=model.manifest.golden_tolerance)


def test_every_variant_says_how_far_it_is_from_the_one_before(built: BuildReport) -> None:
    int8, fp32 = (variant.parity for variant in built.manifest.variants)

    assert fp32["max_abs"] < 1e-3
    assert fp32["max_abs"] < int8["max_abs"]
    assert int8["agreement"] >= 0.98


def test_the_same_inputs_give_the_same_digest_and_the_old_bundle_is_replaced(  # noqa: PLR0917 -- fixtures
    built: BuildReport,
    trained: torch.nn.Module,
    architecture: Architecture,
    task: Task,
    training_rows: Table,
    squares: Squares,
    tmp_path: Path,
) -> None:
    out = tmp_path / "again"
    out.mkdir()
    (out / MANIFEST_FILE).write_text("an old bundle")
    (out / "left-over").write_text("of it")
    again = build_bundle(
        task=task,
        model=trained,
        architecture=architecture,
        tuning=squares(150, 2),
        certification=squares(250, 3),
        support=training_rows,
        out=out,
        version="1",
        licence="MIT",
    )

    assert again.digest == built.digest
    assert open_bundle(out).digest == built.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "again.safetensors"]


def test_a_directory_that_is_no_bundle_is_left_alone(
    trained: torch.nn.Module, architecture: Architecture, task: Task, squares: Squares, tmp_path: Path
) -> None:
    (tmp_path / "thesis.tex").write_text("three years of work")

    with pytest.raises(OperatorSetupError) as occupied:
        build_bundle(
            task=task,
            model=trained,
            architecture=architecture,
            tuning=squares(40, 2),
            certification=None,
            out=tmp_path,
            version="1",
        )
    assert occupied.value.reason == "output_occupied"
    assert (tmp_path / "thesis.tex").exists()


def test_a_build_that_fails_half_way_leaves_nothing_behind(
    built: BuildReport, task: Task, squares: Squares, tmp_path: Path
) -> None:
    data = (built.bundle / "model.fp32.onnx").read_bytes()
    rows = squares(60, 2)
    unlabelled = Table(values=rows.values, index=rows.index, labels=np.full(60, -1), groups=rows.groups)
    stages: list[str] = []
    with pytest.raises(RuleRefusalError, match="no labelled rows"):
        build_bundle(
            task=task,
            model=data,
            architecture=onnx_architecture(data),
            tuning=unlabelled,
            certification=None,
            out=tmp_path / "bundle",
            version="1",
            precisions=("fp32",),
            progress=lambda stage, _: stages.append(stage),
        )
    assert stages[-1] == "certifying"
    assert not list(tmp_path.iterdir())


def test_rows_in_two_roles_are_refused_before_any_work(
    built: BuildReport, task: Task, squares: Squares, tmp_path: Path
) -> None:
    data = (built.bundle / "model.fp32.onnx").read_bytes()
    stages: list[str] = []
    with pytest.raises(RuleRefusalError, match="both the tuning and the certification"):
        build_bundle(
            task=task,
            model=data,
            architecture=onnx_architecture(data),
            tuning=squares(60, 2),
            certification=squares(60, 2),
            out=tmp_path / "bundle",
            version="1",
            progress=lambda stage, _: stages.append(stage),
        )
    assert stages == []


def test_an_onnx_file_becomes_a_bundle_without_a_checkpoint(
    built: BuildReport, task: Task, squares: Squares, tmp_path: Path
) -> None:
    data = (built.bundle / "model.fp32.onnx").read_bytes()
    told: list[str] = []
    report = build_bundle(
        task=task,
        model=data,
        architecture=onnx_architecture(data),
        tuning=squares(60, 2),
        certification=None,
        out=tmp_path / "own",
        version="1",
        precisions=("fp32",),
        progress=lambda stage, _: told.append(stage),
    )

    assert report.manifest.outputs.support == "support"
    assert report.manifest.certificate is None
    assert report.manifest.acceptance.threshold is None
    assert report.checkpoint is None
    assert not checkpoint_path(report.bundle).exists()
    assert told[-1] == "done"


def test_the_checkpoint_beside_a_bundle_gives_the_module_back(tmp_path: Path) -> None:
    architecture = ARCHITECTURES["image-small"]
    task = parse_task(
        'name = "pets"\n[[inputs]]\nname = "image"\nmodality = "image"\n[answer]\nlabels = ["cat", "dog"]\n'
    )
    module = new_module(architecture, task, seed=3).eval()
    image = torch.rand(40, 3, 32, 32)
    known = fit_known([view.detach().double().numpy() for view in module.pooled(image)])
    file = tmp_path / "pets.safetensors"
    save_checkpoint(file, module, "image-small", known)
    loaded, found = load_checkpoint(file, task)
    named = find_named(f"image-small#{file}", task).model

    assert found.name == "image-small"
    assert torch.equal(loaded(image), module(image))
    assert isinstance(named, torch.nn.Module)
    assert torch.equal(named(image), module(image)), "by the name of its architecture too"


def test_a_damaged_or_foreign_checkpoint_is_refused(tmp_path: Path, task: Task) -> None:
    (tmp_path / "junk.safetensors").write_bytes(b"\x80\x04pickled")
    with pytest.raises(OperatorConfigError) as unreadable:
        load_checkpoint(tmp_path / "junk.safetensors", task)
    assert unreadable.value.reason == "checkpoint_unreadable"

    save_checkpoint(tmp_path / "other.safetensors", torch.nn.Linear(2, 2), "image-small")
    with pytest.raises(OperatorConfigError) as foreign:
        load_checkpoint(tmp_path / "other.safetensors", task)
    assert foreign.value.reason == "checkpoint_mismatch"


def test_a_changed_calibration_voids_the_certificate(built: BuildReport, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(built.bundle, copy)
    hotter = msgspec.structs.replace(built.manifest, calibration=Calibration(temperature=9.0))
    (copy / MANIFEST_FILE).write_bytes(encode_manifest(hotter))

    assert "changed" in load_model(copy).certified


def test_a_task_as_text_parses_to_the_same_task(task: Task) -> None:
    odd = parse_task(task_to_toml(task).replace('"red"', r'"ré\"d \\ \u007f\n日本 😀"'))

    assert parse_task(task_to_toml(task)) == task
    assert parse_task(task_to_toml(odd)) == odd
    spending = msgspec.structs.replace(
        task,
        budget=Budget(escalations_per_day=7, money_per_hour=0.5, price_per_escalation=0.002, when_spent="keep"),
        memory=Memory(enabled=True, max_distance=0.02),
    )
    assert parse_task(task_to_toml(spending)) == spending
    private = msgspec.structs.replace(
        task,
        inputs=[msgspec.structs.replace(task.inputs[0], first=FirstForm(kind="thumbnail", side=8)), *task.inputs[1:]],
        privacy=Privacy(
            redact=["email"],
            patterns={"plate": '[A-Z]\\d"'},
            parts={"image": PartPrivacy(blur=0.1, blur_boxes=[(0.0, 0.0, 0.5, 1.0)], crop=(0.0, 0.0, 1.0, 0.5))},
        ),
    )
    assert parse_task(task_to_toml(private)) == private
