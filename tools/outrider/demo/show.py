"""What the demo shows: steps, a live line, tables on the terminal and a picture. Computes no figure."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.columns import Columns
from rich.console import Console
from rich.table import Table

from outrider.demo.figures import Figures, Phase
from outrider.demo.play import Tally

Watch = Callable[[Tally], None]
_REFRESH_S = 0.2


class Show:
    """The demo's voice on one console; silent with ``quiet``."""

    def __init__(self, console: Console, *, quiet: bool = False) -> None:
        self.console = console
        self._quiet = quiet

    def step(self, number: str, what: str) -> None:
        """A new step of the story."""
        if not self._quiet:
            self.console.print(f"\n[bold]{number}. {what}[/]")

    def say(self, sentence: str) -> None:
        """A line of the step."""
        if not self._quiet and sentence:
            self.console.print(f"   {sentence}", highlight=False, markup=False)

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Something of unknown length is under way."""
        if self._quiet:
            yield
            return
        started = time.monotonic()
        with self.console.status(what):
            yield
        self.say(f"{what}: {time.monotonic() - started:.0f} s")

    @contextmanager
    def live(self, name: str, total: int) -> Iterator[Watch]:
        """One line that follows a play; its last state stays."""
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        last: list[Tally] = []
        columns = (TextColumn("   " + name), BarColumn(20), MofNCompleteColumn(), TextColumn("{task.fields[line]}"))
        with Progress(*columns, console=self.console, disable=self._quiet, transient=True) as progress:
            shown = progress.add_task(name, total=total, line="")
            drawn = 0.0

            def watch(tally: Tally) -> None:
                nonlocal drawn
                last[:] = [tally]
                if time.monotonic() - drawn > _REFRESH_S:
                    drawn = time.monotonic()
                    progress.update(shown, completed=len(tally.told), line=tally_line(tally))

            yield watch
        if last:
            self.say(f"{name}: {len(last[0].told)} questions, {tally_line(last[0])}")


def tally_line(tally: Tally) -> str:
    """A play's figures so far in one line."""
    asked = max(len(tally.told), 1)
    return (
        f"{tally.count('edge') / asked:.0%} answered on the device ({tally.latency_ms('edge', 0.5):.1f} ms), "
        f"{tally.count('cloud') / asked:.0%} by the large model ({tally.latency_ms('cloud', 0.5):.1f} ms), "
        f"{tally.accuracy:.1%} right" + (f", {tally.failed} without an answer" if tally.failed else "")
    )


def print_figures(figures: Figures, console: Console) -> None:
    """The one table, kept accuracy a class, foreign pictures; and what disappointed, said plainly."""
    console.print(_systems(figures))
    console.print(Columns([_classes(figures), _foreign(figures)], padding=(0, 4)))
    for sentence in disappointments(figures):
        console.print(f"[yellow]‼[/] {sentence}")


def disappointments(figures: Figures) -> list[str]:
    """Every figure of this run that falls short of what a reader would expect, in a sentence each."""
    said: list[str] = []
    if figures.after is None:
        said.append(f"No update was released: {figures.gate}.")
    phases = [("before", figures.before)] + ([("after", figures.after)] if figures.after else [])
    for name, phase in phases:
        if phase.certified_risk is None:
            said.append(f"Nothing could be certified {name} the update, so every input went to the large model.")
        elif phase.kept_risk > phase.certified_risk:
            said.append(
                f"{name.capitalize()} the update {phase.kept_risk:.1%} of the kept answers were wrong on these questions, "
                f"above the certified {phase.certified_risk:.0%}: a draw this unlucky, or correlated questions."
            )
        if phase.accuracy < figures.large_accuracy - 0.03:
            said.append(f"{name.capitalize()} the update the system is more than 3 points below the large model alone.")
        if phase.failed:
            said.append(f"{phase.failed} questions got no answer {name} the update.")
        poor = [
            f"{label} ({right}/{count} right)"
            for label, (count, right) in sorted(phase.kept_by_class.items())
            if count >= 5 and right / count < 0.8
        ]
        if poor:
            said.append(
                f"{name.capitalize()} the update kept answers whose truth is {', '.join(poor)} are often wrong: "
                "the certificate is about all kept answers together, not about each class."
            )
    if figures.after and figures.after.large_calls >= figures.before.large_calls:
        said.append("The update did not lower the share of large-model calls.")
    if figures.requests_refused_during_update:
        said.append(f"{figures.requests_refused_during_update} requests were refused during the update.")
    return said


