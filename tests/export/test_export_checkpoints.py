"""A Hugging Face checkpoint becomes the model and the steps of a bundle; what cannot be used is refused by name."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch
import transformers
from checkpoint_world import colours, picture_teacher, pitches, topics

from outrider_engine.model import load_model
from outrider_engine.selftest import run_selftest
from outrider_engine.session import OrtSession
from outrider_engine.tokenizing import encoders_from
from outrider_engine.walk import walk
from outrider_export.build import build_bundle
from outrider_export.huggingface.adopting import adopt_checkpoint
from outrider_export.huggingface.folder import CONFIG, PICKLED, SAFE
from outrider_export.huggingface.weights import safe_folder
from outrider_export.named import find_named
from outrider_export.parity import run_rows
from outrider_export.sources import from_folder, task_from_folder
from outrider_export.split import split
from outrider_wire.errors import BundleUnsafeError, OperatorConfigError, OutriderError
from outrider_wire.roles import DEFAULT_SHARES
from outrider_wire.task import AnswerSpace, InputPart, Task

LABELS = ["blue", "green", "red"]


def task_of(modality: str, labels: list[str] | None = None) -> Task:
    return Task(
        name="t",
        inputs=[InputPart(name=modality, modality=modality)],  # type: ignore[arg-type]
        answer=AnswerSpace(labels=labels or LABELS),
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Task, Path]:
    """A teacher, its task, its data."""
    root = tmp_path_factory.mktemp("pictures")
    data = colours(root / "hues", 240)
    task = task_from_folder(data, "hues")
    return picture_teacher(root / "teacher", data, task), task, data


def test_a_picture_classifier_answers_in_the_tasks_order_of_labels(pictures: tuple[Path, Task, Path]) -> None:
    teacher, task, data = pictures
    named = find_named(str(teacher), task)
    assert isinstance(named.model, bytes)
    rows = from_folder(data, task).tensors(named.architecture.inputs(task))
    found = run_rows(OrtSession(named.model), rows)["logits"]
    assert (found.argmax(1) == rows.labels).mean() > 0.95
    module = transformers.ViTForImageClassification.from_pretrained(teacher).eval()
    with torch.inference_mode():
        theirs = module(torch.from_numpy(rows.batch(slice(None))["pixel_values"])).logits.numpy()
    assert list(module.config.id2label.values()) == list(reversed(task.labels))
    assert np.abs(found - theirs[:, ::-1]).max() < 1e-4


def test_the_bundle_of_a_picture_classifier_runs_in_the_limited_child_and_says_where_it_is_from(
    pictures: tuple[Path, Task, Path], tmp_path: Path
) -> None:
    teacher, task, data = pictures
    named, tables = find_named(str(teacher), task), split(from_folder(data, task), key="k", shares=DEFAULT_SHARES)
    tuning, certification = tables["tuning"], tables["certification"]
    assert named.model is not None
    digests = [
        build_bundle(
            task=task,
            model=named.model,
            architecture=named.architecture,
            tuning=tuning,
            certification=certification,
            out=tmp_path / name,
            version="1",
            precisions=("fp32",),
        ).digest
        for name in ("one", "two")
    ]
    assert digests[0] == digests[1]
    manifest = load_model(tmp_path / "one").manifest
    assert manifest.provenance["checkpoint_architecture"] == "ViTForImageClassification"
    assert run_selftest(tmp_path / "one").ok


def test_a_text_classifier_takes_its_tokenizer_along_and_answers_texts_on_a_device(tmp_path: Path) -> None:
    tiny_checkpoints.text_classifier(tmp_path / "bert", ["politics", "space", "sport"])
    data = topics(tmp_path / "texts", 120)
    task = task_from_folder(data, "topics")
    named, rows = find_named(f"{tmp_path / 'bert'}#tokens=16", task), from_folder(data, task)
    assert isinstance(named.model, bytes)
    built = build_bundle(
        task=task,
        model=named.model,
        architecture=named.architecture,
        tuning=rows.take(range(60)),
        certification=rows.take(range(60, 120)),
        out=tmp_path / "bundle",
        version="1",
        precisions=("fp32",),
    )
    model = load_model(built.bundle, bounds=task.inputs)
    text = "a goal in the last minute"
    said = model.infer([model.prepare({"text": text})])[0]
    bert = transformers.BertForSequenceClassification.from_pretrained(tmp_path / "bert").eval()
    tokens = transformers.AutoTokenizer.from_pretrained(tmp_path / "bert")(text, return_tensors="pt")
    with torch.inference_mode():
        theirs = bert(**tokens).logits[0].numpy()
    assert np.abs(said.logits - theirs).max() < 1e-4, "padding changes nothing"
    assert {entry.path: entry.role for entry in built.manifest.files}["tokenizer.json"] == "tokenizer"
    assert model.infer([model.prepare({"text": "żółw"})])[0].support == np.inf, "no word of it is known"
    assert run_selftest(built.bundle).ok


@pytest.mark.parametrize(
    ("make", "name", "shape"),
    [
        (lambda folder: tiny_checkpoints.audio_classifier(folder, LABELS), "", (48, 32)),
        (lambda folder: tiny_checkpoints.wave_classifier(folder, LABELS), "#seconds=0.5", (8000,)),
        (lambda folder: tiny_checkpoints.wave_classifier(folder, LABELS, masked=True), "#seconds=0.25", (4000,)),
    ],
)
def test_a_sound_classifier_hears_what_its_extractor_makes(
    make: Callable[[Path], Path], name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    make(tmp_path / "ear")
    named = find_named(f"{tmp_path / 'ear'}{name}", task_of("audio"))
    assert isinstance(named.model, bytes)
    assert walk(named.model).inputs[0].shape == ("batch", *shape)
    data = pitches(tmp_path / "sounds", 9)
    rows = from_folder(data, task_from_folder(data, "s")).tensors(named.architecture.inputs(task_of("audio")))
    assert run_rows(OrtSession(named.model), rows)["logits"].shape == (9, 3)


def test_an_encoder_gets_a_head_that_is_trained_on_labelled_rows(tmp_path: Path) -> None:
    tiny_checkpoints.text_encoder(tmp_path / "encoder")
    data = topics(tmp_path / "texts", 600)
    task = task_from_folder(data, "topics")
    named = find_named(str(tmp_path / "encoder"), task)
    assert named.model is None and named.finish is not None
    inputs = named.architecture.inputs(task)
    rows = from_folder(data, task).tensors(inputs, encoders=encoders_from(inputs, named.architecture.files))
    shuffled = np.random.default_rng(0).permutation(len(rows))
    train, test = rows.take(shuffled[:450]), rows.take(shuffled[450:])
    whole = named.finish(train)
    by_chance = named.finish(replace(train, labels=np.random.default_rng(1).permutation(train.labels)))
    right, control = (
        (run_rows(OrtSession(each), test)["logits"].argmax(1) == test.labels).mean() for each in (whole, by_chance)
    )
    assert right > 0.6, "words of a topic leave a trace in the mean of a random encoder's states"
    assert control < 0.5, "and a head of shuffled labels finds none"
    assert named.finish(train) == whole


def pickled(folder: Path) -> Path:
    """The tiny ViT, its weights as PyTorch pickles them."""
    tiny_checkpoints.image_classifier(folder, LABELS)
    module = transformers.ViTForImageClassification.from_pretrained(folder)
    (folder / SAFE).unlink()
    torch.save(module.state_dict(), folder / PICKLED)
    return folder


def test_a_pickled_checkpoint_is_converted_in_a_child_and_gives_the_same_model(tmp_path: Path) -> None:
    tiny_checkpoints.image_classifier(tmp_path / "safe", LABELS)
    before = adopt_checkpoint(tmp_path / "safe", task_of("image"))
    after = adopt_checkpoint(pickled(tmp_path / "pickle"), task_of("image"))
    assert before.model == after.model
    assert sorted(each.name for each in (tmp_path / "pickle").iterdir()) == [
        CONFIG,
        "preprocessor_config.json",
        PICKLED,
    ]


class Touch:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def _bomb(file: Path) -> None:
    """A few hundred kilobytes that unpack to 256 MB."""
    torch.save({"a": torch.zeros(64 << 20)}, file.with_name("plain"))
    with zipfile.ZipFile(file.with_name("plain")) as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    file.with_name("plain").unlink()
    assert file.stat().st_size < 1 << 20


HOSTILE: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "runs code": (lambda file, mark: torch.save({"a": Touch(mark)}, file), "more than tensors"),
    "runs code in the old format": (
        lambda file, mark: file.write_bytes(pickle.dumps(Touch(mark))),
        "more than tensors",
    ),
    "is no pickle": (lambda file, _: file.write_bytes(b"\x80\x04garbage"), "does not load|more than tensors"),
    "is empty": (lambda file, _: file.write_bytes(b""), "does not load"),
    "holds a list": (lambda file, _: torch.save([torch.zeros(2)], file), "holds a list"),
    "holds numbers": (lambda file, _: torch.save({"a": 7}, file), "no plain tensor"),
    "holds a huge view": (
        lambda file, _: torch.save({"a": torch.zeros(1).expand(1 << 34)}, file),
        "memory|does not load",
    ),
    "unpacks to more": (lambda file, _: _bomb(file), "memory|does not load"),
}


SELDOM = {"is empty", "is no pickle", "holds a list", "holds numbers"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in HOSTILE]
)
def test_a_hostile_pickle_is_refused_and_runs_nothing(name: str, tmp_path: Path) -> None:
    make, says = HOSTILE[name]
    (tmp_path / CONFIG).write_text("{}")
    make(tmp_path / PICKLED, tmp_path / "ran")
    (tmp_path / "work").mkdir()
    with pytest.raises(BundleUnsafeError, match=says) as refused:
        safe_folder(tmp_path, tmp_path / "work", spare_mb=200)
    assert "weights_only=True" in refused.value.fix
    assert not (tmp_path / "ran").exists()


def test_a_pickle_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    pickled(tmp_path / "slow")
    (tmp_path / "work").mkdir()
    with pytest.raises(BundleUnsafeError, match=r"took more than 0\.05 s"):
        safe_folder(tmp_path / "slow", tmp_path / "work", wall_s=0.05)


def _config(change: dict[str, object]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        file = folder / CONFIG
        file.write_text(json.dumps({**json.loads(file.read_text()), **change}))

    return apply


def _headless(folder: Path) -> None:
    tensors = {}
    from safetensors.torch import load_file, save_file

    tensors = {name: tensor for name, tensor in load_file(folder / SAFE).items() if "classifier" not in name}
    save_file(tensors, folder / SAFE, metadata={"format": "pt"})


def _sharded(folder: Path) -> None:
    shutil.move(folder / SAFE, folder / "x")
    (folder / f"{SAFE}.index.json").write_text('{"weight_map": {"a": "../x"}}')


SPOILT: dict[str, tuple[Callable[[Path], None], str]] = {
    "labels of another task": (_config({"id2label": {"0": "cat", "1": "dog", "2": "emu"}}), "'cat', 'dog', 'emu', and task t has 'blue'"),
    "too few labels": (_config({"id2label": {"0": "blue", "1": "green"}}), "answers 'blue', 'green', and task t has"),
    "labels with a hole": (_config({"id2label": {"0": "blue", "2": "red"}}), "names 2 labels"),
    "another architecture": (_config({"architectures": ["ViTForMaskedImageModeling"]}), "ViTForMaskedImageModeling"),
    "no architecture": (_config({"architectures": None}), "no stated architecture"),
    "an unknown type": (_config({"model_type": "zzz"}), r"'zzz'\), which is not mapped"),
    "code of its own": (_config({"auto_map": {"AutoModel": "x--y.Z"}}), "code of its own"),
    "several labels at once": (_config({"problem_type": "multi_label_classification"}), "multi_label_classification"),
    "a size without bound": (_config({"hidden_size": 10**12}), "asks for hidden_size"),
    "a size of a part": (_config({"vision_config": {"hidden_size": 10**12}}), "asks for hidden_size"),
    "a size of a stage": (_config({"hidden_sizes": [8, 10**12]}), "asks for hidden_sizes"),
    "layers without end": (_config({"num_hidden_layers": 10**6}), "asks for num_hidden_layers"),
    "a configuration that is none": (lambda folder: (folder / CONFIG).write_text("[1"), "cannot be read"),
    "no image processor": (lambda folder: (folder / "preprocessor_config.json").unlink(), "no preprocessor_config.json"),
    "a processor that is none": (lambda folder: (folder / "preprocessor_config.json").write_text("{}"), r"224\*224.* doesn't match model"),
    "no weights": (lambda folder: (folder / SAFE).unlink(), "neither model.safetensors nor"),
    "half of the weights": (lambda folder: (folder / SAFE).write_bytes((folder / SAFE).read_bytes()[:1000]), "do not load"),
    "weights of another size": (_config({"hidden_size": 32}), "do not load|lacks weights"),
    "no head": (_headless, "lacks weights of ViTForImageClassification: classifier"),
    "shards that are not there": (_sharded, "'../x', which are not there"),
}  # fmt: skip


@pytest.mark.parametrize("name", SPOILT)
def test_a_checkpoint_that_cannot_be_used_is_refused_and_the_reason_named(name: str, tmp_path: Path) -> None:
    spoil, says = SPOILT[name]
    spoil(tiny_checkpoints.image_classifier(tmp_path, LABELS))
    with pytest.raises(OutriderError, match=says):
        adopt_checkpoint(tmp_path, task_of("image"))


def test_a_text_checkpoint_without_a_tokenizer_file_is_refused_with_the_command_that_writes_one(tmp_path: Path) -> None:
    (tiny_checkpoints.text_classifier(tmp_path, LABELS) / "tokenizer.json").unlink()
    with pytest.raises(OperatorConfigError, match=r"no tokenizer\.json") as refused:
        adopt_checkpoint(tmp_path, task_of("text"))
    assert "AutoTokenizer" in refused.value.fix


def test_a_checkpoint_of_texts_is_no_model_of_pictures(tmp_path: Path) -> None:
    with pytest.raises(OperatorConfigError, match="one part of text, and task t has image"):
        adopt_checkpoint(tiny_checkpoints.text_classifier(tmp_path, LABELS), task_of("image"))


@pytest.mark.parametrize("option", ["tokens=0", "tokens=many", "seconds=1e9", "layers=3", "tokens=65"])
def test_an_option_that_cannot_be_is_refused(option: str, tmp_path: Path) -> None:
    tiny_checkpoints.text_classifier(tmp_path, LABELS)
    with pytest.raises(OperatorConfigError):
        find_named(f"{tmp_path}#{option}", task_of("text"))
