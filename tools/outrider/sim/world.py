"""The system that faults happen to: a broker, a cloud, devices, each a process; lines between them; a large model with a book.

Everything lies in one temporary folder and listens on free ports of the loopback, and no setting of the user's reaches it.
"""

import contextlib
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from msgspec.structs import replace

from outrider.client import Client
from outrider.processes import Processes, any_port, free_port
from outrider.sim.backstage import Backstage
from outrider.sim.large_server import MODEL, LargeServer
from outrider.sim.link import FAIR, Link
from outrider.sim.moved_clock import write_ahead
from outrider.sim.power.mounted import Mounted
from outrider_export.task_text import task_to_toml
from outrider_wire.errors import OperatorSetupError, UndecidedError
from outrider_wire.report import Account
from outrider_wire.task import Task, parse_task

Kind = Literal["embedded", "mosquitto"]
HOST = "127.0.0.1"
READY_S = 45.0
_LINGER_S = 0.5
"""For so long a question that a killed process had sent may still be read by the large model."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """One device."""

    name: str
    keep_for_s: int = 600
    """How long its escalations are worth having."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What kind of system."""

    broker: Kind = "embedded"
    durability: Literal["disk", "memory"] = "disk"
    """Of the devices' outboxes. ``memory`` loses by design: what a simulation must be able to see."""
    disks: bool = False
    """The device and the cloud each lie on a disk that can be told to fail; needs FUSE."""
    moved_clock: bool = False
    """The clocks of the device and the cloud can be moved."""
    devices: tuple[Device, ...] = (Device(name="cam-1"),)


@dataclass
class Outage:
    """A time in which the cloud was dead, or could not do its work: it may have asked the large model, and not kept the answer."""

    began_s: float
    ended_s: float = field(default=float("inf"))


