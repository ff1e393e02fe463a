"""The wheel on aarch64, emulated: installed by pip, the agent started, one input answered and one escalated to a cloud on the host.

Needs root, qemu-user-static and debootstrap; keeps its Debian in ``OUTRIDER_ARM64_ROOT`` (default ``~/.cache/outrider/arm64``).
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from absent import skip_without
from running import LARGE_SAYS, System

from factory import parts_of, sure, unsure
from outrider.client import Client
from outrider.processes import free_port

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = REPOSITORY / "tools/arm64"
LACKS = [tool for tool in ("qemu-aarch64-static", "debootstrap") if not shutil.which(tool)]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.broker,
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def device_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Debian for aarch64 with Outrider in /opt/outrider."""
    if os.geteuid() != 0:
        skip_without("root", "run the tests as root: entering a Debian of another architecture needs it")
    if LACKS:
        skip_without(" and ".join(LACKS), "apt install qemu-user-static debootstrap")
    root = Path(os.environ.get("OUTRIDER_ARM64_ROOT") or Path.home() / ".cache/outrider/arm64")
    root.parent.mkdir(parents=True, exist_ok=True)
    wheels = tmp_path_factory.mktemp("wheels")
    subprocess.run([SCRIPTS / "make_root.sh", root], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", wheels, REPOSITORY]
    subprocess.run(build, check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([SCRIPTS / "install.sh", root, wheel], check=True)
    return root


def inside(root: Path, *command: str) -> list[str]:
    path = "PATH=/opt/outrider/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return [
        "env",
        "-i",
        path,
        "LANG=C.UTF-8",
        "OMP_NUM_THREADS=1",
        "ORT_DISABLE_TELEMETRY=1",
        "chroot",
        str(root),
        *command,
    ]


def test_a_device_of_another_architecture_answers_and_escalates(device_root: Path, tmp_path: Path) -> None:
    said = subprocess.run(
        inside(device_root, "python", "-c", "import platform; print(platform.machine())"),
        capture_output=True,
        check=True,
    )
    assert said.stdout.strip() == b"aarch64"
    home = device_root / "srv" / f"device-{os.getpid()}"
    home.mkdir(parents=True)
    try:
        with System(tmp_path) as system:
            port = free_port(system.cloud_port + 1)
            for name in ("task.toml", "small"):
                source = system.folder / name
                (shutil.copytree if source.is_dir() else shutil.copy)(source, home / name)
            (home / "edge.toml").write_text(
                f'device = "arm-1"\ndata_dir = "data"\n[runtime]\nprofile = "generic-aarch64"\n'
                f'[broker]\nurl = "{system.broker_url}"\n[api]\nport = {port}\n'
                '[[tasks]]\nfile = "task.toml"\nbundle = "small"\n'
            )
            config = f"/srv/{home.name}/edge.toml"
            began = time.monotonic()
            system.processes.run("arm", inside(device_root, "outrider", "edge", "run", "--config", config))
            system.processes.wait_ready("arm", f"http://127.0.0.1:{port}/health/ready", within_s=300)
            started_s = time.monotonic() - began
            with Client(f"http://127.0.0.1:{port}", timeout_s=120) as client:
                kept = client.ask(system.task.name, parts_of(sure()))
                asked = client.ask(system.task.name, parts_of(unsure()), answer_within_ms=60_000)
        assert (kept.state, kept.certified) == ("edge", True)
        assert (asked.state, asked.label) == ("cloud", LARGE_SAYS)
        print(json.dumps({"machine": "aarch64 (emulated)", "start_s": round(started_s, 1), "kept": kept.label}))
    finally:
        shutil.rmtree(home, ignore_errors=True)
