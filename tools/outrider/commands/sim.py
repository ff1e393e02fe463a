"""``outrider sim``: what Outrider promises, held against faults that are really caused. A table, then one JSON line."""

from pathlib import Path
from typing import Annotated, Any

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen

app = group("Cause real faults, and check that nothing is lost.")


@app.command()
def faults(
    *,
    rounds: Annotated[int | None, typer.Option(min=1, help="Of each fault. Default: as each needs.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only this fault; repeat it for several.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of moments and victims.")] = 0,
    broker: Annotated[str, typer.Option(help="embedded or mosquitto.")] = "embedded",
    listed: Annotated[bool, typer.Option("--list", help="Show the faults, and cause none.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Kill, cut, fill and starve a system, then audit it.

    The system is this command's own, in a temporary folder and on free ports of the loopback. No other is touched.
    """
    from outrider.progress import bar
    from outrider.sim.engine import Order, play
    from outrider.sim.faults import NAMES, chosen, impossible

    screen = Screen(json=json, quiet=quiet)
    kind = _broker(broker)
    if listed:
        _list(screen)
        return
    names = [name for name in chosen(only or []) if not _passed_over(name, impossible(name, kind), named=bool(only))]
    _silence_checks()
    with bar(screen) as tell:
        found = dict(play(Order(names=names, rounds=rounds, seed=seed, broker=kind), tell))
    columns = ("fault", "rounds", "accepted", "answered", "expired", "refused", "lost", "duplicated")
    screen.table(columns, [(name, *_row(found[name])) for name in NAMES if name in found])
    for name, figures in found.items():
        for finding in figures.findings:
            screen.note(f"{name}: {finding}")
        if not figures.felt:
            screen.note(f"{name}: no log shows that anything happened; more rounds may")
    Screen(json=True).value({name: found[name] for name in NAMES if name in found})
    if not all(figures.sound for figures in found.values()):
        raise typer.Exit(1)


@app.command()
def fleet(
    *,
    devices: Annotated[int, typer.Option(min=3, max=2000, help="How many.")] = 200,
    naive: Annotated[
        bool,
        typer.Option("--naive", help="Roll out to 1 %, 10 % and 100 % of all, in place of canaries of each profile."),
    ] = False,
    seed: Annotated[int, typer.Option(min=0, max=9999, help="Of faults, links and who goes first.")] = 0,
    speed: Annotated[float, typer.Option(min=1, max=600, help="Seconds of the fleet's calendar in a second.")] = 60.0,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the rollouts over time: .png, .svg or .pdf.")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Roll a bad release out to a fleet, take it back, then a good one.

    The devices run the agent's own updater, in one process, under power cuts, bad links and full disks; the broker and the cloud are
    real ones, of this command's own. The bad release passes its self-test, and fails on what the cameras of one profile see.
    """
    from outrider.progress import bar
    from outrider.sim.fleet.running import FleetOrder, simulate
    from outrider.sim.fleet.telling import notes, rows, title

    screen = Screen(json=json, quiet=quiet)
    with bar(screen) as tell:
        story = simulate(FleetOrder(devices=devices, naive=naive, seed=seed, speed=speed), tell)
    screen.table(("what", "found", "promised"), rows(story))
    for note in notes(story):
        screen.note(note)
    if picture is not None:
        from outrider.sim.fleet.picture import draw_rollouts

        draw_rollouts(story.timeline, devices=devices, speed=speed, title=title(story), file=picture)
        screen.note(f"the rollouts over time: {picture}")
    Screen(json=True).value(story.figures)
    if story.figures.broken():
        raise typer.Exit(1)


def _row(figures: Any) -> tuple[int, ...]:
    return (
        figures.rounds,
        figures.accepted,
        figures.answered,
        figures.expired,
        figures.refused,
        figures.lost,
        figures.duplicated,
    )


def _passed_over(name: str, problem: str, *, named: bool) -> bool:
    """Whether a fault is left out, which is said aloud.

    Raises:
        OperatorSetupError: it cannot be caused here, and was asked for by name.
    """
    from outrider_wire.errors import OperatorSetupError

    if problem and named:
        raise OperatorSetupError(f"{name} cannot be caused here: {problem}", reason="fault_impossible")
    if problem:
        typer.echo(f"left out: {name}: {problem}", err=True)
    return bool(problem)


def _broker(name: str) -> Any:
    """The kind of broker.

    Raises:
        OperatorError: there is no such kind, or it is not installed.
    """
    from outrider.sim.world import mosquitto_missing
    from outrider_wire.errors import OperatorConfigError, OperatorSetupError

    if name not in ("embedded", "mosquitto"):
        raise OperatorConfigError(
            f"--broker {name!r} is no broker", reason="invalid_value", fix="take embedded or mosquitto"
        )
    if name == "mosquitto" and (problem := mosquitto_missing()):
        raise OperatorSetupError(problem, reason="no_mosquitto", fix="install it, or take --broker embedded")
    return name


def _list(screen: Screen) -> None:
    from outrider.sim.faults import FAULTS, POWER_CUTS
    from outrider.sim.power.lives import LIVES

    rows = [(fault.name, fault.what, fault.undone) for fault in FAULTS.values()]
    rows += [
        (name, f"a power cut after every operation: {LIVES[life].what}", "started on what the disk kept")
        for name, life in POWER_CUTS.items()
    ]
    screen.table(("fault", "what is done", "how it is undone"), rows)
    if screen.json:
        screen.value({name: what for name, what, _ in rows})


def _silence_checks() -> None:
    """The real code logs what it finds after a power cut; here that is a figure, not news."""
    import logging

    for room in ("outrider_edge", "outrider_cloud"):
        logging.getLogger(room).addHandler(logging.NullHandler())
