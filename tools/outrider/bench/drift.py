"""``outrider bench drift``: how soon the watch over a certificate sees that a camera has changed. Prints nothing.

The demo's real small and large model look at the same test pictures through the device's camera and through changed ones.
What the acceptance rule keeps is audited at random; a loss is an answer that the large model does not share. Inputs are
drawn again and again from the pictures at hand, the monitor is the one that devices run, and beside it stands the
plain product of the same evidence, which goes deaf.

Two rules are watched: the certified one, whose input support refuses most of what a changed camera sees, so that the
promise may well hold; and the same threshold on the score alone, as for a model that exports no support.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from outrider.demo.cameras import DEVICE, Camera, capture
from outrider.demo.dataset import Question
from outrider.demo.models import Models, make_models
from outrider.demo.world import World, make_world
from outrider.progress import Tell
from outrider_engine.bundle import open_bundle
from outrider_engine.model import load_model
from outrider_export.asking import ask_rows
from outrider_export.data import Example, Table
from outrider_wire.acceptance import accepted
from outrider_wire.errors import RuleRefusalError
from outrider_wire.monitor import Monitor, bets, observe, tolerated_risk

CAMERAS: Mapping[str, Camera] = {
    "dusk": Camera(gains=DEVICE.gains, exposure=(0.25, 0.40), blur=DEVICE.blur, noise=DEVICE.noise),
    "cold light": Camera(
        gains=((0.60, 0.75), (0.80, 0.95), (0.80, 1.05)), exposure=DEVICE.exposure, blur=DEVICE.blur, noise=DEVICE.noise
    ),
    "sodium lamp": Camera(
        gains=((1.05, 1.25), (0.65, 0.80), (0.20, 0.40)), exposure=DEVICE.exposure, blur=DEVICE.blur, noise=DEVICE.noise
    ),
    "out of focus": Camera(gains=DEVICE.gains, exposure=DEVICE.exposure, blur=(2.0, 3.0), noise=DEVICE.noise),
    "worn sensor": Camera(gains=DEVICE.gains, exposure=DEVICE.exposure, blur=DEVICE.blur, noise=(0.09, 0.13)),
}
"""Each leaves `DEVICE` in one respect."""
MOST_AUDITS = 5_000
"""After the change; a camera that raises no alarm by then raises none."""
CAPTURE_SEED = 4_711


@dataclass(frozen=True, kw_only=True)
class DriftPlan:
    """What to measure."""

    folder: Path
    """Where the demo keeps its models."""
    seed: int = 0
    """Of the demo's world and models."""
    seeds: int = 50
    """Streams of each kind."""
    clean: Sequence[int] = (0, 2_000, 20_000)
    """Audits before the change."""
    audit_rate: float = 0.02


class Pool(Struct, kw_only=True, frozen=True):
    """One camera's inputs, as both models see them."""

    kept: float
    """Share that the acceptance rule keeps on the device."""
    disagreement: float
    """Share of these that the large model answers otherwise: what audits show."""
    risk: float
    """Share of these that are wrong: what nobody on site knows."""


class Delay(Struct, kw_only=True, frozen=True):
    """From the change to the alarm: medians over the streams. None: half of them raise none."""

    clean_audits: int
    audits: float | None
    inputs: float | None
    product_audits: float | None
    """The plain product's, the control."""


class Drift(Struct, kw_only=True, frozen=True):
    """One changed camera."""

    pool: Pool
    delays: list[Delay]


class Ruled(Struct, kw_only=True, frozen=True):
    """Everything under one acceptance rule."""

    clean: Pool
    false_alarms: int
    """Streams without a change that raised one."""
    clean_audits: int
    """Audits of each of those streams."""
    drifts: dict[str, Drift]


class DriftFigures(Struct, kw_only=True, frozen=True):
    """The JSON line."""

    seed: int
    seeds: int
    audit_rate: float
    label_source: str
    promised_risk: float
    tolerated_risk: float
    """What the monitor tests: the promise, and for one about the truth a bound on the large model's own error."""
    audits_between_false_alarms: float
    rules: dict[str, Ruled]


def measure(plan: DriftPlan, tell: Tell) -> DriftFigures:
    """Everything; trains the demo's models when they are not there yet.

    Raises:
        RuleRefusalError: this seed's small model has no certificate to watch.
    """
    world = make_world(plan.seed, tell)
    models = make_models(world, plan.folder / "models", tell)
    certificate = open_bundle(models.small).manifest.certificate
    if certificate is None:
        raise RuleRefusalError(
            f"the small model of seed {plan.seed} has no certificate to watch",
            reason="uncertified",
            fix="try another --seed",
        )
    policy = world.task.policy
    start = Monitor(risk=tolerated_risk(certificate, policy.large_error), alpha=1 / policy.audits_between_false_alarms)
    questions = world.questions(world.deal.test)
    views = {"": _view(models, world.table(questions))}
    for done, (name, camera) in enumerate(CAMERAS.items()):
        tell("changing cameras", done / len(CAMERAS))
        views[name] = _view(models, _through(world, questions, camera))
    return DriftFigures(
        seed=plan.seed,
        seeds=plan.seeds,
        audit_rate=plan.audit_rate,
        label_source=certificate.label_source,
        promised_risk=certificate.risk,
        tolerated_risk=start.risk,
        audits_between_false_alarms=start.limit,
        rules={
            "support and score": _ruled(
                {name: view.kept_by(view.certified) for name, view in views.items()}, start, plan, tell
            ),
            "score alone": _ruled(
                {name: view.kept_by(view.by_score) for name, view in views.items()}, start, plan, tell
            ),
        },
    )


