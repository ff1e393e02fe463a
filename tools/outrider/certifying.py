"""What ``outrider certify`` does behind its flags for tables of rows, audits and plans. Prints nothing, loads no torch."""

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from outrider.progress import Tell
from outrider.row_files import Columns, read_rows
from outrider_export.plan import Expected, Told, around
from outrider_export.promises import Promise
from outrider_export.rows import certify_rows
from outrider_export.ruling import Ruling, refused
from outrider_wire.errors import RuleRefusalError
from outrider_wire.manifest import LabelSource, Manifest
from outrider_wire.task import Task

if TYPE_CHECKING:
    from outrider_cloud.learning.from_audits import Audited
    from outrider_cloud.learning.opening import OpenTask

RISK, DELTA = 0.05, 0.05
"""What is asked for where neither a flag nor a task says it."""
_PATIENCE_S = 2.0
UNSEEN = (
    "no --config was named, so that nobody remembers which rows have certified before: using the same rows again would "
    "have to pay for it, and cannot be seen here"
)
TAUGHT = (
    "this model may have been trained on these very rows, as outrider distill does, and then this promises too much: only the "
    "ledger can tell, so name --config"
)


def promise_of(risk: float | None, delta: float | None, label_source: LabelSource, task: Task | None = None) -> Promise:
    """What is asked for: the flags, else the task's policy, else 5 % with confidence 95 %."""
    policy_risk, policy_delta = (task.policy.target_risk, task.delta) if task else (RISK, DELTA)
    return Promise(
        risk=policy_risk if risk is None else risk,
        delta=policy_delta if delta is None else delta,
        label_source=label_source,
    )


def of_rows(file: Path, columns: Columns, promise: Promise, *, seed: int, min_gap_s: float) -> Ruling:
    """The ruling over a CSV file; a refusal is a ruling too."""
    rows = read_rows(file, columns)
    try:
        return certify_rows(rows, promise, key=f"certify-{seed}", min_gap_s=min_gap_s)
    except RuleRefusalError as error:
        return refused(error, promise, n=len(rows))


def planned(promise: Promise, *, n: int, accuracy: float, groups_of: int, seed: int, tell: Tell) -> list[Expected]:
    """What half, once, twice and four times ``n`` rows can be expected to certify."""
    return around(
        n,
        risk=promise.risk,
        delta=promise.delta,
        accuracy=accuracy,
        rows_of_a_group=groups_of,
        seed=seed,
        told=_patient(tell),
    )


def more_of(made: Ruling, *, tell: Tell) -> list[Expected]:
    """What half, twice and four times as many rows could be expected to certify, at the accuracy that was measured."""
    if made.accuracy is None or not 0.0 < made.accuracy < 1.0 or not made.n:
        return []
    promise = Promise(risk=made.risk, delta=made.delta)
    return planned(promise, n=made.n, accuracy=made.accuracy, groups_of=made.rows_a_group, seed=0, tell=tell)


def _patient(tell: Tell) -> Told:
    """Tells of a simulation once it has taken `_PATIENCE_S`."""
    began = time.monotonic()

    def told(share: float) -> None:
        if time.monotonic() - began > _PATIENCE_S:
            tell("simulating", share)

    return told


def write(bundle: Path, out: Path, manifest: Manifest) -> str:
    """Writes the bundle with its new manifest; the digest."""
    from outrider_export.recertify import write_copy

    return write_copy(bundle, out, manifest)


def from_audits(
    bundle: Path,
    *,
    config: Path | None,
    task_name: str,
    risk: float | None,
    delta: float | None,
    thresholds: Sequence[float],
    teacher: str,
    out: Path | None,
) -> tuple[Ruling, str]:
    """What the store's audits of a bundle certify, and how far they are; written to ``out``, the digest of what was."""
    from outrider_cloud.learning import from_audits as evidence
    from outrider_engine.bundle import open_bundle

    answering = open_bundle(bundle)
    with opened_task(config, task_name or answering.manifest.task) as work:
        promise = promise_of(risk, delta, "large_model", work.task)
        certify = partial(
            evidence.certify,
            digest=answering.digest,
            manifest=answering.manifest,
            variant=answering.variant(),
            risk=promise.risk,
            delta=promise.delta,
            teacher=teacher or None,
            thresholds=thresholds,
        )
        try:
            found = work.library.store.run(certify)
        except RuleRefusalError as error:
            return replace(refused(error, promise), method="audits"), ""
    written = write(bundle, out, found.manifest) if out is not None and found.manifest is not None else ""
    return _audit_ruling(found, promise), written


def _audit_ruling(found: "Audited", promise: Promise) -> Ruling:
    evidence, certificate = found.verdict.found, found.certificate
    best = evidence.nearest
    groups = found.verdict.left_out
    said = [f"{found.verdict.progress} audits of kept inputs, {best.errors} of them wrong or unanswered"]
    if groups:
        said.append(f"{groups} audits left out: another of their group speaks for them")
    if certificate is None:
        said.append(
            "no certificate yet: everything stays as it is; audits may be looked at again at any time, at no cost"
        )
    return Ruling(
        method="audits",
        risk=promise.risk,
        delta=promise.delta,
        n=evidence.n,
        errors=best.errors,
        threshold=evidence.threshold,
        coverage=best.audits / evidence.n if evidence.n else 0.0,
        label_source="large_model",
        valid=certificate is not None,
        reason="certified" if certificate else "not_certified",
        accepted=best.audits,
        groups=evidence.n,
        risk_bound=certificate.risk_bound if certificate else 1.0,
        sentences=said,
    )


def opened_task(config: Path | None, task: str) -> "AbstractContextManager[OpenTask]":
    """A task's examples in the store that ``config`` (else the cloud.toml of this folder) names."""
    from outrider.learning import cloud_config
    from outrider_cloud.learning.opening import opened

    return opened(cloud_config(config), task)
