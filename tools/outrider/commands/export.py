"""``outrider export``: a trained model becomes a bundle."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from outrider.commands.options import Json, Quiet, group
from outrider.output import Screen
from outrider_wire.errors import OperatorConfigError

if TYPE_CHECKING:
    from outrider_wire.manifest import Precision

app = group("Turn a trained model into a certified bundle.")


class LabelSource(StrEnum):
    """Whose labels the rows carry: what the certificate is about."""

    GROUND_TRUTH = "ground_truth"
    LARGE_MODEL = "large_model"


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
    version: Annotated[str, typer.Option(help="What people call the release.")] = "1",
    reads: Annotated[str, typer.Option(metavar="NAME", help="Architecture whose inputs an .onnx file reads.")] = "",
    variant: Annotated[str, typer.Option(help="Precisions, the one that ships first.")] = "int8,fp32",
    label_source: Annotated[LabelSource, typer.Option(help="Whose labels the rows carry.")] = LabelSource.GROUND_TRUTH,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="Export the first input's encoding too, for an answer memory.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Splits the rows into tuning and certification.")] = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Export, quantise, compare, calibrate and certify a model.

    The rows are split by a keyed hash of their group: some choose temperature and thresholds, the others certify, once.
    """
    screen, precisions = Screen(json=json, quiet=quiet), _precisions(variant)

    from outrider.exporting import Export
    from outrider.progress import bar
    from outrider.settings_files import read_task

    export = Export(source=source, task=read_task(task), data=data, reads=reads, seed=seed)
    screen.note(export.forecast())
    with bar(screen) as tell:
        built = export.build(
            out,
            version=version,
            precisions=precisions,
            label_source=label_source,
            tell=tell,
            embedding=embedding,
        )
    screen.result(
        {
            "bundle": str(built.bundle),
            "digest": built.digest,
            "checkpoint": str(built.checkpoint or ""),
            "certificate": built.manifest.certificate,
            "variants": built.manifest.variants,
            "sentences": built.sentences,
        },
        "\n".join([f"✓ {built.bundle} ({built.digest[:12]}…)", *built.sentences]),
    )


def _precisions(text: str) -> "list[Precision]":
    known: tuple[Precision, ...] = ("int8", "fp32")
    chosen = [each for word in text.split(",") for each in known if each == word.strip()]
    if not chosen or len(chosen) != len(text.split(",")):
        raise OperatorConfigError(
            f"--variant {text!r} names no precisions", reason="unknown_precision", fix="use int8, fp32 or int8,fp32"
        )
    return chosen
