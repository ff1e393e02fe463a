"""A reliability diagram as a picture: how often answers are right against how sure the model was. Measures nothing."""

from collections.abc import Sequence
from pathlib import Path

from outrider_wire.calibration import Bin
from outrider_wire.errors import OperatorSetupError


def draw_reliability(bins: Sequence[Bin], error: float, file: Path) -> None:
    """Writes the diagram of bins of equal mass, with the expected calibration error, to ``file`` (PNG, PDF or SVG by its name).

    Raises:
        OperatorSetupError: the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(5, 5))
    low = min(0.5, *(each.confidence for each in bins), *(each.accuracy for each in bins))
    axes.plot([low, 1], [low, 1], color="0.6", linewidth=1, label="calibrated")
    axes.plot([each.confidence for each in bins], [each.accuracy for each in bins], marker="o", label="measured")
    axes.set_xlabel("how sure the model was")
    axes.set_ylabel("share of right answers")
    axes.set_title(
        f"{sum(each.n for each in bins)} rows in {len(bins)} bins of equal mass; calibration error {error:.3f}"
    )
    axes.title.set_fontsize(9)
    axes.legend(loc="upper left")
    try:
        figure.savefig(file, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error_:
        raise OperatorSetupError(
            f"{file} cannot be written: {error_}", reason="unwritable_file", fix="name a .png file in a folder of yours"
        ) from error_
    finally:
        plt.close(figure)
