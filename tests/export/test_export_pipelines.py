"""A fitted scikit-learn model becomes a bundle that says the same; pickles and what cannot be said in ONNX are refused."""

import sys
from pathlib import Path

import numpy as np
import pytest

from outrider_engine.model import load_model
from outrider_engine.session import OrtSession
from outrider_engine.walk import walk
from outrider_export.build import build_bundle
from outrider_export.data import Example, Table
from outrider_export.named import find_named
from outrider_wire.errors import OperatorConfigError
from outrider_wire.task import AnswerSpace, InputPart, Task

MODELS = """
import numpy as np
from sklearn.cluster import KMeans
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

draw = np.random.default_rng(0)
middles = {"idle": (0, 0, 0, 0), "fault": (3, 3, 0, 0), "full": (0, 3, 3, 3)}
names = draw.choice(list(middles), 600)
x = np.array([middles[name] for name in names]) + draw.normal(size=(600, 4))
logistic = Pipeline([("scale", StandardScaler()), ("say", LogisticRegression())]).fit(x, names)
forest = RandomForestClassifier(20, max_depth=6, random_state=0).fit(x, names)
untrained = LogisticRegression()
ridge = RidgeClassifier().fit(x, names)
clusters = KMeans(3, random_state=0).fit(x)
strange = Pipeline([("own", FunctionTransformer(np.sort)), ("say", LogisticRegression())]).fit(x, names)
"""
LABELS = ["idle", "full", "fault"]
TASK = Task(
    name="pump",
    inputs=[InputPart(name="sensors", modality="series")],
    answer=AnswerSpace(labels=LABELS),
)


@pytest.fixture(scope="module", autouse=True)
def models(tmp_path_factory: pytest.TempPathFactory) -> object:
    """The user's own module, on the path."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "fitted_models.py").write_text(MODELS)
    sys.path.insert(0, str(folder))
    import fitted_models

    yield fitted_models
    sys.path.remove(str(folder))


@pytest.mark.parametrize("name", ["logistic", "forest"])
def test_a_fitted_model_says_the_same_in_onnx_in_the_tasks_order(name: str, models: object) -> None:
    named = find_named(f"fitted_models:{name}", TASK)
    assert isinstance(named.model, bytes)
    walk(named.model)
    found, x = getattr(models, name), models.x.astype(np.float32)  # type: ignore[attr-defined]
    logits = OrtSession(named.model).run({"features": x})["logits"]
    theirs = found.predict_proba(x)[:, [list(found.classes_).index(label) for label in LABELS]]
    assert np.abs(np.exp(logits) / np.exp(logits).sum(1, keepdims=True) - theirs).max() < 1e-5


@pytest.mark.parametrize("name", ["logistic", "forest"])
def test_a_fitted_model_becomes_a_certified_bundle(name: str, models: object, tmp_path: Path) -> None:
    named = find_named(f"fitted_models:{name}", TASK)
    assert named.model is not None
    rows = Table.from_examples(
        Example({"sensors": row.astype("<f4").tobytes()}, LABELS.index(label), str(number))
        for number, (row, label) in enumerate(zip(models.x, models.names, strict=True))  # type: ignore[attr-defined]
    )
    built = build_bundle(
        task=TASK,
        model=named.model,
        architecture=named.architecture,
        tuning=rows.take(range(200)),
        certification=rows.take(range(200, 600)),
        out=tmp_path / "bundle",
        version="1",
        precisions=("fp32",),
    )
    assert built.manifest.certificate is not None
    assert "pipeline" in built.manifest.provenance
    model = load_model(built.bundle, bounds=TASK.inputs)
    said = model.infer([model.prepare({"sensors": np.asarray([3, 3, 0, 0], "<f4").tobytes()})])[0]
    assert model.labels[int(said.logits.argmax())] == "fault"


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("untrained", "is not fitted"),
        ("ridge", "RidgeClassifier, which gives no probabilities"),
        ("clusters", "KMeans, which gives no probabilities"),
        ("strange", "skl2onnx cannot convert"),
    ],
)
def test_what_cannot_be_a_model_is_refused(name: str, says: str) -> None:
    with pytest.raises(OperatorConfigError, match=says):
        find_named(f"fitted_models:{name}", TASK)


def test_other_labels_than_the_tasks_are_both_named() -> None:
    other = Task(name="pump", inputs=TASK.inputs, answer=AnswerSpace(labels=["on", "off"]))
    with pytest.raises(OperatorConfigError, match=r"answers 'fault', 'full', 'idle', and task pump has 'on', 'off'"):
        find_named("fitted_models:logistic", other)


def test_numbers_are_not_read_from_a_picture() -> None:
    pictures = Task(name="pump", inputs=[InputPart(name="p", modality="image")], answer=TASK.answer)
    with pytest.raises(OperatorConfigError, match="reads numbers, and task pump has image"):
        find_named("fitted_models:logistic", pictures)


@pytest.mark.parametrize("file", ["model.pkl", "model.joblib", "model.PICKLE"])
def test_a_pickle_is_never_read_and_the_way_out_is_named(file: str, tmp_path: Path) -> None:
    (tmp_path / file).write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(OperatorConfigError, match="reading one runs whatever it holds") as refused:
        find_named(str(tmp_path / file), TASK)
    assert "mine:model" in refused.value.fix
