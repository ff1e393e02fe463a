"""A whole small system as separate processes, for the end-to-end and fault tests: broker, cloud, agents. Knows no assertion."""

from pathlib import Path

from mosquitto import Mosquitto

from factory import make_bundle, make_task
from outrider.client import Client
from outrider.processes import Processes, any_port, free_port
from outrider_wire.task import Policy, Task

LARGE_SAYS = "red"
"""What the large model of this system says of every input that the small one is unsure of."""


class System:
    """One broker, one cloud, and agents, each a process with its own folder under ``folder``. Use as a context manager.

    Args:
        broker_kind: ``embedded`` or ``mosquitto``.
        persistence: whether a mosquitto that is stopped remembers.
        broker_extra: lines for a mosquitto's configuration.
        cloud_extra: sections of the cloud's.
    """

    def __init__(
        self,
        folder: Path,
        *,
        policy: Policy | None = None,
        broker_kind: str = "embedded",
        persistence: bool = False,
        broker_extra: str = "",
        cloud_extra: str = "",
    ) -> None:
        self.folder = folder
        self._broker_kind = broker_kind
        self._cloud_extra = cloud_extra
        self._mosquitto = Mosquitto(folder / "broker", persistence=persistence, extra=broker_extra)
        self.task: Task = make_task(policy=policy or Policy(answer_within_ms=10_000, keep_for_s=600, audit_rate=0.05))
        self.processes = Processes(logs=folder / "logs")
        self.broker_port = any_port()
        self.cloud_port = free_port(self.broker_port + 1)
        self._next_port = self.cloud_port + 1
        self._agents: dict[str, int] = {}
        (folder / "task.toml").write_text(task_toml(self.task))
        make_bundle(folder / "small", self.task)
        make_bundle(folder / "large", self.task, seed=1, bias=[6.0, 0.0, 0.0], certified=False)

    def __enter__(self) -> "System":
        self.processes.__enter__()
        try:
            self.start_broker()
            self.start_cloud()
        except BaseException:  # interrupted too: __exit__ is not called for what never entered
            self.processes.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.processes.__exit__()

    @property
    def broker_url(self) -> str:
        """Where the broker listens."""
        return f"mqtt://127.0.0.1:{self.broker_port}"

    def start_broker(self) -> None:
        """The broker, listening."""
        if self._broker_kind == "embedded":
            self.processes.start("broker", ["broker", "run", "--port", str(self.broker_port)])
        else:
            self._mosquitto.port = self.broker_port
            self.processes.run("broker", self._mosquitto.command())
        self.processes.wait_port("broker", self.broker_port)

    def start_cloud(self) -> None:
        """The escalation endpoint, ready."""
        config = self.folder / "cloud.toml"
        config.write_text(
            f'data_dir = "cloud"\n[broker]\nurl = "{self.broker_url}"\n[api]\nport = {self.cloud_port}\n'
            '[[tasks]]\nfile = "task.toml"\nlarge = "onnx:large"\nstrategy = "shunt"\n'
            f"{self._cloud_extra}"
        )
        self.processes.start("cloud", ["cloud", "serve", "--config", str(config)])
        self.processes.wait_ready("cloud", f"http://127.0.0.1:{self.cloud_port}/health/ready")

    def start_agent(self, name: str, *, extra: str = "") -> Client:
        """An agent on its own folder and port (kept over restarts), ready; the client to it."""
        port = self._agents.get(name)
        if port is None:
            port = self._agents[name] = free_port(self._next_port)
            self._next_port = port + 1
        config = self.folder / f"{name}.toml"
        config.write_text(
            f'device = "{name}"\ndata_dir = "{name}"\n[broker]\nurl = "{self.broker_url}"\n[api]\nport = {port}\n'
            f'[outbox]\nreceipt_timer_s = 1.0\n[[tasks]]\nfile = "task.toml"\nbundle = "small"\n{extra}'
        )
        self.processes.start(name, ["edge", "run", "--config", str(config)])
        self.processes.wait_ready(name, f"http://127.0.0.1:{port}/health/ready")
        return Client(f"http://127.0.0.1:{port}")

    def log(self, name: str) -> str:
        """What a process has printed."""
        return (self.folder / "logs" / f"{name}.log").read_text(errors="replace")


def task_toml(task: Task) -> str:
    """The file that says a task."""
    policy = task.policy
    inputs = "".join(
        f'[[inputs]]\nname = "{part.name}"\nmodality = "{part.modality}"\nmax_bytes = {part.max_bytes}\n'
        f"max_pixels = {part.max_pixels}\n"
        for part in task.inputs
    )
    return (
        f'name = "{task.name}"\n{inputs}[answer]\nlabels = {task.labels!r}\n[policy]\n'
        f"answer_within_ms = {policy.answer_within_ms}\nkeep_for_s = {policy.keep_for_s}\n"
        f'audit_rate = {policy.audit_rate}\ndurability = "{policy.durability}"\n'
    )
