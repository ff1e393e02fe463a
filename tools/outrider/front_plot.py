"""The front of a bundle's possible variants as a picture: size against latency, and how much each keeps. Measures nothing."""

from collections.abc import Collection, Sequence
from pathlib import Path

from outrider_export.front import Candidate
from outrider_wire.errors import OperatorSetupError


def draw_front(candidates: Sequence[Candidate], front: Collection[str], picked: str, file: Path) -> None:
    """Writes the picture to ``file`` (PNG, PDF or SVG by its name): filled are those on the front, ringed is the picked one.

    Raises:
        OperatorSetupError: the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.5))
    colours = plt.get_cmap("tab10")
    for number, each in enumerate(candidates):
        axes.scatter(
            each.bytes / 1e3,
            each.p50_ms,
            s=200 if each.name == picked else 70,
            facecolor=colours(number) if each.name in front else "none",
            edgecolor="black" if each.name == picked else colours(number),
            linewidth=2,
            label=f"{each.name}: {each.coverage:.1%} kept{', picked' if each.name == picked else ''}",
        )
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, markerscale=0.7)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("size, kB")
    axes.set_ylabel("median of one input, ms (one thread, this machine)")
    axes.set_title("Variants by size, latency and what each keeps at the risk target")
    axes.margins(0.15)
    try:
        figure.savefig(file, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise OperatorSetupError(
            f"{file} cannot be written: {error}",
            reason="unwritable_file",
            fix="choose a folder of yours for the bundle",
        ) from error
    finally:
        plt.close(figure)
