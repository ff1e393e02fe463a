"""A folder in which commands run as a person would type them from a document's block. Knows no assertion of a test's own."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import mosquitto

OUTRIDER = Path(sys.executable).parent / "outrider"
READY = {"cloud": "cloud.serving", "edge": "agent.ready", "broker": "broker at "}
"""What a process behind says when it is ready, by its command."""


def commands(document: Path) -> list[str]:
    """The commands of a document's first block, without their remarks."""
    block = re.search(r"```sh\n(.*?)```", document.read_text(), re.DOTALL)
    assert block
    return [line.split("  #")[0].strip() for line in block[1].splitlines() if line.strip()]


class Machine:
    """Runs them; what ends with ``&`` or ``-d`` runs until `end`."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.variables: dict[str, str] = {}
        """What ``$NAME`` in a command stands for."""
        self._environment = environment
        self._running: list[subprocess.Popen[bytes]] = []

    def amended(self, command: str) -> str:
        """The command as it is run here: other ports, another host."""
        return command

    def run(self, command: str, *, code: int = 0) -> str:
        """What it printed on standard output; it has to end with that exit code."""
        command = self.amended(command)
        behind = command.endswith(("&", " -d"))
        words = shlex.split(command.removesuffix("&").removesuffix(" -d"))
        words = [self.variables.get(word.removeprefix("$"), word) if word.startswith("$") else word for word in words]
        program = str(OUTRIDER if words[0] == "outrider" else mosquitto.require())
        env = {name: value for name, value in os.environ.items() if not name.startswith("OUTRIDER_")}
        env |= {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", **self._environment}
        if words[1:3] in (["cloud", "serve"], ["edge", "run"]):
            words += ["--log-level", "debug"]
        if behind:
            with (self.folder / f"{len(self._running)}.log").open("wb") as log:
                self._running.append(
                    subprocess.Popen([program, *words[1:]], cwd=self.folder, env=env, stdout=log, stderr=log)
                )
            self._settled(words)
            return ""
        done = subprocess.run(
            [program, *words[1:]],
            cwd=self.folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == code, (command, done.stdout, done.stderr, self.log()[-4000:])
        return done.stdout

    def log(self) -> str:
        """What the processes behind have printed."""
        return "".join((self.folder / f"{number}.log").read_text() for number in range(len(self._running)))

    def end(self) -> None:
        """Ends them."""
        for process in self._running:
            process.kill()
            process.wait()

    def _settled(self, words: list[str]) -> None:
        word = READY.get(words[1]) if words[0] == "outrider" else None
        deadline = time.monotonic() + 60
        while word is not None and word not in self.log():
            assert self._running[-1].poll() is None and time.monotonic() < deadline, self.log()
            time.sleep(0.05)
