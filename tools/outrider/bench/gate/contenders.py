"""Every way of deciding what is sent, and how the two models' answers to it are joined: one table. Judges none of them.

``shunt``, ``soft-prune`` and the like are the cloud's own strategies; the scores are the device's own.

* ``max-prob`` is the bare confidence threshold of Data Shunt (arXiv 2406.15471), without a support gate.
* ``deferral-head`` learns from logged pairs (the tuning rows) what sending a row is worth: P(large right, small wrong) less
  P(small right, large wrong), from the small model's own logits, distribution, features and support distance.
* ``router`` decides before the small model runs (Hybrid LLM, arXiv 2404.14618): a coarse view of the input against the soft
  label P(q_S − q_L ≥ −t). Quality is right or wrong here, so that any t in (0, 1) gives 1 − (1 − p_S)·p_L of the true
  label, and ``r_trans`` and ``r_prob`` are the same.
* ``oracle`` knows the truth: no ranking can do better.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from outrider.bench.gate.cases import Case, Seen
from outrider.bench.gate.learned import fit
from outrider.bench.gate.rows import Floats
from outrider_cloud.answering.strategies import STRATEGIES, Terms, fit_conformal, fit_lambda
from outrider_wire.scores import SCORES, ScoreName

Score = Callable[[Seen], Floats]
"""How willingly each row (n,) is kept; −inf: never."""
HARD_SHARE = 0.6
"""λ and the conformal set are fitted on this share of the tuning rows, the least sure ones: those that would be sent."""
MISSED = 0.1
"""Share of those whose true label ``hard-prune`` may have pruned: the cloud's own default."""
_FLOOR = 1e-6


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One row of the table."""

    name: str
    rank: Callable[[Case], Score]
    """Fits on the tuning rows what there is to fit."""
    join: str = "shunt"
    """The cloud's strategy for what is sent."""
    certifies: bool = True
    """False for what needs the truth to rank."""


def _score(name: ScoreName, *, gated: bool = True) -> Callable[[Case], Score]:
    def rank(case: Case) -> Score:
        def score(seen: Seen) -> Floats:
            sure = SCORES[name](seen.rows.small, seen.small)
            return np.where(seen.known, sure, -np.inf) if gated else sure

        return score

    return rank


def _random(case: Case) -> Score:
    return lambda seen: np.random.default_rng([case.seed, len(seen.rows)]).random(len(seen.rows))


def _oracle(_: Case) -> Score:
    return lambda seen: seen.small_right.astype(np.float64) - seen.large_right


def _deferral_head(case: Case) -> Score:
    tuning = case.tuning
    gain = tuning.large_right.astype(np.int64) - tuning.small_right
    head = fit(_own_features(tuning), np.eye(3)[gain + 1])

    def score(seen: Seen) -> Floats:
        worth = head(_own_features(seen))
        return np.where(seen.known, worth[:, 0] - worth[:, 2], -np.inf)

    return score


def _router(case: Case) -> Score:
    tuning = case.tuning
    rows, labels = np.arange(len(tuning.rows)), tuning.rows.labels
    keeps = 1 - (1 - tuning.small[rows, labels]) * tuning.large[rows, labels]
    router = fit(_curved(tuning.rows.glance), np.stack([1 - keeps, keeps], axis=1))
    return lambda seen: router(_curved(seen.rows.glance))[:, 1]


def _own_features(seen: Seen) -> Floats:
    """What the small model can tell of itself, the row's own."""
    logs = np.log(np.maximum(seen.small, _FLOOR))
    ranked = np.sort(logs, axis=1)[:, ::-1][:, :3]
    entropy = (seen.small * logs).sum(axis=1, keepdims=True)
    parts = [logs, ranked, entropy, seen.rows.small, seen.rows.embedding]
    if seen.rows.support is not None:
        parts.append(np.log(np.maximum(seen.rows.support, _FLOOR))[:, None])
    return np.concatenate(parts, axis=1)


def _curved(glance: Floats) -> Floats:
    return np.concatenate([glance, glance**2], axis=1)


def _table() -> list[Contender]:
    plain: ScoreName = "max_probability"
    joined = [Contender(name=join, rank=_score(plain), join=join) for join in JOINS if join in STRATEGIES]
    scored = [Contender(name=f"shunt, {name}", rank=_score(name)) for name in SCORES if name != plain]
    return [
        *joined,
        *scored,
        Contender(name="deferral-head", rank=_deferral_head),
        Contender(name="deferral-head, soft-prune", rank=_deferral_head, join="soft-prune"),
        Contender(name="router", rank=_router),
        Contender(name="max-prob", rank=_score(plain, gated=False)),
        Contender(name="random", rank=_random),
        Contender(name="oracle", rank=_oracle, certifies=False),
    ]


JOINS = ("shunt", "soft-prune", "hard-prune")
"""Of the cloud's table, those that join two distributions: the others ask differently."""
CONTENDERS: Sequence[Contender] = _table()


def answers_right(join: str, case: Case) -> NDArray[np.bool_]:
    """(n,) Whether the answer of that strategy of the cloud is right, of every test row, had it been sent."""
    tuning, test = case.tuning, case.test
    hard = np.argsort(tuning.small.max(1), kind="stable")[: max(1, int(HARD_SHARE * len(tuning.rows)))]
    terms = Terms(
        strength=fit_lambda(tuning.large[hard], tuning.small[hard], tuning.rows.labels[hard]),
        keep=fit_conformal(tuning.small[hard], tuning.rows.labels[hard], MISSED),
    )
    combine = STRATEGIES[join].combine
    pairs = zip(test.large.tolist(), test.small.tolist(), strict=True)
    said = [combine(large, small, terms) for large, small in pairs]
    return np.asarray(np.argmax(said, axis=1) == test.rows.labels, np.bool_)