def print_where_next(folder: Path, console: Console) -> None:
    """Where everything is, and what to try."""
    run = folder / "run"
    for line in (
        "",
        f"The picture: {folder / 'demo.png'}    Logs, stores and bundles: {run}",
        "Ask the device of this demo something yourself (it answers alone, without the cloud):",
        f"  outrider edge infer --config {run / 'cam-1.toml'} --explain --part image=@PICTURE.png --part 'question=what color is it?'",
        f"  outrider bundle inspect {run / 'small-2'}",
        "Your own images: docs/your-own-task.md",
    ):
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _systems(figures: Figures) -> Table:
    """One column a system, one row a figure: it fits eighty characters."""
    before, after = figures.before, figures.after
    columns: dict[str, Sequence[str]] = {
        "question\nonly": _alone(figures.majority_accuracy),
        "small\nalone": _alone(before.small_accuracy),
        "large\nalone": _alone(figures.large_accuracy, calls="100%"),
        "Outrider\nbefore": _cells(before),
    }
    if after:
        columns["Outrider\nafter"] = _cells(after)
        columns["small, up-\ndated, alone"] = _alone(after.small_accuracy)
    table = _table("The same held-out questions", *columns)
    names = (
        "right", "kept on the device", "  wrong among these", "  certified to be", "large-model calls", "bytes sent an input",
        "device p50/p95 ms", "cloud p50/p95 ms",
    )  # fmt: skip
    for row, name in enumerate(names):
        table.add_row(name, *(cells[row] for cells in columns.values()))
    return table


def _alone(accuracy: float, *, calls: str = "0%") -> Sequence[str]:
    return (f"{accuracy:.1%}", "–", "–", "–", calls, "–", "–", "–")


def _cells(phase: Phase) -> Sequence[str]:
    return (
        f"{phase.accuracy:.1%}",
        f"{phase.on_device_share:.1%}",
        f"{phase.kept_risk:.1%}",
        "nothing" if phase.certified_risk is None else f"≤ {phase.certified_risk:.0%}",
        f"{phase.large_calls:.1%}",
        f"{phase.bytes_up:,.0f}",
        f"{phase.p50_ms_edge:.1f}/{phase.p95_ms_edge:.1f}",
        f"{phase.p50_ms_cloud:.1f}/{phase.p95_ms_cloud:.1f}",
    )


def _classes(figures: Figures) -> Table:
    table = _table("Kept, by the true answer: right / kept", "before", "after")
    after = figures.after.kept_by_class if figures.after else {}
    for label in sorted(set(figures.before.kept_by_class) | set(after)):
        cells = [phase.get(label, (0, 0)) for phase in (figures.before.kept_by_class, after)]
        table.add_row(label, *(f"{right}/{count}" for count, right in cells))
    return table


def _foreign(figures: Figures) -> Table:
    table = _table("Foreign pictures: share kept (less is better)", "before", "after")
    for kind, shares in figures.foreign.items():
        table.add_row(kind, *("–" if share is None else f"{share:.0%}" for share in shares))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table


def draw(figures: Figures, path: Path) -> None:
    """The PNG: accuracy against share of large-model calls; every coverage of the shunt, the certified points, both models."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 5), dpi=120)
    curves = (
        ("before", figures.curve_before, figures.before, "tab:blue"),
        ("after", figures.curve_after, figures.after, "tab:green"),
    )
    for name, curve, phase, colour in curves:
        if curve is None or phase is None:
            continue
        axes.plot(curve.calls, curve.accuracy, color=colour, label=f"shunt at every coverage, {name} the update")
        axes.plot(
            phase.large_calls,
            phase.accuracy,
            "o",
            color=colour,
            markersize=10,
            label=f"Outrider {name}: as certified and played",
        )
        axes.plot(0, phase.small_accuracy, "s", color=colour, label=f"small model alone, {name}")
    axes.plot(1, figures.large_accuracy, "D", color="black", label="large model alone")
    axes.axhline(figures.majority_accuracy, linestyle=":", color="gray", label="question-only majority")
    axes.set_xlabel("share of inputs sent to the large model")
    axes.set_ylabel("accuracy")
    axes.set_title("easy-vqa: what a call to the large model buys")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path)
    plt.close(figure)
