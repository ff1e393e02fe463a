"""The promotion gate: whether a candidate may replace the deployed model. Pure: figures in, verdict out.

A candidate is judged by what it does to the *system*, on rows of the gate role that neither model was trained, tuned or
certified on. Rows of one group are not independent, so every test is a paired test of group means. A student that is better
alone and worse in the system is refused, and so is one that changes nothing.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


class Margins(Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What the gate tolerates. Shares are of 1."""

    fall: float = 0.01
    """Largest fall of coverage or combined accuracy, as measured."""
    alpha: float = 0.05
    """Level of the paired one-sided tests, for a fall and for a gain."""
    retention: float = 0.99
    """Least share of the rows that the deployed model accepted and had right which the candidate still has right."""
    class_fall: float = 0.05
    class_rows: int = 30
    """A class with fewer gate rows is shown, not judged."""
    agreement: float = 0.98
    """Least top-1 agreement of the shipped variant with fp32. The other checks see the shipped variant itself: this one only
    catches a quantization that went wrong, and the quantizer aims at 99 % of its own rows."""
    slowdown: float = 1.5
    """Largest ratio of the candidate's median latency to the deployed model's, measured side by side."""
    confident_rows: int = 250
    """Fewest confident answers of the large model to learn from."""
    teacher_accuracy: float = 0.93
    """Least accuracy of those confident answers, measured on tuning rows."""
    measured_rows: int = 30
    """Fewest confident answers on tuning rows that say anything about that accuracy."""


class Behaviour(Struct, kw_only=True, frozen=True):
    """What one small model did on the gate rows, row by row."""

    accepted: Flags
    """Kept on the device by its own acceptance rule."""
    right: Flags
    """Whether the small model's own answer is right."""
    combined: Flags
    """Whether the system's answer is right: the small model's where accepted, the strategy's where not."""


class Check(Struct, kw_only=True, frozen=True):
    """One condition of the gate, with the figures that decided it."""

    name: str
    passed: bool
    before: float
    after: float
    says: str


class Verdict(Struct, kw_only=True, frozen=True):
    """All checks; promoted only when every one passed."""

    checks: list[Check]

    @property
    def promoted(self) -> bool:
        """Whether the candidate may be released."""
        return all(check.passed for check in self.checks)

    @property
    def sentence(self) -> str:
        """The verdict in words, with the figures of what failed."""
        failed = [check.says for check in self.checks if not check.passed]
        return (
            "the candidate is refused: " + "; ".join(failed)
            if failed
            else "the candidate passes every check of the gate"
        )


def judge_round(*, confident: int, teacher_accuracy: float, measured: int, margins: Margins) -> list[Check]:
    """Whether there is enough, and good enough, to learn from; asked before a student is trained.

    Args:
        confident: answers to learn from.
        teacher_accuracy: of the large model's confident answers, on ``measured`` tuning rows.
        measured: how many these were.
        margins: what is asked for.
    """
    return [
        Check(
            name="confident_rows",
            passed=confident >= margins.confident_rows,
            before=float(margins.confident_rows),
            after=float(confident),
            says=f"the large model answered {confident} escalated inputs confidently, and {margins.confident_rows} are needed",
        ),
        Check(
            name="teacher_accuracy",
            passed=teacher_accuracy >= margins.teacher_accuracy,
            before=margins.teacher_accuracy,
            after=teacher_accuracy,
            says=f"where the large model is confident it is right {teacher_accuracy:.1%} of the time on tuning data, "
            f"and {margins.teacher_accuracy:.0%} is asked for"
            if measured
            else "the large model is confident of no tuning row that the device refuses",
        ),
        Check(
            name="teacher_measured",
            passed=measured >= margins.measured_rows,
            before=float(margins.measured_rows),
            after=float(measured),
            says=f"the large model's confidence could be checked on {measured} tuning rows that the device refuses, and "
            f"{margins.measured_rows} are needed",
        ),
    ]


