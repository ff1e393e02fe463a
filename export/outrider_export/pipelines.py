"""A fitted scikit-learn classifier or pipeline becomes ONNX bytes by skl2onnx. Unpickles nothing: it comes from the user's own module."""

import importlib
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from outrider_export.graphs import settled, with_log
from outrider_export.huggingface.folder import label_order
from outrider_export.students import LARGE_PLAN, Architecture
from outrider_wire.errors import OperatorConfigError, OperatorSetupError
from outrider_wire.manifest import ModelInput, Step
from outrider_wire.task import Task

INSTALL = "pip install outrider[sklearn]"
PICKLES = frozenset({".pkl", ".pickle", ".joblib", ".skops", ".sav", ".p"})
_OPSET = {"": 18, "ai.onnx.ml": 3}
_TENSOR = "features"


def is_pipeline(found: object) -> bool:
    """Whether an object is a scikit-learn estimator; asks no library that is not loaded."""
    return any(base.__module__.partition(".")[0] == "sklearn" for base in type(found).__mro__)


def refuse_pickle(text: str) -> None:
    """A file that only unpickling would read is refused, with the way that leaves the unpickling to its owner.

    Raises:
        OperatorConfigError: it is one by its name.
    """
    if Path(text).suffix.lower() in PICKLES:
        raise OperatorConfigError(
            f"{text} is a pickle, and reading one runs whatever it holds",
            reason="pickled_model",
            fix=f"where you trust it: echo 'import joblib; model = joblib.load(\"{text}\")' > mine.py, and name mine:model",
        )


def adopt_pipeline(found: Any, name: str, task: Task) -> tuple[Architecture, bytes]:
    """What `outrider_export.build.build_bundle` takes of a fitted classifier: its numbers are one part, its classes the labels.

    Raises:
        OperatorConfigError: not fitted, no classifier, other labels than the task's, or something that skl2onnx cannot say.
        OperatorSetupError: skl2onnx is missing.
    """
    part = _part(name, task)
    if not hasattr(found, "predict_proba") or not hasattr(found, "classes_") or not hasattr(found, "n_features_in_"):
        raise OperatorConfigError(
            f"{name} is a {type(found).__name__}, which gives no probabilities, or is not fitted",
            reason="no_classifier",
            fix="fit a classifier with predict_proba (LogisticRegression, RandomForestClassifier, a Pipeline that ends in one)",
        )
    features = int(found.n_features_in_)
    order = label_order([str(label) for label in found.classes_], task, name)
    model = _converted(found, name, features)
    logits = with_log(model, model.graph.output[1].name)
    data = settled(model, {_TENSOR: [features]}, logits=logits, order=order)
    steps = [Step(op="decode_series", args={"channels": features}), Step(op="flatten")]
    inputs = [ModelInput(part=part, tensor=_TENSOR, steps=steps, shape=[features])]
    architecture = Architecture(
        name=name, inputs=lambda _: inputs, build=_not_trainable, plan=LARGE_PLAN, notes=_notes(found)
    )
    return architecture, data


def _part(name: str, task: Task) -> str:
    if [part.modality for part in task.inputs] != ["series"]:
        raise OperatorConfigError(
            f"{name} reads numbers, and task {task.name} has {', '.join(part.modality for part in task.inputs)}",
            reason="wrong_parts",
            fix="give the task one part of modality series",
        )
    return task.inputs[0].name


def _converted(found: Any, name: str, features: int) -> onnx.ModelProto:
    try:
        library = importlib.import_module("skl2onnx")
        types = importlib.import_module("skl2onnx.common.data_types")
    except ImportError as error:
        raise OperatorSetupError(
            f"a scikit-learn model needs skl2onnx: {error}", reason="no_skl2onnx", fix=INSTALL
        ) from error
    try:
        model: onnx.ModelProto = library.convert_sklearn(
            found,
            initial_types=[(_TENSOR, types.FloatTensorType([None, features]))],
            target_opset=_OPSET,
            options={id(found): {"zipmap": False}},
        )
    except Exception as error:
        raise OperatorConfigError(
            f"skl2onnx cannot convert {name}: {type(error).__name__}: {str(error).strip().splitlines()[0][:300]}",
            reason="pipeline_unconvertible",
            fix="leave out the step that it names, or do that step before the numbers reach the model",
        ) from error
    return model


def _notes(found: Any) -> Mapping[str, str]:
    steps: Sequence[Any] = [step for _, step in getattr(found, "steps", [("", found)])]
    versions = {each: metadata.version(each) for each in ("scikit-learn", "skl2onnx")}
    return {**versions, "pipeline": " > ".join(type(step).__name__ for step in steps)}


def _not_trainable(task: Task) -> nn.Module:
    raise OperatorConfigError(
        f"a scikit-learn model is not trained here, and {task.name} asks for that",
        reason="not_trainable",
        fix="fit it before it is exported",
    )
