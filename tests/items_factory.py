"""A bundle of `factory` that was really certified, with the rows that it was certified on. Trains nothing.

Its threshold is the score of one of the rows, as a quantile of tuning rows may be: an engine that rounds otherwise may decide otherwise.
"""

import hashlib
from pathlib import Path

import msgspec
import numpy as np

from factory import file_entry, make_bundle, make_task, parts_of, png
from outrider_engine.items import ITEMS_FILE, encode_items
from outrider_engine.model import load_model
from outrider_engine.replaying import signals
from outrider_wire.acceptance import accepted
from outrider_wire.certificate import fixed_sequence
from outrider_wire.manifest import MANIFEST_FILE, Certificate, encode_manifest
from outrider_wire.replay import CertifiedRows, Ladder
from outrider_wire.task import Task

N, KEPT, RISK, DELTA = 200, 160, 0.1, 0.1


def certified_bundle(path: Path, task: Task | None = None, *, wrong: int = 0, seed: int = 0) -> Path:
    """Writes the bundle; ``wrong`` of the rows that it keeps are answered wrong: up to 10 pass once, up to 5 a second time."""
    task = task or make_task()
    make_bundle(path, task, certified=False, seed=seed)
    model = load_model(path, bounds=task.inputs)
    rng = np.random.default_rng(1)
    shades = rng.integers(0, 150, N)
    parts = [parts_of(png((255 - int(shade), int(shade), 0))) for shade in shades]
    tensors = [model.prepare(each) for each in parts]
    rows = signals([said for each in tensors for said in model.infer([each])])
    scores = rows.probabilities.max(1)
    threshold = float(np.sort(scores)[::-1][KEPT - 1])
    rule = msgspec.structs.replace(model.manifest.acceptance, threshold=threshold)
    kept, answers = accepted(rule, rows), rows.probabilities.argmax(1)
    labels = answers.copy()
    labels[np.flatnonzero(kept)[:wrong]] = 2
    found = fixed_sequence(scores, answers == labels, [threshold], RISK, DELTA, coverages=[KEPT / N])
    assert found.threshold == threshold, "it should pass"
    certificate = Certificate(
        method="fixed-sequence",
        risk=RISK,
        delta=DELTA,
        n=N,
        groups=N,
        accepted=found.accepted,
        errors=found.errors,
        coverage=found.coverage,
        risk_bound=found.risk_bound,
        label_source="ground_truth",
        data_digest=hashlib.sha256(b"rows").hexdigest(),
        provider=model.variant.provider,
        precision=model.variant.precision,
        claims=msgspec.structs.replace(model.manifest, acceptance=rule).claims(model.variant),
    )
    data = encode_items(
        certificate=certificate.id,
        values={name: np.stack([each[name] for each in tensors]) for name in tensors[0]},
        index={name: np.arange(N) for name in tensors[0]},
        rows=CertifiedRows(
            labels=labels.astype(np.int64),
            groups=np.arange(N),
            strata=(),
            answers=answers.astype(np.int64),
            kept=kept,
            ladders={"": Ladder(thresholds=[threshold], coverages=[KEPT / N], rows=100)},
        ),
    )
    (path / ITEMS_FILE).write_bytes(data)
    manifest = msgspec.structs.replace(
        model.manifest,
        acceptance=rule,
        certificate=certificate,
        certification=ITEMS_FILE,
        files=[*model.manifest.files, file_entry(ITEMS_FILE, data, "certification")],
    )
    (path / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    return path