class World:
    """Use as a context manager: inside the block everything runs and is ready.

    Args:
        folder: of its own; the logs stay there.
        plan: what kind of system.
        seed: of the lines' weather.
    """

    def __init__(self, *, folder: Path, plan: Plan, seed: int = 0) -> None:
        self.plan = plan
        self.folder = folder
        self.outages: list[Outage] = []
        self.task: Task = _shipped_task()
        self.processes = Processes(logs=folder / "logs", isolated=True)
        self.backstage = Backstage()
        self.large = LargeServer(labels=self.task.labels)
        self.disks = {name: Mounted(folder=folder / name) for name in ("cloud", plan.devices[0].name) if plan.disks}
        self.persistent = False
        """Whether the broker keeps sessions and messages over a restart; mosquitto can."""
        self.hours = 0
        """By which the clocks have been moved."""
        self._stack = ExitStack()
        self._broker_port = any_port()
        self._cloud_port = free_port(self._broker_port + 1)
        self._ports: dict[str, int] = {}
        self._ahead = folder / "ahead"
        next_port = self._cloud_port
        for device in plan.devices:
            self._ports[device.name] = next_port = free_port(next_port + 1)
        self.cloud_link = Link(to=self._broker_port, seed=seed)
        self.device_link = Link(to=self._broker_port, seed=seed + 1)

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:  # interrupted too: __exit__ is not called for what never entered
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- its parts

    @property
    def links(self) -> tuple[Link, Link]:
        """Between the devices and the broker; between the cloud and the broker."""
        return self.device_link, self.cloud_link

    @property
    def device(self) -> str:
        """The first device's name."""
        return self.plan.devices[0].name

    def client(self, device: str) -> Client:
        """The local API of a device."""
        return Client(f"http://{HOST}:{self._ports[device]}", timeout_s=20.0)

    def outbox_file(self, device: str) -> Path:
        """Where a device keeps what it must not lose."""
        return self.folder / device / "outbox" / "outbox.db"

    @property
    def store_file(self) -> Path:
        """Where the cloud keeps what it must not lose."""
        return self.folder / "cloud" / "cloud.db"

    def accounts(self) -> dict[str, Account]:
        """Every device's account, as its own API gives it."""
        said = {}
        for device in self.plan.devices:
            with self.client(device.name) as client:
                said[device.name] = client.account()
        return said

    def log_sizes(self) -> Mapping[str, int]:
        """How much each process has printed so far."""
        return {name: self._log(name).stat().st_size for name in self.parts()}

    def logs_since(self, sizes: Mapping[str, int], whose: str) -> Iterator[str]:
        """What has been printed since; ``whose``: ``device``, ``cloud``, or both words."""
        for word in whose.split():
            name = self.device if word == "device" else word
            yield self._log(name).read_bytes()[sizes[name] :].decode(errors="replace")

    def _log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    # --- starting, killing, healing

    def launch(self, name: str) -> None:
        """Starts a part again: ``broker``, ``cloud``, or a device. Returns at once."""
        match name:
            case "broker":
                self._launch_broker()
            case "cloud":
                self._launch_cloud()
            case _:
                self._launch_device(name)

    def wait_ready(self, name: str) -> None:
        """Returns when a part does its work; errors as `Processes.wait_ready`."""
        match name:
            case "broker":
                self.processes.wait_port("broker", self._broker_port)
            case "cloud":
                self.processes.wait_ready("cloud", _ready(self._cloud_port), within_s=READY_S)
            case _:
                self.processes.wait_ready(name, _ready(self._ports[name]), within_s=READY_S)

    def start(self, name: str) -> None:
        """`launch` and `wait_ready`."""
        self.launch(name)
        self.wait_ready(name)

    def kill(self, name: str) -> None:
        """SIGKILL; then nothing answers there any more."""
        if name == "cloud":
            self.outages.append(Outage(time.monotonic(), time.monotonic() + _LINGER_S))
        self.processes.kill(name)
        if name == "broker":
            self._wait_closed(self._broker_port)

    def stop(self, name: str) -> None:
        """SIGTERM, and the end that follows."""
        self.processes.stop(name)
        if name == "broker":
            self._wait_closed(self._broker_port)

    def excuse_cloud(self) -> Outage:
        """From now until the outage is given an end, the cloud may pay the large model for what it cannot keep."""
        outage = Outage(time.monotonic())
        self.outages.append(outage)
        return outage

    def heal(self) -> None:
        """Everything as it should be: fair weather, a sound large model, sound disks; what has died is started, as systemd would."""
        self.large.manner = "well"
        for link in self.links:
            self.backstage.call(link.change(FAIR))
        for disk in self.disks.values():
            disk.mood("ok")
        for name in self.parts():
            if not self.processes.runs(name):
                self.launch(name)

    def wait_whole(self) -> None:
        """Returns when every part is ready, and every device has reached the broker."""
        for name in self.parts():
            self.wait_ready(name)
        for device in self.plan.devices:
            self._wait_connected(device.name)

    def parts(self) -> Sequence[str]:
        """Every process, the ones that others need first."""
        return ("broker", "cloud", *(device.name for device in self.plan.devices))

    def move_clocks(self, seconds: float) -> None:
        """The clocks of the cloud and of the devices are that far ahead from now on."""
        write_ahead(self._ahead, seconds)

    # --- inside

    def _start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.move_clocks(0.0)
        for disk in self.disks.values():
            self._stack.enter_context(disk)
        self._stack.enter_context(self.backstage)
        for server in (self.large, *self.links):
            self.backstage.call(server.start())
            self._stack.callback(self._stop, server)
        self._stack.enter_context(self.processes)
        (self.folder / "task.toml").write_text(task_to_toml(self.task))
        for name in self.parts():
            self.launch(name)
        self.wait_whole()

    def _stop(self, server: LargeServer | Link) -> None:
        self.backstage.call(server.stop())

    def _launch_broker(self) -> None:
        if self.plan.broker == "mosquitto":
            self.processes.run("broker", [_mosquitto(), "-c", str(self._mosquitto_config())])
        else:
            self.processes.start("broker", ["broker", "run", "--port", str(self._broker_port)])

    def _mosquitto_config(self) -> Path:
        """A listener on the loopback; what it keeps goes into this simulation's folder, whoever we are."""
        kept = self.folder / "mosquitto"
        kept.mkdir(exist_ok=True)
        config = self.folder / "mosquitto.conf"
        lines = [
            f"listener {self._broker_port} {HOST}",
            "allow_anonymous true",
            "user root",  # in effect only when root starts it: it would give up the folder's rights otherwise
            f"persistence {str(self.persistent).lower()}",
            f"persistence_location {kept}/",
            "autosave_interval 1",
        ]
        config.write_text("\n".join(lines) + "\n")
        return config

    def _launch_cloud(self) -> None:
        config = self.folder / "cloud.toml"
        config.write_text(
            f'data_dir = "cloud"\nworker = "sim"\nlease_s = 5\n[broker]\nurl = "mqtt://{HOST}:{self.cloud_link.port}"\n'
            f'[api]\nport = {self._cloud_port}\n[[tasks]]\nfile = "task.toml"\nstrategy = "shunt"\n'
            f'large = "openai:{self.large.url}#{MODEL}"\n[tasks.asking]\ntimeout_s = 2\nretries = 1\n'
        )
        self._launch("cloud", ["cloud", "serve", "--config", str(config)])

    def _launch_device(self, name: str) -> None:
        device = next(device for device in self.plan.devices if device.name == name)
        policy = replace(
            self.task.policy,
            durability=self.plan.durability,
            keep_for_s=device.keep_for_s,
            audit_rate=0.0,
            answer_within_ms=2000,
        )
        (self.folder / f"{name}-task.toml").write_text(task_to_toml(replace(self.task, policy=policy)))
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'device = "{name}"\ndata_dir = "{name}"\n[broker]\nurl = "mqtt://{HOST}:{self.device_link.port}"\n'
            f"[api]\nport = {self._ports[name]}\n[outbox]\nreceipt_timer_s = 0.5\n"
            f'[[tasks]]\nfile = "{name}-task.toml"\nbundle = "{_shipped() / "bundle"}"\n'
        )
        self._launch(name, ["edge", "run", "--config", str(config)])

    def _launch(self, name: str, command: Sequence[str]) -> None:
        if self.plan.moved_clock:
            launcher = [sys.executable, "-m", "outrider.sim.moved_clock", str(self._ahead)]
            self.processes.run(name, [*launcher, *command])
        else:
            self.processes.start(name, command)

    def _wait_connected(self, device: str) -> None:
        deadline = time.monotonic() + READY_S
        with self.client(device) as client:
            while client.status()["broker"] != "connected":
                if time.monotonic() > deadline:
                    raise UndecidedError(f"{device} does not reach the broker", reason="not_connected")
                time.sleep(0.05)

    def _wait_closed(self, port: int) -> None:
        """The embedded broker is a child of what was killed, and ends a moment later."""
        import socket

        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
            except OSError:
                return
            time.sleep(0.01)
        raise UndecidedError(f"something still listens on port {port}", reason="not_stopped")


def mosquitto_missing() -> str:
    """Why mosquitto cannot be the broker here; '' when it can."""
    with contextlib.suppress(OperatorSetupError):
        _mosquitto()
        return ""
    return "mosquitto is not installed"


def _ready(port: int) -> str:
    return f"http://{HOST}:{port}/health/ready"


def _mosquitto() -> str:
    """``OUTRIDER_MOSQUITTO``, or the system's; daemons are seldom on a user's path."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    found = os.environ.get("OUTRIDER_MOSQUITTO") or shutil.which("mosquitto", path=places)
    if found is None:
        raise OperatorSetupError(
            "mosquitto is not installed",
            reason="no_mosquitto",
            fix="apt install mosquitto, name one in OUTRIDER_MOSQUITTO, or take --broker embedded",
        )
    return found


def _shipped() -> Path:
    import outrider_edge

    return Path(outrider_edge.__file__).parent / "demo"


def _shipped_task() -> Task:
    return parse_task((_shipped() / "task.toml").read_text(), "task.toml")
