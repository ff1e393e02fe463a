"""What the agent's process carries: no training library, no command line, and little memory."""

import subprocess
import sys
from pathlib import Path

import pytest
from edge_agents import serve_environment, write_config

from factory import sure

HEAVY = (
    "torch",
    "transformers",
    "onnx",
    "onnxscript",
    "sqlalchemy",
    "typer",
    "rich",
    "outrider_export",
    "outrider_cloud",
)
RSS_MB = 120
ANSWER = """
import asyncio, sys
from pathlib import Path
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config

async def main():
    async with serving(load_edge_config(Path(sys.argv[1]))) as served:
        parts = {"image": Path(sys.argv[2]).read_bytes(), "question": "what colour is it?"}
        print((await served.agent.submit("colours", parts)).label)

asyncio.run(main())
resident = int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6
print(f"{resident:.0f}", *sorted(name for name in sys.modules if "." not in name))
"""


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """What an agent's process prints after one answer: the label, its resident megabytes, its modules."""
    folder = tmp_path_factory.mktemp("agent")
    (folder / "image.png").write_bytes(sure(2))
    command = [sys.executable, "-c", ANSWER, str(write_config(folder)), str(folder / "image.png")]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60, env=serve_environment())
    return done.stdout.split()


def test_the_agent_answers_without_a_training_library_or_a_command_line(spoken: list[str]) -> None:
    label, _, *modules = spoken
    assert label == "blue"
    assert {"onnxruntime", "outrider_edge"} <= set(modules)
    assert not set(HEAVY) & set(modules)


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from Linux's /proc")
def test_the_agent_stays_within_its_memory(spoken: list[str]) -> None:
    assert int(spoken[1]) <= RSS_MB
