"""The rollouts over time as a picture. Measures nothing."""

from pathlib import Path

from outrider.sim.fleet.timeline import Timeline
from outrider_wire.errors import OperatorSetupError

_LOOKS = {
    "first": ("0.75", "the first release"),
    "bad": ("#c23b22", "the bad release"),
    "good": ("#3b7a57", "the good release"),
}


def draw_rollouts(timeline: Timeline, *, devices: int, speed: float, title: str, file: Path) -> None:
    """Writes which release how many devices run, and what the rollouts went through, to ``file`` (PNG, PDF or SVG by its name).

    Args:
        timeline: what was seen.
        devices: of the whole fleet.
        speed: how many seconds of the fleet's calendar pass in a second.
        title: above it.
        file: of the picture.

    Raises:
        OperatorSetupError: the file cannot be written.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(10, 5))
    hours = [each.at_s * speed / 3600 for each in timeline.samples]
    rows = [[each.running.get(version, 0) for each in timeline.samples] for version in _LOOKS]
    off = [each.off for each in timeline.samples]
    colours = [colour for colour, _ in _LOOKS.values()]
    axes.stackplot(
        hours, *rows, off, colors=[*colours, "0.2"], labels=[*(name for _, name in _LOOKS.values()), "power off"]
    )
    axes.plot(
        hours, [each.under_way for each in timeline.samples], color="#1f4e8c", linewidth=1, label="update under way"
    )
    told = []
    for place, mark in enumerate(timeline.marks, 1):
        at = mark.at_s * speed / 3600
        axes.axvline(at, color="0.3", linewidth=0.6, linestyle=":")
        axes.text(at, devices * (1.01 + 0.03 * (place % 3)), str(place), fontsize=7, ha="center")
        told.append(f"{place}  {at:.2f} h  {mark.rollout}: {mark.what}")
    figure.text(0.91, 0.88, "\n".join(told), fontsize=7, va="top")
    axes.set_ylim(0, 1.12 * devices)
    axes.set_xlabel("hours of the fleet's calendar")
    axes.set_ylabel("devices")
    axes.set_title(title, fontsize=9)
    axes.legend(loc="center left", fontsize=7)
    try:
        figure.savefig(file, dpi=120, bbox_inches="tight")
    except (OSError, ValueError) as error:
        raise OperatorSetupError(
            f"{file} cannot be written: {error}", reason="unwritable_file", fix="name a .png file in a folder of yours"
        ) from error
    finally:
        plt.close(figure)
