"""A ruling in plain words: what is promised, what is not, what voids it, and what more labels would buy. Tests nothing."""

from collections.abc import Sequence

from msgspec import Struct

from outrider_export.plan import Expected, at_best
from outrider_export.ruling import Kept, Ruling


class Explained(Struct, kw_only=True, frozen=True):
    """The parts of an explanation."""

    promised: list[str]
    not_promised: list[str]
    voids: list[str]
    more_labels: list[str]
    kept: list[str]
    """Kept accuracy by class, stratum and group, the worst first."""

    def sections(self) -> list[tuple[str, list[str]]]:
        """(heading, sentences), those with anything to say."""
        every = [
            ("What is promised", self.promised),
            ("What is not", self.not_promised),
            ("What voids it", self.voids),
            ("What more labels would buy", self.more_labels),
            ("How right the kept answers are, shown and not promised", self.kept),
        ]
        return [(heading, sentences) for heading, sentences in every if sentences]


def explained(made: Ruling, expected: Sequence[Expected] = ()) -> Explained:
    """The ruling in words; ``expected`` is what `outrider_export.plan.around` says of its number of rows."""
    return Explained(
        promised=_promised(made),
        not_promised=_not_promised(made) if made.valid else [],
        voids=_voids(made) if made.valid else [],
        more_labels=more_labels(expected, risk=made.risk, accuracy=made.accuracy),
        kept=[_kept(each) for each in made.kept],
    )


def _promised(made: Ruling) -> list[str]:
    if not made.valid:
        return ["nothing: every input escalates", *made.sentences]
    whose = "the truth" if made.label_source == "ground_truth" else "what the large model would say"
    each = "each stratum that keeps anything, all together" if made.strata else "all kept answers together"
    lines = [
        f"of what the device keeps, at most {made.risk:.3g} differs from {whose}, with confidence {1 - made.delta:.4g}: a rule "
        f"chosen like this breaks the promise in at most {made.delta:.3g} of all draws of certification rows",
        f"the promise is about {each}; it was tested on {made.accepted} kept rows of {made.n}, {made.errors} of them wrong, "
        f"and holds up to {made.risk_bound:.2%}",
    ]
    never = [each.name for each in made.strata if each.threshold is None]
    return [*lines, *([f"nothing of {', '.join(never)} is kept: it always escalates"] if never else [])]


def _not_promised(made: Ruling) -> list[str]:
    lines = [
        "not for each class: kept answers of one class may be wrong far more often, as long as all together are not",
        "not for other inputs: a new camera, place or season is another stream; the watch on audits is what notices",
        "not for what escalates, nor for the system as a whole, unless a gap to the large model is certified too",
    ]
    if made.label_source == "large_model":
        lines.append("not about the truth: where the large model is wrong, agreeing with it counts as right")
    if made.rows_a_group == 1 and made.groups == made.n:
        lines.append("not if rows hang together after all (frames of one clip): each was counted as independent")
    return lines


def _voids(made: Ruling) -> list[str]:
    lines = [
        "any change of model, preprocessing, labels, calibration, rule, precision or execution provider",
        "rows that trained or tuned the model, or chose its threshold, among those that certified it",
    ]
    if made.method != "audits":
        lines.append("certifying again and again on the same rows until it works: the k-th use pays δ·6/(π²k²)")
    return lines


def more_labels(expected: Sequence[Expected], *, risk: float, accuracy: float | None) -> list[str]:
    """What each number of labels would buy, from the simulation of a calibrated model of that accuracy."""
    if accuracy is None or not expected:
        return []
    said = [
        f"{each.n} certification rows: {each.coverage:.0%} kept on average"
        + (f", nothing in {each.nothing:.0%} of draws" if each.nothing >= 0.005 else "")
        for each in expected
    ]
    best = at_best(risk=risk, accuracy=accuracy)
    return [
        *said,
        f"and no number of them more than about {best:.0%}: beyond that a calibrated model that is right {accuracy:.1%} of the "
        f"time errs more than {risk:.3g}; only a better model keeps more",
    ]


def _kept(each: Kept) -> str:
    if not each.kept:
        return f"{each.kind} {each.name}: none of {each.rows} kept"
    return (
        f"{each.kind} {each.name}: {each.right} of {each.kept} kept are right ({each.right / each.kept:.1%}; "
        f"{each.low:.1%} to {each.high:.1%} at 95 %), of {each.rows}"
    )