@dataclass(frozen=True)
class _View:
    """What both models say of all inputs through one camera, (rows,) each."""

    certified: NDArray[np.bool_]
    """Kept by the certified rule."""
    by_score: NDArray[np.bool_]
    """Kept by the same rule without its input support."""
    right: NDArray[np.bool_]
    differs: NDArray[np.bool_]

    def kept_by(self, kept: NDArray[np.bool_]) -> tuple[Pool, NDArray[np.int64]]:
        """The inputs that a rule keeps, and their losses."""
        losses = self.differs[kept].astype(np.int64)
        shares = (float(losses.mean()), float((~self.right[kept]).mean())) if kept.any() else (0.0, 0.0)
        return Pool(kept=float(kept.mean()), disagreement=shares[0], risk=shares[1]), losses


def _view(models: Models, table: Table) -> _View:
    small = load_model(models.small)
    said, rule = ask_rows(small, table), small.manifest.acceptance
    return _View(
        certified=accepted(rule, said.signals),
        by_score=accepted(replace(rule, support_threshold=None), said.signals._replace(support=None)),
        right=said.answers == table.labels,
        differs=said.answers != ask_rows(load_model(models.large), table).answers,
    )


def _ruled(pools: Mapping[str, tuple[Pool, NDArray[np.int64]]], start: Monitor, plan: DriftPlan, tell: Tell) -> Ruled:
    clean, losses = pools[""]
    streams = [_clean_stream(start, losses, plan, seed, tell) for seed in range(plan.seeds)]
    longest = max(plan.clean)
    return Ruled(
        clean=clean,
        false_alarms=sum(stream.monitors[longest].alarmed for stream in streams),
        clean_audits=longest,
        drifts={name: Drift(pool=pools[name][0], delays=_delays(streams, *pools[name], plan)) for name in CAMERAS},
    )


@dataclass(frozen=True)
class _Stream:
    """One clean stream: the monitor and the log of the plain product's capital after each of the plan's points."""

    monitors: dict[int, Monitor]
    products: dict[int, float]


def _through(world: World, questions: list[Question], camera: Camera) -> Table:
    rng = np.random.default_rng(CAPTURE_SEED)
    images = {n: capture(world.vqa.pictures[n], camera, rng) for n in sorted({q.picture for q in questions})}
    place = {label: number for number, label in enumerate(world.task.labels)}
    return Table.from_examples(
        Example({"image": images[q.picture], "question": q.text}, place[q.answer], world.vqa.groups[q.picture])
        for q in questions
    )


def _clean_stream(start: Monitor, losses: NDArray[np.int64], plan: DriftPlan, seed: int, tell: Tell) -> _Stream:
    tell("clean audits", seed / plan.seeds)
    drawn = np.random.default_rng([seed, 0]).choice(losses, max(plan.clean)).tolist()
    monitor, monitors = start, {}
    for count in range(len(drawn) + 1):
        if count in plan.clean:
            monitors[count] = monitor
        if count < len(drawn):
            monitor = observe(monitor, drawn[count])
    capitals = np.concatenate(([0.0], np.cumsum(_log_evidence(start.risk, np.asarray(drawn)))))
    return _Stream(monitors, {count: float(capitals[count]) for count in plan.clean})


def _delays(streams: Sequence[_Stream], pool: Pool, losses: NDArray[np.int64], plan: DriftPlan) -> list[Delay]:
    delays = []
    for count in plan.clean:
        audits, inputs, product = [], [], []
        for seed, stream in enumerate(streams):
            rng = np.random.default_rng([seed, 1, count])
            drawn = rng.choice(losses, MOST_AUDITS) if len(losses) else np.zeros(0, np.int64)
            needed = _until_alarm(stream.monitors[count], drawn)
            audits.append(needed)
            inputs.append(
                needed
                if np.isinf(needed)
                else float(rng.negative_binomial(needed, pool.kept * plan.audit_rate) + needed)
            )
            product.append(_until_product(stream.monitors[count], stream.products[count], drawn))
        delays.append(
            Delay(
                clean_audits=count,
                audits=_median(audits),
                inputs=_median(inputs),
                product_audits=_median(product),
            )
        )
    return delays


def _until_alarm(monitor: Monitor, drawn: NDArray[np.int64]) -> float:
    """Audits from here to the alarm; one that is raised already, falsely, is over before the camera changes."""
    monitor = replace(monitor, alarmed_at=0) if monitor.alarmed else monitor
    for count, loss in enumerate(drawn.tolist(), start=1):
        monitor = observe(monitor, loss)
        if monitor.alarmed:
            return float(count)
    return float("inf")


def _until_product(monitor: Monitor, capital: float, drawn: NDArray[np.int64]) -> float:
    reached = capital + np.cumsum(_log_evidence(monitor.risk, drawn)) >= np.log(monitor.limit)
    return float(np.argmax(reached) + 1) if reached.any() else float("inf")


def _log_evidence(risk: float, losses: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of the middle one of the monitor's bets."""
    bet = bets(risk)[1]
    return np.asarray(np.log1p(bet * (losses - risk)), np.float64)


def _median(values: Sequence[float]) -> float | None:
    middle = float(np.median(values))
    return None if np.isinf(middle) or np.isnan(middle) else middle
