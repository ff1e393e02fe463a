"""``outrider demo``: the whole loop on this machine, with real models and real data."""

from pathlib import Path
from typing import Annotated

import typer

from outrider.commands.options import Json, Quiet
from outrider.output import PIPED_WIDTH, Screen

FOLDER = Path(".outrider/demo")
"""Everything the demo makes is here; ``make clean`` removes it."""

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def demo(
    *,
    seed: Annotated[
        int, typer.Option(help="Another seed is another small model, another large one, other pictures.")
    ] = 0,
    port_offset: Annotated[int, typer.Option(min=0, max=60_000, help="Added to every port, so that two can run.")] = 0,
    folder: Annotated[Path, typer.Option(metavar="DIR", help="Where everything that it makes is kept.")] = FOLDER,
    write_device_bundle: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Only write the certified small bundle and its task into DIR, and stop."),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Play the main job: two devices and a cloud answer, learn and update; at the end, one honest table."""
    from rich.console import Console

    from outrider.demo import show, story
    from outrider.progress import bar

    screen = Screen(json=json, quiet=quiet)
    if write_device_bundle is not None:
        with bar(screen) as tell:
            story.write_device_bundle(write_device_bundle, seed=seed, folder=folder, tell=tell)
        screen.note(f"wrote {write_device_bundle}/task.toml and {write_device_bundle}/bundle")
        return
    console = Console(stderr=json, quiet=quiet)
    if not console.is_terminal:
        console = Console(stderr=json, quiet=quiet, width=PIPED_WIDTH)
    figures = story.run(
        seed=seed,
        port_offset=port_offset,
        folder=folder,
        show_on=show.Show(console, quiet=quiet),
        progress=lambda: bar(screen),
    )
    picture = folder / "demo.png"
    show.draw(figures, picture)
    show.print_figures(figures, console)
    show.print_where_next(folder, console)
    Screen(json=True).value(figures.line())
