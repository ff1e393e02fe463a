"""How the demo's figures look: tables on the terminal and a picture. Computes no figure."""

from pathlib import Path

from rich.console import Console
from rich.table import Table

from outrider.demo.figures import Figures, Phase


def print_figures(figures: Figures, console: Console) -> None:
    """The one table, kept accuracy a class, foreign pictures; and what disappointed, said plainly."""
    console.print(_systems(figures))
    console.print(_classes(figures))
    console.print(_foreign(figures))
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


def _systems(figures: Figures) -> Table:
    table = Table(title="The same held-out questions, five ways", title_justify="left")
    for name in (
        "",
        "accuracy",
        "on device",
        "wrong there",
        "certified",
        "large calls",
        "bytes/input",
        "edge p50/p95",
        "cloud p50/p95",
    ):
        table.add_column(name, justify="left" if not name else "right")
    dash = ("–",) * 7
    table.add_row("question-only majority", f"{figures.majority_accuracy:.1%}", *dash)
    table.add_row("small model alone", f"{figures.before.small_accuracy:.1%}", "100%", "–", "no", "0%", "0", "–", "–")
    table.add_row("large model alone", f"{figures.large_accuracy:.1%}", "0%", "–", "–", "100%", "–", "–", "–")
    table.add_row("Outrider before the update", *_cells(figures.before))
    if figures.after:
        table.add_row("Outrider after the update", *_cells(figures.after))
        table.add_row(
            "small model alone, updated", f"{figures.after.small_accuracy:.1%}", "100%", "–", "no", "0%", "0", "–", "–"
        )
    return table


def _cells(phase: Phase) -> tuple[str, ...]:
    certified = "nothing" if phase.certified_risk is None else f"≤ {phase.certified_risk:.0%}"
    return (
        f"{phase.accuracy:.1%}",
        f"{phase.on_device_share:.1%}",
        f"{phase.kept_risk:.1%}",
        certified,
        f"{phase.large_calls:.1%}",
        f"{phase.bytes_up:,.0f}",
        f"{phase.p50_ms_edge:.1f}/{phase.p95_ms_edge:.1f} ms",
        f"{phase.p50_ms_cloud:.1f}/{phase.p95_ms_cloud:.1f} ms",
    )


def _classes(figures: Figures) -> Table:
    table = Table(title="Kept on the device, by the true answer: right / kept", title_justify="left")
    labels = sorted(set(figures.before.kept_by_class) | set(figures.after.kept_by_class if figures.after else {}))
    table.add_column("")
    for label in labels:
        table.add_column(label, justify="right")
    for name, phase in (("before", figures.before), ("after", figures.after)):
        if phase:
            cells = [phase.kept_by_class.get(label, (0, 0)) for label in labels]
            table.add_row(name, *(f"{right}/{count}" for count, right in cells))
    return table


def _foreign(figures: Figures) -> Table:
    table = Table(title="Foreign pictures: share kept on the device (less is better)", title_justify="left")
    table.add_column("")
    for kind in figures.foreign:
        table.add_column(kind, justify="right")
    table.add_row("before", *(f"{before:.0%}" for before, _ in figures.foreign.values()))
    if figures.after:
        table.add_row("after", *("–" if after is None else f"{after:.0%}" for _, after in figures.foreign.values()))
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
