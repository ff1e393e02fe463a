"""A loaded model prepares, answers with calibrated probabilities, and says whether its certificate may be claimed."""

import math
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from factory import COLOURS, LABELS, foreign, make_bundle, make_task, parts_of, png, sure, unsure
from outrider_engine.bundle import open_bundle
from outrider_engine.model import Model, load_model
from outrider_engine.session import Feeds
from outrider_engine.walk import TensorFact
from outrider_wire.errors import BundleDamagedError, BundleMismatchError, BundleUnsafeError, CallerInputError

BUNDLES = Path(__file__).parents[1] / "assets" / "bundles"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_model(make_bundle(tmp_path_factory.mktemp("model") / "b"), bounds=make_task().inputs)


class ConstantSession:
    """A runtime that gives what it is told to; the fake of `outrider_engine.session.Session`."""

    provider = "CPUExecutionProvider"
    passed_over = ()

    def __init__(self, outputs: Callable[[int], dict[str, np.ndarray]], batch: int | str = "batch") -> None:
        self.inputs = [TensorFact("pixels", "float32", (batch, 3, 32, 32)), TensorFact("words", "float32", (batch, 96))]
        self.batches: list[int] = []
        self._outputs = outputs

    def run(self, feeds: Feeds) -> dict[str, np.ndarray]:
        self.batches.append(len(feeds["pixels"]))
        return self._outputs(len(feeds["pixels"]))


def _with(model: Model, session: ConstantSession) -> Model:
    return Model(bundle=model.bundle, session=session, variant=model.variant)


def _example(model: Model, image: bytes | None = None) -> dict[str, np.ndarray]:
    return model.prepare(parts_of(image or sure(0)))


@pytest.mark.parametrize("label", range(len(LABELS)))
def test_an_image_of_a_labels_colour_is_answered_with_that_label(model: Model, label: int) -> None:
    inference = model.infer([_example(model, sure(label))])[0]
    assert int(inference.probabilities.argmax()) == label
    verdict = model.judge(inference, {})
    assert verdict.accepted and verdict.score > 0.99


@pytest.mark.parametrize(("image", "why"), [(unsure(), "low_confidence"), (foreign(), "unsupported")])
def test_an_unclear_or_a_foreign_image_is_refused_by_the_bundles_own_rule(model: Model, image: bytes, why: str) -> None:
    inference = model.infer([_example(model, image)])[0]
    assert model.judge(inference, {}).why == why


def test_a_question_of_which_nothing_is_read_has_no_support(model: Model) -> None:
    inference = model.infer([model.prepare(parts_of(sure(0), "何色ですか"))])[0]
    assert inference.support == math.inf
    assert model.judge(inference, {}).why == "unsupported"


def test_a_batch_gives_the_answers_of_its_examples_in_order(model: Model) -> None:
    examples = [_example(model, png(colour)) for colour in COLOURS]
    alone = [model.infer([example])[0] for example in examples]
    together = model.infer(examples)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one.logits, other.logits, atol=1e-4)
        assert one.support == pytest.approx(other.support, abs=1e-6)
    assert model.infer([]) == []


def test_a_model_of_fixed_batch_one_answers_a_batch_one_by_one(model: Model) -> None:
    session = ConstantSession(lambda n: {"logits": np.zeros((n, 3), np.float32), "support": np.zeros(n)}, batch=1)
    assert len(_with(model, session).infer([_example(model)] * 3)) == 3
    assert session.batches == [1, 1, 1]


def test_probabilities_are_the_softmax_of_logits_over_the_temperature(tmp_path: Path) -> None:
    bundle = open_bundle(make_bundle(tmp_path / "b"))
    warm = msgspec.structs.replace(
        bundle.manifest, calibration=msgspec.structs.replace(bundle.manifest.calibration, temperature=4.0)
    )
    session = ConstantSession(lambda n: {"logits": np.array([[8.0, 4.0, 0.0]]), "support": np.zeros(n)})
    model = Model(
        bundle=type(bundle)(root=bundle.root, manifest=warm, digest=""), session=session, variant=bundle.variant()
    )
    expected = np.exp([2, 1, 0]) / np.exp([2, 1, 0]).sum()
    np.testing.assert_allclose(model.infer([_example(model)])[0].probabilities, expected)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_logit_that_is_no_number_is_an_error_of_the_bundle(model: Model, bad: float) -> None:
    session = ConstantSession(lambda n: {"logits": np.array([[0, bad, 0]]), "support": np.zeros(n)})
    with pytest.raises(BundleMismatchError) as refusal:
        _with(model, session).infer([_example(model)])
    assert refusal.value.reason == "not_finite"


@pytest.mark.parametrize(
    "outputs",
    [
        {"logits": np.zeros((1, 4)), "support": np.zeros(1)},
        {"logits": np.zeros(3), "support": np.zeros(1)},
        {"logits": np.zeros((1, 3)), "support": np.zeros(2)},
        {"logits": np.zeros((1, 3))},
        {"support": np.zeros(1)},
    ],
)
def test_outputs_of_another_shape_are_an_error_of_the_bundle(model: Model, outputs: dict[str, np.ndarray]) -> None:
    with pytest.raises(BundleMismatchError) as refusal:
        _with(model, ConstantSession(lambda _: outputs)).infer([_example(model)])
    assert refusal.value.reason == "model_mismatch"


def test_a_part_that_is_no_image_is_the_callers_error(model: Model) -> None:
    with pytest.raises(CallerInputError) as refusal:
        model.prepare(parts_of(b"not an image"))
    assert refusal.value.part == "image"


def test_a_certificate_counts_for_the_provider_that_really_runs(model: Model) -> None:
    assert model.certified == ""
    session = ConstantSession(lambda n: {})
    session.provider = "CUDAExecutionProvider"
    other = _with(model, session)
    assert "CUDAExecutionProvider" in other.certified
    assert other.variant.provider == "CUDAExecutionProvider"


def test_a_certificate_of_another_rule_is_void_and_the_model_still_answers() -> None:
    assert "changed since it was certified" in load_model(BUNDLES / "certificate-of-another-rule").certified


def test_a_bundle_without_a_certificate_says_so(tmp_path: Path) -> None:
    model = load_model(make_bundle(tmp_path / "b", certified=False))
    assert "no certificate" in model.certified
    assert model.manifest.acceptance.threshold is None


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("external-data", BundleUnsafeError, "external_data"),
        ("foreign-operator", BundleUnsafeError, "foreign_operator"),
        ("more-labels-than-logits", BundleMismatchError, "model_mismatch"),
        ("tensor-that-the-model-lacks", BundleMismatchError, "model_mismatch"),
        ("flipped-byte", BundleDamagedError, "file_digest"),
    ],
)
def test_a_bundle_whose_model_is_unsafe_or_does_not_fit_is_not_loaded(name: str, kind: type, reason: str) -> None:
    with pytest.raises(kind) as refusal:
        load_model(BUNDLES / name)
    assert refusal.value.reason == reason


def test_a_bias_changes_what_the_factorys_model_says(tmp_path: Path) -> None:
    """Other rooms' tests tell two releases apart by it."""
    model = load_model(make_bundle(tmp_path / "b", bias=60.0))
    assert int(model.infer([_example(model, sure(2))])[0].probabilities.argmax()) == 0


def test_a_text_only_bundle_answers_from_the_question(tmp_path: Path) -> None:
    model = load_model(make_bundle(tmp_path / "b", text_only=True))
    inference = model.infer([model.prepare(parts_of(question="is it green?"))])[0]
    assert model.judge(inference, {}).accepted
    assert model.labels[int(inference.probabilities.argmax())] == "green"
