"""What ``outrider bench gate`` shows of a study: the ranking, foreign inputs, aims, and a picture. Computes no figure."""

from collections.abc import Sequence
from pathlib import Path

from outrider.bench.gate.aims import Verdict
from outrider.bench.gate.curves import interval, mean_of
from outrider.bench.gate.study import Study, mean_curve
from outrider.output import Screen

COLUMNS = ("strategy", "area", "right", "large calls", "certified", "calls to match", "bytes", "USD/1000")
_DRAWN = {
    "oracle": ("#999999", ":"),
    "random": ("#999999", "--"),
    "max-prob": ("tab:red", "-"),
    "shunt": ("tab:blue", "-"),
    "deferral-head": ("tab:purple", "-"),
    "router": ("tab:brown", "-"),
    "hard-prune": ("tab:olive", "-"),
    "soft-prune": ("tab:green", "-"),
    "deferral-head, soft-prune": ("tab:cyan", "-"),
}
"""Contender → colour and line."""


def show(study: Study, judged: Sequence[Verdict], screen: Screen) -> None:
    """The tables of one task."""
    screen.table(COLUMNS, [_row(study, name) for name in study.ranked()], title=_title(study))
    if study.foreign:
        kinds = study.foreign[0].gated
        rows = [
            (
                kind,
                _percent(mean_of([seed.bare[kind] for seed in study.foreign])),
                _percent(mean_of([seed.gated[kind] for seed in study.foreign])),
            )
            for kind in kinds
        ]
        screen.table(("foreign inputs kept", "by the threshold alone", "with the support gate"), rows)
    tell_aims(judged, screen)


def tell_aims(judged: Sequence[Verdict], screen: Screen) -> None:
    """One line an aim."""
    screen.table(("", "aim", "found"), [("✓" if one.met else "✗", one.aim, one.figure) for one in judged])


def _title(study: Study) -> str:
    alone = ", ".join(
        f"{name} {_percent(mean_of(list(values)))}"
        for name, values in (("small", study.small), ("large", study.large), ("majority", study.majority))
    )
    return (
        f"{study.task.name}: {study.task.about}\n{alone}; {len(study.seeds)} seed(s); right, calls and costs where an error of at "
        f"most {study.task.risk:.0%} is certified at {1 - study.task.delta:.0%}; [95 % over seeds]"
    )


def _row(study: Study, name: str) -> Sequence[str]:
    mean = study.mean
    return (
        name,
        _with_interval(study, name, "area"),
        _with_interval(study, name, "accuracy"),
        _percent(mean(name, "calls")),
        _percent(mean(name, "certified_coverage")),
        _percent(mean(name, "calls_to_match_large")),
        f"{mean(name, 'bytes') or 0.0:,.0f}",
        f"{mean(name, 'usd_per_1000') or 0.0:.3f}",
    )


def _with_interval(study: Study, name: str, metric: str) -> str:
    between = study.interval(name, metric)
    spread = f" [{100 * between[0]:.1f}, {100 * between[1]:.1f}]" if between else ""
    return _percent(study.mean(name, metric)) + spread


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"


def draw(study: Study, path: Path) -> None:
    """The PNG: accuracy against share of calls, bytes an input, and money, the certified points, both models alone."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(16, 5), dpi=110, sharey=True)
    scales = (
        ("calls", "calls", 1.0, "share of large-model calls"),
        ("bytes", "bytes", study.all_bytes, "bytes sent an input"),
        ("usd", "usd_per_1000", study.all_usd_per_1000, "USD a thousand inputs"),
    )
    for axes, (cost, metric, scale, label) in zip(panels, scales, strict=True):
        for name, (colour, line) in _DRAWN.items():
            curve = mean_curve(study.outcomes[name], cost) if name in study.outcomes else None
            if curve is None:
                continue
            axes.plot(scale * curve.spent, 100 * curve.accuracy, line, color=colour, label=name)
            point = study.mean(name, metric), study.mean(name, "accuracy")
            if name not in ("oracle", "random") and None not in point:
                axes.plot(point[0], 100 * (point[1] or 0.0), "o", color=colour)
        for name, values in (("large alone", study.large), ("small alone", study.small)):
            axes.axhline(100 * (mean_of(list(values)) or 0.0), color="black", linewidth=0.8, linestyle=(0, (1, 3)))
            axes.annotate(
                name, (0.99, 100 * (mean_of(list(values)) or 0.0)), xycoords=("axes fraction", "data"), ha="right"
            )
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("right, %")
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize=9, loc="lower center", ncol=len(_DRAWN))
    panels[0].set_ylim(bottom=100 * min(*study.small, *study.large) - 4)
    figure.suptitle(_picture_title(study))
    figure.tight_layout(rect=(0, 0.06, 1, 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)
    plt.close(figure)


def _picture_title(study: Study) -> str:
    areas = interval(study.values("shunt", "area"))
    spread = f"; area under the shunt {100 * areas[0]:.1f}–{100 * areas[1]:.1f}" if areas else ""
    return f"{study.task.name}, {len(study.seeds)} seed(s). Dots: certified, at most {study.task.risk:.0%} wrong of what is kept{spread}"
