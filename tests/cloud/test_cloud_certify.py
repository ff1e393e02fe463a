"""A person's labels into the store, and certificates out of its audits."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from factory import make_bundle, make_task
from outrider_cloud.config import load_cloud_config
from outrider_cloud.learning import from_audits
from outrider_cloud.learning.human_labels import HumanLabel, Labelled, apply, read_labels
from outrider_cloud.learning.opening import OpenTask, opened
from outrider_cloud.store.examples import NewExample, add_all
from outrider_cloud.store.schema import examples
from outrider_engine.bundle import open_bundle
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import OperatorConfigError, RuleRefusalError
from outrider_wire.manifest import Manifest

TASK = make_task("colours")


@pytest.fixture
def work(tmp_path: Path, store_toml: str) -> Iterator[OpenTask]:
    (tmp_path / "colours.toml").write_text(task_to_toml(TASK))
    (tmp_path / "cloud.toml").write_text(
        f'data_dir = "cloud"\n{store_toml}[[tasks]]\nfile = "colours.toml"\nlarge = "zero:uniform"\n'
    )
    with opened(load_cloud_config(tmp_path / "cloud.toml"), "colours") as opened_task:
        yield opened_task


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def example(number: int, **fields: Any) -> NewExample:
    plain: dict[str, Any] = {
        "task": "colours",
        "group": f"clip-{number}",
        "role": "train",
        "source": "escalation",
        "parts": {"image": sha256(f"image {number}"), "question": sha256("what?")},
        "created_ms": number,
        "device": "cam",
        "input": f"input-{number}",
    }
    return NewExample(**{**plain, **fields})


def stored(work: OpenTask, *new: NewExample) -> None:
    work.library.store.submit(lambda connection: add_all(connection, new)).result()


def labelled(work: OpenTask, *said: HumanLabel) -> Labelled:
    return work.library.store.submit(
        lambda connection: apply(connection, task="colours", labels=TASK.labels, said=said)
    ).result()


def said(names: str, label: str = "red", line: int = 1) -> HumanLabel:
    return HumanLabel(line=line, names=names, label=label)


def labels_in(work: OpenTask) -> dict[str, str | None]:
    query = sa.select(examples.c.input, examples.c.label)
    return {row.input: row.label for row in work.library.store.run(lambda c: c.execute(query).all())}


def test_labels_are_written_by_id_and_by_digest_and_counted_by_role(work: OpenTask) -> None:
    stored(work, example(1), example(2, role="gate", source="audit"), example(3))
    found = labelled(work, said("input-1"), said(sha256("image 2"), "green", 2))
    assert (found.new["train"], found.new["gate"], found.same, found.unknown) == (1, 1, 0, [])
    assert labels_in(work) == {"input-1": "red", "input-2": "green", "input-3": None}


def test_a_repeated_import_changes_nothing_and_another_label_is_said_to_be_a_change(work: OpenTask) -> None:
    stored(work, example(1))
    labelled(work, said("input-1"))
    again = labelled(work, said("input-1"), said(sha256("image 1"), line=2))
    assert (sum(again.new.values()), sum(again.changed.values()), again.same) == (0, 0, 2)
    assert labelled(work, said("input-1", "blue")).changed["train"] == 1


def test_unknown_names_foreign_labels_and_ambiguous_digests_are_told_with_their_lines(work: OpenTask) -> None:
    stored(work, example(1), example(2))
    found = labelled(work, said("nobody", line=7), said("input-1", "purple", 8), said(sha256("what?"), line=9))
    assert [each.split(":")[0] for each in (*found.unknown, *found.foreign)] == ["line 7", "line 9", "line 8"]
    assert "several different inputs" in found.unknown[1]
    assert set(labels_in(work).values()) == {None}


def test_imported_rows_and_other_tasks_are_left_alone(work: OpenTask) -> None:
    stored(work, example(1, source="import", label="blue"), example(2, task="hues"))
    assert len(labelled(work, said("input-1"), said("input-2", line=2)).unknown) == 2


def test_label_files_are_csv_or_json_lines(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,label\ninput-1,red\ninput-2,green\n")
    (tmp_path / "b.jsonl").write_text('\n{"sha256": "%s", "label": "red"}\n' % ("a" * 64))
    assert [(each.line, each.names, each.label) for each in read_labels(tmp_path / "a.csv")] == [
        (2, "input-1", "red"),
        (3, "input-2", "green"),
    ]
    assert read_labels(tmp_path / "b.jsonl") == [HumanLabel(line=2, names="a" * 64, label="red")]


@pytest.mark.parametrize("text", ["", "id,label\n,red\n", "id,label\ninput-1\n", "{nonsense\n", '{"id": "x"}\n'])
def test_a_line_that_says_nothing_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "labels").write_text(text)
    with pytest.raises(OperatorConfigError) as raised:
        read_labels(tmp_path / "labels")
    assert str(tmp_path / "labels") in raised.value.what


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("bundles") / "small", TASK)


def audit(number: int, digest: str, *, sure: float = 0.95, wrong: bool = False, **fields: Any) -> NewExample:
    rest = (1 - sure) / 2
    said: dict[str, Any] = {
        "source": "audit",
        "why": "audit",
        "audit": 0.02,
        "small_label": "red",
        "small_probabilities": [sure, rest, rest],
        "small_model": digest,
        "teacher_label": "green" if wrong else "red",
        "teacher_model": "large",
    }
    return example(number, **{**said, **fields})


def certified(work: OpenTask, bundle: Path, manifest: Manifest | None = None, **asked: Any) -> from_audits.Audited:
    opened_bundle = open_bundle(bundle)
    return work.library.store.run(
        lambda connection: from_audits.certify(
            connection,
            digest=opened_bundle.digest,
            manifest=manifest or opened_bundle.manifest,
            variant=opened_bundle.variant(),
            **{"risk": 0.05, "delta": 0.05, **asked},
        )
    )


def test_enough_agreeing_audits_certify_and_the_certificate_may_be_claimed(work: OpenTask, bundle: Path) -> None:
    digest = open_bundle(bundle).digest
    stored(work, *(audit(k, digest, wrong=k % 50 == 49) for k in range(400)))
    found = certified(work, bundle)
    certificate = found.certificate
    assert certificate is not None
    assert (certificate.method, certificate.label_source) == ("audits", "large_model")
    assert (certificate.accepted, certificate.errors) == (400, 8)
    assert 0.02 < certificate.risk_bound <= 0.05
    assert found.manifest is not None
    assert found.manifest.certificate_fault(found.manifest.variants[0]) == ""


def test_after_an_alarm_older_audits_certify_nothing(work: OpenTask, bundle: Path) -> None:
    """600 good audits certify; 100 bad ones after them do not make that true of the inputs that come now."""
    digest = open_bundle(bundle).digest
    stored(work, *(audit(n, digest, wrong=n % 50 == 0) for n in range(1, 601)))
    assert certified(work, bundle).certificate is not None
    stored(work, *(audit(n, digest, wrong=n % 3 == 0) for n in range(601, 701)))
    with pytest.raises(RuleRefusalError, match="older ones say nothing") as refused:
        certified(work, bundle)
    assert refused.value.reason == "alarm"


def test_few_audits_certify_nothing_and_say_how_far_they_are(work: OpenTask, bundle: Path) -> None:
    digest = open_bundle(bundle).digest
    stored(work, *(audit(k, digest) for k in range(40)))
    found = certified(work, bundle)
    assert (found.certificate, found.manifest) == (None, None)
    done, of, wanted = found.verdict.progress.split()
    assert (done, of) == ("40", "of")
    assert 40 < int(wanted) < 200


def test_an_audit_without_an_answer_counts_as_an_error_and_a_persons_label_does_not_mend_it(
    work: OpenTask, bundle: Path
) -> None:
    digest = open_bundle(bundle).digest
    stored(work, *(audit(k, digest, teacher_label=None, label="red") for k in range(10)))
    assert certified(work, bundle).verdict.found.nearest.errors == 10


def test_of_a_group_one_audit_counts_and_other_bundles_do_not(work: OpenTask, bundle: Path) -> None:
    digest = open_bundle(bundle).digest
    stored(
        work,
        *(audit(k, digest, group=f"clip-{k // 3}") for k in range(30)),
        audit(40, sha256("another bundle")),
        audit(41, digest, why="unsupported"),
    )
    verdict = certified(work, bundle).verdict
    assert (verdict.found.n, verdict.left_out, verdict.found.nearest.audits) == (11, 20, 10)


def test_what_audits_cannot_judge_is_refused(work: OpenTask, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(RuleRefusalError) as raised:
        certified(work, bundle)
    assert raised.value.reason == "no_audits"
    with pytest.raises(RuleRefusalError) as raised:
        certified(work, bundle, thresholds=[0.5])
    assert raised.value.reason == "threshold_below_rule"
    text = json.loads((bundle / "manifest.json").read_text())
    text["acceptance"]["score"] = "energy"
    from outrider_wire.manifest import decode_manifest

    with pytest.raises(RuleRefusalError) as raised:
        certified(work, bundle, decode_manifest(json.dumps(text).encode()))
    assert raised.value.reason == "score_not_kept"


def test_a_rule_without_a_threshold_gets_one_from_a_grid_that_no_audit_chose(work: OpenTask, tmp_path: Path) -> None:
    shadow = make_bundle(tmp_path / "shadow", TASK, certified=False)
    digest, rng = open_bundle(shadow).digest, np.random.default_rng(0)
    sure = rng.uniform(0.4, 1.0, 900)
    wrong = rng.random(900) < np.where(sure > 0.7, 0.01, 0.4)
    stored(work, *(audit(k, digest, sure=float(sure[k]), wrong=bool(wrong[k])) for k in range(900)))
    found = certified(work, shadow)
    assert found.manifest is not None
    assert found.manifest.acceptance.threshold == 0.7
    assert found.verdict.found.wanted == len(from_audits.GRID) / 0.05