def judge_candidate(
    *,
    deployed: Behaviour,
    candidate: Behaviour,
    classes: Sequence[str],
    groups: Sequence[str],
    agreement: float,
    latency_ratio: float,
    margins: Margins,
) -> Verdict:
    """The gate itself. All arrays are over the same gate rows; ``classes`` holds each row's true label."""
    coverage = _compare("coverage", deployed.accepted, candidate.accepted, groups, margins)
    accuracy, by_class = check_answers(deployed, candidate, classes=classes, groups=groups, margins=margins)
    gains = [_gain(deployed.accepted, candidate.accepted, groups), _gain(deployed.combined, candidate.combined, groups)]
    held = deployed.accepted & deployed.right
    retention = float(candidate.right[held].mean()) if held.any() else 1.0
    checks = [
        coverage,
        accuracy,
        Check(
            name="gain",
            passed=min(gains) <= margins.alpha / 2,  # two tests share the level
            before=margins.alpha / 2,
            after=min(gains),
            says=f"neither coverage nor combined accuracy gains (p = {gains[0]:.2f} and {gains[1]:.2f})",
        ),
        Check(
            name="retention",
            passed=retention >= margins.retention,
            before=margins.retention,
            after=retention,
            says=f"of what the deployed model kept and had right, the candidate has {retention:.1%} right; "
            f"{margins.retention:.0%} is asked for",
        ),
        by_class,
        Check(
            name="agreement",
            passed=agreement >= margins.agreement,
            before=margins.agreement,
            after=agreement,
            says=f"the shipped variant agrees with fp32 on {agreement:.1%}; {margins.agreement:.0%} is asked for",
        ),
        Check(
            name="latency",
            passed=latency_ratio <= margins.slowdown,
            before=margins.slowdown,
            after=latency_ratio,
            says=f"the candidate takes {latency_ratio:.2f} × the deployed model's time; {margins.slowdown:.2f} × is allowed",
        ),
    ]
    return Verdict(checks=checks)


def _compare(name: str, before: Flags, after: Flags, groups: Sequence[str], margins: Margins) -> Check:
    """A quantity that may not fall: neither by more than the margin, nor significantly."""
    p_fall = _gain(after, before, groups)
    old, new = float(before.mean()), float(after.mean())
    fell = new < old and (old - new > margins.fall or p_fall <= margins.alpha)
    return Check(
        name=name,
        passed=not fell,
        before=old,
        after=new,
        says=f"{name.replace('_', ' ')} falls from {old:.1%} to {new:.1%} (p = {p_fall:.2f})"
        if fell
        else f"{name.replace('_', ' ')} goes from {old:.1%} to {new:.1%}",
    )


def _gain(before: Flags, after: Flags, groups: Sequence[str]) -> float:
    """One-sided p-value of "``after`` is larger than ``before``": a paired z-test of the groups' mean differences."""
    difference = after.astype(np.float64) - before.astype(np.float64)
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    means = np.bincount(member, difference) / np.bincount(member)
    spread = float(means.std(ddof=1)) if len(means) > 1 else 0.0
    if spread == 0.0:
        return 0.0 if len(means) > 1 and means[0] > 0 else 1.0
    return 0.5 * math.erfc(float(means.mean()) / (spread / math.sqrt(len(means))) / math.sqrt(2.0))


def check_answers(
    deployed: Behaviour, candidate: Behaviour, *, classes: Sequence[str], groups: Sequence[str], margins: Margins
) -> tuple[Check, Check]:
    """Whether the system's answers get no worse: in all, and in no class."""
    accuracy = _compare("combined_accuracy", deployed.combined, candidate.combined, groups, margins)
    return accuracy, _classes(deployed, candidate, classes, margins)


def _classes(deployed: Behaviour, candidate: Behaviour, classes: Sequence[str], margins: Margins) -> Check:
    worst, before, after = "", 1.0, 1.0
    for label, (old, new) in class_accuracy(deployed, candidate, classes, least=margins.class_rows).items():
        if not worst or new - old < after - before:
            worst, before, after = label, old, new
    return Check(
        name="classes",
        passed=before - after <= margins.class_fall,
        before=before,
        after=after,
        says=f"answers to {worst!r} go from {before:.1%} to {after:.1%} right"
        if worst
        else f"no class has {margins.class_rows} gate rows, so none is judged",
    )


def class_accuracy(
    deployed: Behaviour, candidate: Behaviour, classes: Sequence[str], *, least: int = 1
) -> Mapping[str, tuple[float, float]]:
    """Combined accuracy before and after, for each true label with at least ``least`` rows."""
    names = np.asarray(classes)
    found: dict[str, tuple[float, float]] = {}
    for label in sorted(set(classes)):
        rows = names == label
        if int(rows.sum()) >= least:
            found[label] = (float(deployed.combined[rows].mean()), float(candidate.combined[rows].mean()))
    return found
