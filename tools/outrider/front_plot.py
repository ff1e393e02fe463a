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
    most = max(each.coverage for each in candidates)
    for each in candidates:
        worth = each.name in front
        shade = plt.get_cmap("viridis")(each.coverage / most if most else 0.0)
        axes.scatter(
            each.bytes / 1e3,
            each.p50_ms,
            s=220 if each.name == picked else 80,
            facecolor=shade if worth else "none",
            edgecolor="crimson" if each.name == picked else shade,
            linewidth=2,
        )
        axes.annotate(
            f"{each.name}: {each.coverage:.0%} kept",
            (each.bytes / 1e3, each.p50_ms),
            xytext=(8, 6),
            textcoords="offset points",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("size, kB")
    axes.set_ylabel("median latency of one input, ms (one thread, this machine)")
    axes.set_title("Variants by size, latency and what each keeps at the risk target")
    axes.margins(0.25)
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
