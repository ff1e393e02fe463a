"""What `outrider edge run` and `outrider edge infer` are both told: which task, and which bundle answers it."""

from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    Path | None, typer.Option(envvar="OUTRIDER_EDGE_CONFIG", help="edge.toml; default: the one in this folder.")
]
Demo = Annotated[bool, typer.Option("--demo", help="The certified task and bundle that come with Outrider.")]
TaskFile = Annotated[Path | None, typer.Option(metavar="FILE", help="This one task, with --bundle.")]
TaskBundle = Annotated[Path | None, typer.Option(metavar="DIR", help="The bundle that answers --task.")]


def configuration(
    config: Path | None, demo: bool, task: Path | None, bundle: Path | None, settings: dict[str, Any]
) -> Any:
    """The `outrider_edge.config.EdgeConfig` that the flags, the environment and the file make together."""
    from outrider import start
    from outrider.settings_files import FileKind
    from outrider_edge.config import load_edge_config
    from outrider_wire.settings import merged

    if demo:
        task, bundle = _demo()
    flags = start.nested(**settings)
    flags |= start.one_task(task, bundle=str(bundle.absolute()) if bundle else "")
    file = start.file_of(FileKind.EDGE, config, flags)
    below = {"data_dir": "outrider-edge-demo"} if demo and file is None else {}
    return load_edge_config(file, merged(below, start.overrides(FileKind.EDGE, flags)))


def _demo() -> tuple[Path, Path]:
    """The task and bundle in the wheel.

    Raises:
        OperatorSetupError: this installation has none.
    """
    import outrider_edge
    from outrider_wire.errors import OperatorSetupError

    folder = Path(outrider_edge.__file__).parent / "demo"
    if not (folder / "task.toml").is_file():
        raise OperatorSetupError(
            "this installation carries no demo bundle", reason="no_demo", fix="install Outrider again, or name --bundle"
        )
    return folder / "task.toml", folder / "bundle"
