"""The services of firmware_configs/compose/compose.yaml, played on this machine: its volumes are folders, its hosts are localhost.

There is no container here: images, networks and capabilities are not tried, the commands and the files that they read are.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mosquitto
import yaml

FOLDER = Path(__file__).parent.parent / "firmware_configs/compose"
PLUGIN = "/usr/lib/mosquitto_dynamic_security.so"
_PROGRAMS = {"cloud": "outrider", "agent": "outrider", "broker": "mosquitto"}
"""Build target → what its image's entry point is."""


def services() -> dict[str, dict[str, Any]]:
    """Every service, with what it takes from anchors."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((FOLDER / "compose.yaml").read_text())["services"]
    return found


class Composed:
    """The services' commands in a folder. ``ports`` maps each port of the files to one that is free here."""

    def __init__(self, folder: Path, ports: Mapping[int, int]) -> None:
        self.folder = folder
        self._ports = ports
        shutil.copytree(
            FOLDER, folder / "etc"
        )  # the scripts of the services quote no path: this one has no space in it
        self._places = {
            "/etc/outrider": folder / "etc",
            "/var/lib/outrider-cloud": folder / "cloud",
            "/var/lib/outrider": folder / "agent",
            "/run/secrets": folder / "secrets",
            "/models": folder / "models",
            "/scrape": folder / "scrape",
            "/site": folder / "site",
            PLUGIN: Path(mosquitto.library("mosquitto_dynamic_security.so")),
        }
        for name in ("cloud", "agent", "secrets", "models", "scrape", "site"):
            (folder / name).mkdir()
        self._running: list[subprocess.Popen[bytes]] = []

    def here(self, text: str) -> str:
        """The same with this machine's folders, hosts and ports."""
        for place in sorted(self._places, key=len, reverse=True):
            text = re.sub(rf"(?<![\w./-]){re.escape(place)}(?![\w-])", str(self._places[place]), text)
        text = re.sub(r"(?<=//)(broker|cloud)(?=:)|(?<=@)store(?=:)", "localhost", text)
        for there, free in self._ports.items():
            text = re.sub(rf"(?<=[:' ]){there}\b", str(free), text)
        return text

    def play(self, name: str, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a service, or another command in its image, to its end."""
        command = self._command(name, arguments)
        done = subprocess.run(
            command,
            env=self._environment(name),
            capture_output=True,
            text=True,
            timeout=120,
            cwd=self.folder,
            check=False,
        )
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done

    def start(self, name: str) -> subprocess.Popen[bytes]:
        """Runs a service until the end."""
        with (self.folder / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self._command(name, ()), env=self._environment(name), stdout=log, stderr=log, cwd=self.folder
            )
        self._running.append(process)
        return process

    def log(self, name: str) -> str:
        """What a service has said."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def is_healthy(self, target: str) -> bool:
        """What the image's HEALTHCHECK says."""
        text = (FOLDER / "Containerfile").read_text()
        stage = text[text.index(f" AS {target}\n") :]
        found = re.search(r"^HEALTHCHECK .*\\\n *CMD (\[.*\])$", stage, re.MULTILINE)
        assert found
        words = [self.here(word) for word in yaml.safe_load(found[1])]
        words = [word.replace(":22B3 ", f":{self._ports[8883]:04X} ") for word in words]
        words[0] = {"python": sys.executable}.get(words[0], words[0])
        return subprocess.run(words, capture_output=True, check=False, timeout=20).returncode == 0

    def end(self) -> None:
        """Ends what runs, the last first."""
        for process in reversed(self._running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _command(self, name: str, arguments: tuple[str, ...]) -> list[str]:
        service = services()[name]
        words = [str(word) for word in (*service.get("entrypoint", ()), *(arguments or service["command"]))]
        words = [self.here(word).replace("$$", "$") for word in words]
        listening = " ".join(f"--{flag} {self._ports[port]}" for flag, port in (("port", 8883), ("api-port", 8780)))
        words = [word.replace(" --worker one", f" --worker one --listen 127.0.0.1 {listening}") for word in words]
        if "entrypoint" in service:
            return words
        program = _PROGRAMS[service["build"]["target"]]
        return [mosquitto.require().as_posix() if program == "mosquitto" else str(_outrider()), *words]

    def _environment(self, name: str) -> dict[str, str]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("OUTRIDER_")}
        env |= {"OMP_NUM_THREADS": "1", "PATH": f"{_outrider().parent}:{env['PATH']}"}
        for key, value in services()[name].get("environment", {}).items():
            env[key] = self.here(re.sub(r"\$\{OUTRIDER_HOST[^}]*\}", "localhost", str(value)))
        return env


def _outrider() -> Path:
    return Path(sys.executable).parent / "outrider"
