"""The table of servers that are compared: how each is started, and where it answers. Measures nothing."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from outrider.bench.edge_peers.model import TASK, Served
from outrider.processes import Processes, any_port, free_port
from outrider_engine.bundle import open_bundle
from outrider_wire.errors import OperatorSetupError

START_S = 90.0
"""LitServe imports for seconds, and the others wait for it."""


@dataclass(frozen=True, kw_only=True)
class Contender:
    """One server."""

    name: str
    path: str
    """Of the route that answers an input."""
    command: Callable[[Served, Path, int], list[str]]
    """What to run on which port, given a folder of its own."""
    needs: str = ""
    """A package that does not come with Outrider."""


def _agent(served: Served, folder: Path, port: int) -> list[str]:
    run = [sys.executable, "-m", "outrider", "edge", "run", "--task", str(served.task), "--bundle", str(served.first)]
    return [*run, "--device", "bench", "--data-dir", str(folder), "--port", str(port), "--log-level", "warning"]


def _program(module: str) -> Callable[[Served, Path, int], list[str]]:
    def command(served: Served, _: Path, port: int) -> list[str]:
        return [sys.executable, "-m", f"outrider.bench.edge_peers.{module}", str(model_file(served.first)), str(port)]

    return command


CONTENDERS = (
    Contender(name="outrider", path=f"/v1/tasks/{TASK.name}/answers", command=_agent),
    Contender(name="bare", path="/infer", command=_program("bare")),
    Contender(name="mosec", path="/inference", command=_program("rust_peer"), needs="mosec"),
    Contender(name="litserve", path="/infer", command=_program("fastapi_peer"), needs="litserve"),
)
"""The bare one comes with Outrider; the others with its extra `peers`."""


def model_file(bundle: Path) -> Path:
    """The ONNX file that a bundle ships first: what every server loads."""
    return bundle / open_bundle(bundle).manifest.variants[0].file


def check_installed(among: Sequence[Contender] = CONTENDERS) -> None:
    """Refuses to begin without a peer.

    Raises:
        OperatorSetupError: one is not installed.
    """
    missing = [each.needs for each in among if each.needs and find_spec(each.needs) is None]
    if missing:
        raise OperatorSetupError(
            f"{' and '.join(missing)} cannot be imported",
            reason="missing_peer",
            fix="install Outrider's extra `peers`: pip install 'outrider[peers]'",
        )


def start_all(processes: Processes, served: Served, folder: Path) -> dict[str, int]:
    """Starts every server, each a process of its own, and waits until each listens; the port of each by name."""
    ports: dict[str, int] = {}
    for each in CONTENDERS:
        ports[each.name] = free_port(max(ports.values(), default=any_port() - 1) + 1)
        processes.run(each.name, each.command(served, folder / each.name, ports[each.name]))
    for name, port in ports.items():
        processes.wait_port(name, port, within_s=START_S)
    return ports
