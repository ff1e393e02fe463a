"""The guide `docs/your-own-task.md`, followed literally: its bash blocks run as one script, on real images."""

import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from mosquitto import Mosquitto

from outrider.demo.dataset import COLOURS, attributes, load
from outrider.processes import any_port, free_port

pytestmark = [pytest.mark.broker, pytest.mark.timeout(1000)]
GUIDE = Path(__file__).parents[2] / "docs" / "your-own-task.md"
START_BROKER = "outrider broker run &\n"
IMAGES = 500
WITHIN_S = 900.0
"""Two networks are trained: a minute or two alone, and many beside other work."""


def commands(guide: str) -> str:
    """All bash blocks of the guide, in order."""
    return "\n".join(re.findall(r"^```bash\n(.*?)^```", guide, flags=re.MULTILINE | re.DOTALL))


def sort_by_colour(folder: Path) -> None:
    """The pictures of `easy-vqa` whose colour its own answers give away, one sub-folder a colour."""
    import easy_vqa

    paths = easy_vqa.get_train_image_paths()
    known = attributes(load())[: len(paths), 0]
    for number in [number for number in range(len(paths)) if known[number] >= 0][:IMAGES]:
        place = folder / COLOURS[known[number]]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(paths[number], place / f"{number:04}.png")


def environment(folder: Path) -> dict[str, str]:
    """This interpreter's ``outrider`` and ``python`` first, and ports that nobody uses: the guide names the usual ones."""
    broker = any_port()
    cloud = free_port(broker + 1)
    agent = free_port(cloud + 1)
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(folder),
        "OMP_NUM_THREADS": "1",
        "OUTRIDER_BROKER_PORT": str(broker),
        "OUTRIDER_CLOUD_BROKER_URL": f"mqtt://127.0.0.1:{broker}",
        "OUTRIDER_CLOUD_API_PORT": str(cloud),
        "OUTRIDER_EDGE_BROKER_URL": f"mqtt://127.0.0.1:{broker}",
        "OUTRIDER_EDGE_API_PORT": str(agent),
        "OUTRIDER_AGENT": f"http://127.0.0.1:{agent}",
    }


def follow(script: str, folder: Path, env: dict[str, str]) -> tuple[int, str]:
    """Exit code and output of the script; whatever it has left running is ended."""
    with (folder / "output.txt").open("w") as out:
        child = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=env,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            child.wait(WITHIN_S)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGTERM)
            child.wait(20)
    return child.returncode, (folder / "output.txt").read_text()


def test_the_guide_followed_literally_leads_from_a_folder_of_images_to_answers_of_device_and_cloud(
    tmp_path: Path, broker_kind: str
) -> None:
    sort_by_colour(tmp_path / "photos")
    # Which image has which role is drawn with a key that is made at random where there is none: here the figures repeat.
    (tmp_path / "photos-system").mkdir()
    (tmp_path / "photos-system" / "roles.key").write_text("own-task\n")
    first = sorted((tmp_path / "photos").glob("*/*.png"))[0]
    script, env = commands(GUIDE.read_text()), environment(tmp_path)
    with ExitStack() as stack:
        if broker_kind == "mosquitto":  # in the place of the one that the guide starts
            assert START_BROKER in script
            script = script.replace(START_BROKER, "")
            stack.enter_context(Mosquitto(tmp_path / "mosquitto", port=int(env["OUTRIDER_BROKER_PORT"])))
        code, said = follow(script, tmp_path, env)
    assert code == 0, said[-3000:]
    assert "items needed: 59 kept certification rows" in said
    assert "certified: what it answers itself" in said, said[-3000:]
    image = f"photos/{first.parent.name}/{first.name}: "
    answers = [line for line in said.splitlines() if line.startswith(image)]
    assert len(answers) == 2, said[-3000:]
    assert "answered by cloud" in answers[1], answers
    assert f"✓ {IMAGES} rows added to task photos" in said
