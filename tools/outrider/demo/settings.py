"""The demo's configuration files: one cloud, two cameras, written as a user would. Starts nothing."""

from dataclasses import dataclass
from pathlib import Path

from outrider.demo.dataset import ROLE_KEY, SHARES
from outrider.demo.models import Models
from outrider.processes import free_port
from outrider_export.task_text import task_to_toml
from outrider_wire.task import Task

CAMERAS = ("cam-1", "cam-2")
_BROKER_PORT, _CLOUD_PORT, _AGENT_PORT = 1883, 8780, 8713


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Where everything is."""

    folder: Path
    broker_port: int
    cloud: str
    """Address of the cloud's HTTP API."""
    agents: dict[str, str]
    """Device → address of its local API."""
    cloud_file: Path
    agent_files: dict[str, Path]

    @property
    def commands(self) -> list[str]:
        """What was started, as a user would type it."""
        return [
            f"outrider broker run --port {self.broker_port}",
            f"outrider cloud serve --config {self.cloud_file}",
            *(f"outrider edge run --config {file}" for file in self.agent_files.values()),
        ]


def write_settings(folder: Path, task: Task, models: Models, *, port_offset: int) -> Settings:
    """Writes task, roles key, ``cloud.toml`` and one edge file a camera into ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "task.toml").write_text(task_to_toml(task))
    (folder / "roles.key").write_text(ROLE_KEY + "\n")
    broker_port = free_port(_BROKER_PORT + port_offset)
    cloud_port = free_port(_CLOUD_PORT + port_offset)
    shares = "\n".join(f"{role} = {getattr(SHARES, role)}" for role in SHARES.__struct_fields__)
    cloud_file = folder / "cloud.toml"
    cloud_file.write_text(
        f"""data_dir = "cloud"

[broker]
url = "mqtt://127.0.0.1:{broker_port}"

[api]
port = {cloud_port}

[roles]
key_file = "roles.key"

[roles.shares]
{shares}

[[tasks]]
file = "task.toml"
large = "onnx:{models.large.absolute()}"
strategy = "soft-prune"
lambda = {models.strength}
"""
    )
    agent_files, agents, port = {}, {}, _AGENT_PORT + port_offset
    for name in CAMERAS:
        port = free_port(port)
        agents[name] = f"http://127.0.0.1:{port}"
        agent_files[name] = folder / f"{name}.toml"
        agent_files[name].write_text(
            f"""device = "{name}"
data_dir = "{name}"

[broker]
url = "mqtt://127.0.0.1:{broker_port}"

[api]
port = {port}

[updates]
probation_answers = 20
probation_least_s = 0.0
probation_s = 30.0

[[tasks]]
file = "task.toml"
bundle = "{models.small.absolute()}"
"""
        )
        port += 1
    return Settings(
        folder=folder,
        broker_port=broker_port,
        cloud=f"http://127.0.0.1:{cloud_port}",
        agents=agents,
        cloud_file=cloud_file,
        agent_files=agent_files,
    )
