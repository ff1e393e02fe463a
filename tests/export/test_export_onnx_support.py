"""A checkpoint's support distance: what it was never shown is refused, what it knows is not, and without inputs it says so."""

import io
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import tiny_checkpoints
from checkpoint_world import colours, picture_teacher, pitches, topics
from PIL import Image
from waves import wav

from outrider.exporting import Export
from outrider.wanted import Wanted
from outrider_engine.model import Model, load_model
from outrider_engine.session import OrtSession
from outrider_engine.tokenizing import encoders_from
from outrider_export.build import BuildReport, build_bundle
from outrider_export.data import Table, Tensors
from outrider_export.named import Named, find_named
from outrider_export.onnx_support import LEAST_ROWS, with_support
from outrider_export.parity import run_rows
from outrider_export.promises import FALSE_ALARMS
from outrider_export.sources import from_folder, from_pile, task_from_folder
from outrider_export.split import split
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.roles import DEFAULT_SHARES
from outrider_wire.steps import Preparer
from outrider_wire.task import Task


def picture(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(values.astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hues")


@pytest.fixture(scope="module")
def hues(root: Path) -> tuple[Named, Task, Table]:
    """A tiny ViT that has learnt three colours, and 900 coloured squares."""
    task = task_from_folder(colours(root / "data", 900), "hues")
    teacher = picture_teacher(root / "teacher", root / "data", task)
    return find_named(str(teacher), task), task, from_folder(root / "data", task)


def built(hues: tuple[Named, Task, Table], out: Path, *, fitted: bool, tuning: int = 1000) -> BuildReport:
    named, task, table = hues
    assert named.model is not None
    tables = split(table, key="k", shares=DEFAULT_SHARES)
    return build_bundle(
        task=task,
        model=named.model,
        architecture=named.architecture,
        tuning=tables["tuning"].take(np.arange(min(tuning, len(tables["tuning"])))),
        certification=tables["certification"],
        support=tables["train"] if fitted else None,
        out=out,
        version="1",
    )


@pytest.fixture(scope="module")
def known(hues: tuple[Named, Task, Table], tmp_path_factory: pytest.TempPathFactory) -> BuildReport:
    return built(hues, tmp_path_factory.mktemp("built") / "bundle", fitted=True)


def refused(model: Model, pictures: list[bytes]) -> float:
    limit = model.manifest.acceptance.support_threshold
    assert limit is not None
    said = [model.infer([model.prepare({"image": each})])[0].support for each in pictures]
    return float(np.mean([each is not None and each > limit for each in said]))


def test_foreign_pictures_are_refused_by_every_variant_and_known_ones_kept(known: BuildReport) -> None:
    draw = np.random.default_rng(3)
    foreign = {
        "blank": [picture(np.full((16, 16, 3), grey)) for grey in (0, 128, 255)],
        "noise": [picture(draw.integers(0, 256, (16, 16, 3))) for _ in range(20)],
        "stripes": [picture(np.where(np.arange(16)[:, None, None] % 2, 220, 30) * np.ones((16, 16, 3)))],
        "half and half": [picture(np.where(np.arange(16)[:, None, None] < 8, [220, 30, 30], [30, 30, 220]) * np.ones((16, 16, 1)))],
    }  # fmt: skip
    assert [each.name for each in known.manifest.variants] == ["int8", "fp32"], "8 bits keep the distance"
    for variant in ("int8", "fp32"):
        model = load_model(known.bundle, variant=variant)
        assert {name: refused(model, pictures) for name, pictures in foreign.items()} == dict.fromkeys(foreign, 1.0)
    assert known.certified.support_false_alarm is not None
    assert known.certified.support_false_alarm <= 5 * FALSE_ALARMS


def test_the_manifest_declares_the_distance_and_what_it_is_taken_on(known: BuildReport) -> None:
    assert known.manifest.outputs.support == "support"
    said = known.manifest.provenance["support"]
    assert re.fullmatch(r"distances on input and first layer and last layer, fitted on [0-9]{3} inputs", said)
    model = onnx.load(known.bundle / "model.fp32.onnx")
    assert [output.name for output in model.graph.output] == ["logits", "support"]


def test_with_too_few_inputs_there_is_none_and_the_manifest_and_the_report_say_how_to_get_one(
    hues: tuple[Named, Task, Table], tmp_path: Path
) -> None:
    report = built(hues, tmp_path / "bundle", fitted=False, tuning=LEAST_ROWS - 10)
    assert report.manifest.outputs.support is None
    assert "give --calibrate DIR" in report.manifest.provenance["support"]
    assert report.manifest.provenance["support"] in report.sentences


def test_a_folder_that_is_named_with_calibrate_gives_one_to_an_export_of_few_rows(
    hues: tuple[Named, Task, Table], root: Path, tmp_path: Path
) -> None:
    few, wanted = colours(tmp_path / "few", 60, seed=9), Wanted(variants=["fp32"])
    found = {}
    for name, pile in (("without", None), ("with", root / "data")):
        export = Export(source=str(root / "teacher"), task=hues[1], data=few, calibrate=pile)
        report, _ = export.build(
            tmp_path / name, version="1", wanted=wanted, label_source="ground_truth", tell=lambda *_: None
        )
        found[name] = report.manifest.outputs.support
    assert found == {"without": None, "with": "support"}


def test_the_rows_that_choose_or_certify_do_not_say_what_is_known(
    hues: tuple[Named, Task, Table], root: Path, tmp_path: Path
) -> None:
    """Of the very folder that certifies nothing is left; of that folder and more, the more."""
    few = colours(tmp_path / "few", 60, seed=9)
    with pytest.raises(RuleRefusalError) as refusal:
        Export(source=str(root / "teacher"), task=hues[1], data=few, calibrate=few)
    assert refusal.value.reason == "roles_overlap"
    shutil.copytree(few, tmp_path / "more")
    for each in colours(tmp_path / "others", 90, seed=10).rglob("*.png"):
        shutil.copy(each, tmp_path / "more/blue" / f"other-{each.name}")
    export = Export(source=str(root / "teacher"), task=hues[1], data=few, calibrate=tmp_path / "more")
    report, _ = export.build(
        tmp_path / "out",
        version="1",
        wanted=Wanted(variants=["fp32"]),
        label_source="ground_truth",
        tell=lambda *_: None,
    )
    mine, others = ({each.read_bytes() for each in where.rglob("*.png")} for where in (few, tmp_path / "others"))
    assert report.manifest.provenance["support"].endswith(f"fitted on {len(others - mine)} inputs")


def test_the_same_inputs_give_the_same_bytes_and_the_logits_stay(hues: tuple[Named, Task, Table]) -> None:
    named, task, table = hues
    assert isinstance(named.model, bytes)
    rows = table.tensors(named.architecture.inputs(task), task.inputs)
    first, _ = with_support(named.model, named.architecture.inputs(task), rows)
    assert with_support(named.model, named.architecture.inputs(task), rows)[0] == first
    assert with_support(first, named.architecture.inputs(task), rows)[0] == first, "a model that brings one keeps it"
    plain, watched = (run_rows(OrtSession(each), rows)["logits"] for each in (named.model, first))
    assert np.abs(plain - watched).max() < 1e-5


def words(root: Path, n: int) -> tuple[Named, Task, Tensors]:
    tiny_checkpoints.text_classifier(root / "bert", ["politics", "space", "sport"])
    task = task_from_folder(topics(root / "texts", n), "topics")
    return prepared(find_named(f"{root / 'bert'}#tokens=16", task), task, root / "texts")


def sounds(root: Path, n: int, *, waves: bool) -> tuple[Named, Task, Tensors]:
    labels = ["high", "low", "middle"]
    make = tiny_checkpoints.wave_classifier if waves else tiny_checkpoints.audio_classifier
    make(root / "ear", labels)
    task = task_from_folder(pitches(root / "sounds", n), "pitches")
    return prepared(find_named(f"{root / 'ear'}{'#seconds=0.5' if waves else ''}", task), task, root / "sounds")


def prepared(named: Named, task: Task, data: Path) -> tuple[Named, Task, Tensors]:
    inputs = named.architecture.inputs(task)
    encoders = encoders_from(inputs, named.architecture.files)
    return named, task, from_folder(data, task).tensors(inputs, task.inputs, encoders=encoders)


HISS = wav(np.random.default_rng(5).normal(0, 0.3, 8000))
SILENCE = wav(np.zeros(8000))
OTHERS: dict[str, tuple[Callable[[Path], tuple[Named, Task, Tensors]], list[bytes | str], str]] = {
    "texts": (lambda root: words(root, 300), ["- " * 16, "minute " * 16], "words and last layer"),
    "spectrograms": (lambda root: sounds(root, 200, waves=False), [HISS, SILENCE], "input and first layer and last layer"),
    "samples": (lambda root: sounds(root, 200, waves=True), [HISS, SILENCE], "input and first layer and last layer"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_texts_and_sounds_have_a_distance_too(kind: str, tmp_path: Path) -> None:
    make, foreign, views = OTHERS[kind]
    named, task, rows = make(tmp_path)
    assert isinstance(named.model, bytes)
    inputs = named.architecture.inputs(task)
    order = np.random.default_rng(0).permutation(len(rows))
    model, watched = with_support(named.model, inputs, rows.take(order[: len(rows) // 2]))
    assert watched.says.startswith(f"distances on {views}, fitted on ")
    unseen = run_rows(OrtSession(model), rows.take(order[len(rows) // 2 :]))["support"]
    assert (unseen > 1).mean() <= 0.1
    assert min(_supports(model, named, task, foreign)) > 1


def _supports(model: bytes, named: Named, task: Task, values: list[bytes | str]) -> list[float]:
    inputs = named.architecture.inputs(task)
    preparer = Preparer(inputs, encoders=encoders_from(inputs, named.architecture.files))
    session = OrtSession(model)
    fed = [preparer.prepare({task.inputs[0].name: value}) for value in values]
    return [float(session.run({name: each[None] for name, each in feeds.items()})["support"][0]) for feeds in fed]


def test_a_pile_of_files_without_labels_says_what_a_model_knows(
    hues: tuple[Named, Task, Table], tmp_path: Path
) -> None:
    _, task, table = hues
    for place, folder in enumerate((tmp_path, tmp_path / "more")):
        folder.mkdir(exist_ok=True)
        for row in range(3):
            (folder / f"{row}.png").write_bytes(bytes(table.parts(3 * place + row)["image"]))  # type: ignore[arg-type]
    pile = from_pile(tmp_path, task)
    assert len(pile) == len({bytes(table.parts(row)["image"]) for row in range(6)})  # type: ignore[arg-type]
    assert set(pile.labels.tolist()) == {-1}
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(OperatorConfigError, match="no rows"):
        from_pile(empty, task)
