"""``outrider export``: a trained model becomes a bundle."""

from enum import StrEnum
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen

if TYPE_CHECKING:
    from outrider.exporting import Choice
    from outrider_export.build import BuildReport

app = group("Turn a trained model into a certified bundle.")


class LabelSource(StrEnum):
    """Whose labels the rows carry: what the certificate is about."""

    GROUND_TRUTH = "ground_truth"
    LARGE_MODEL = "large_model"


class For(StrEnum):
    """What one variant is picked for."""

    LATENCY = "latency"
    SIZE = "size"
    COVERAGE = "coverage"


@app.command()
def variants(*, json: Json = False, quiet: Quiet = False) -> None:
    """List what a model can be exported as."""
    from outrider_export.recipes import RECIPES

    screen = Screen(json=json, quiet=quiet)
    rows = [(each.name, f"{each.tolerance.agreement:.1%}", each.about) for each in RECIPES.values()]
    screen.table(("variant", "least agreement with fp32", "what it is"), rows)
    if json:
        screen.value(list(RECIPES.values()))


@app.command()
def run(
    *,
    source: Annotated[
        str,
        typer.Option(
            "--from", metavar="MODEL", help="A .safetensors checkpoint, a bundle, an .onnx file, or module:attr."
        ),
    ],
    task: Annotated[Path, typer.Option(metavar="FILE", help="The task that it answers.")],
    data: Annotated[
        Path,
        typer.Option(metavar="DIR|FILE", help="Labelled rows that it was not trained on: sub-folders, or JSON lines."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", metavar="BUNDLE", help="Directory to write.")],
    calibrate: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR|FILE", help="Inputs, labelled or not, that tell what it knows; default: of the rows."
        ),
    ] = None,
    version: Annotated[str, typer.Option(help="What people call the release.")] = "1",
    reads: Annotated[str, typer.Option(metavar="NAME", help="Architecture whose inputs an .onnx file reads.")] = "",
    variant: Annotated[
        str, typer.Option(metavar="NAME,…", help="As `export variants` lists them, the one that runs first in front.")
    ] = "",
    objective: Annotated[
        For | None, typer.Option(help="Measure them all, and ship the one that is best for this.")
    ] = None,
    profile: Annotated[
        str,
        typer.Option(metavar="NAME|FILE", help="The device's: its precisions, and fixed shapes where it needs them."),
    ] = "",
    force: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Ship this variant though it is out of its tolerance.")
    ] = None,
    label_source: Annotated[LabelSource, typer.Option(help="Whose labels the rows carry.")] = LabelSource.GROUND_TRUTH,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Export the first input's encoding too, for an answer memory.")
    ] = False,
    items: Annotated[
        bool,
        typer.Option(
            "--items/--no-items",
            help="Carry the certification rows, as the model reads them, so that other engines can be tested on them.",
        ),
    ] = True,
    seed: Annotated[int, typer.Option(help="Splits the rows into tuning and certification.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export, quantise, compare, calibrate and certify a model.

    The rows are split by a keyed hash of their group: some choose temperature and thresholds, the others certify, once.
    """
    screen = Screen(json=json, quiet=quiet)

    from outrider.settings_files import read_task
    from outrider.wanted import Wanted
    from outrider_edge.profile import load_profile

    wanted = Wanted(
        variants=[name.strip() for name in variant.split(",")] if variant else (),
        objective=objective.value if objective else None,
        forced=force or (),
        profile=load_profile(profile, Path()) if profile else None,
    )
    screen.note(f"variants: {', '.join(wanted.names)}")

    from outrider.exporting import Export
    from outrider.progress import bar

    export = Export(source=source, task=read_task(task), data=data, reads=reads, calibrate=calibrate, seed=seed)
    screen.note(export.forecast())
    with bar(screen) as tell:
        built, choice = export.build(
            out,
            version=version,
            wanted=wanted,
            label_source=label_source,
            tell=tell,
            embedding=embedding,
            items=items,
        )
    picture = _show(choice, out, screen)
    screen.result(
        {
            "bundle": str(built.bundle),
            "digest": built.digest,
            "checkpoint": str(built.checkpoint or ""),
            "certificate": built.manifest.certificate,
            "variants": built.manifest.variants,
            "candidates": choice.candidates,
            "front": choice.front,
            "picked": choice.picked,
            "picture": picture,
            "sentences": built.sentences,
        },
        "\n".join([f"✓ {built.bundle} ({built.digest[:12]}…)", *_sizes(built), *built.sentences]),
    )


def _sizes(built: "BuildReport") -> list[str]:
    files = {each.path: each.size for each in built.manifest.files}
    return [
        f"  {each.name}: {files[each.file]:,} bytes, {each.parity['agreement']:.2%} of fp32's answers, "
        f"{each.parity.get('accuracy', 0.0):.2%} right"
        for each in built.manifest.variants
    ]


def _show(choice: "Choice", out: Path, screen: Screen) -> str:
    """The front as a table and a picture beside the bundle; the picture's path, '' without one."""
    if not choice.candidates:
        return ""
    front = choice.front
    rows = [
        (
            each.name,
            f"{each.bytes:,}",
            f"{each.p50_ms:.3f}",
            f"{each.coverage:.1%}",
            f"{each.agreement:.2%}",
            "picked" if each.name == choice.picked else "on the front" if each.name in front else "",
        )
        for each in choice.candidates
    ]
    screen.table(("variant", "bytes", "p50 ms", "kept at the risk", "agreement", ""), rows)
    if find_spec("matplotlib") is None:
        screen.note("no picture of the front: pip install matplotlib")
        return ""
    from outrider.front_plot import draw_front

    file = out.with_name(f"{out.name}.front.png")
    draw_front(choice.candidates, front, choice.picked, file)
    return str(file)
