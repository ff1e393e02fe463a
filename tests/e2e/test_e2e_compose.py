"""The loop of compose.yaml, without its containers: every service's own command, with a real mosquitto and a real PostgreSQL."""

import json
import re
import shlex
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from composed import FOLDER, Composed
from postgres_server import PASSWORD, Postgres
from running import LARGE_SAYS, task_toml

from factory import QUESTION, make_bundle, make_task, sure, unsure
from outrider.client import Client
from outrider.processes import any_port
from outrider_wire.task import Policy

DOCUMENT = Path(__file__).parents[2] / "docs/containers.md"
pytestmark = [pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Composed]:
    """The folder, with a task, its two models and a database as the service `store` has one."""
    with Postgres() as store:
        store.sql("CREATE DATABASE outrider TEMPLATE template0")
        ports = {8883: any_port(), 8780: any_port(), 8713: any_port(), 5432: store.port}
        made = Composed(tmp_path, ports)
        (tmp_path / "secrets/store-password").write_text(PASSWORD)
        task = make_task(policy=Policy(answer_within_ms=20_000, keep_for_s=600))
        (tmp_path / "models/task.toml").write_text(task_toml(task))
        make_bundle(tmp_path / "models/small", task)
        make_bundle(tmp_path / "models/large", task, seed=1, bias=[6.0, 0.0, 0.0], certified=False)
        (tmp_path / "agent/edge.toml").write_text(made.here((FOLDER / "edge.toml").read_text()))
        try:
            yield made
        finally:
            made.end()


def test_the_loop_is_up_answers_from_the_cloud_is_measured_and_puts_a_device_out(loop: Composed) -> None:
    loop.play("site")
    config = loop.folder / "site/cloud.toml"
    config.write_text(loop.here(config.read_text()))
    for name in ("broker", "cloud"):
        process = loop.start(name)
        until(lambda name=name: loop.is_healthy(name), lambda process=process: process.poll() is None, loop, name)
    invite, join, listing, revoke = documented()
    line = loop.play(*invite).stdout.strip()
    loop.play(*(word.replace("$LINE", line) for word in join))
    agent = loop.start("agent")
    until(lambda: loop.is_healthy("agent"), lambda: agent.poll() is None, loop, "agent")
    api = loop.here("http://127.0.0.1:8713")
    with Client(api) as client:
        until(lambda: client.status()["broker"] == "connected", lambda: agent.poll() is None, loop, "agent")
        said = [client.ask("colours", {"image": picture, "question": QUESTION}) for picture in (sure(1), unsure())]
    assert [report.answered_by for report in said] == ["edge", "cloud"] and said[1].label == LARGE_SAYS
    pages = [read(f"{api}/metrics"), read(loop.here("https://localhost:8780/metrics"), loop.folder / "scrape")]
    assert 'outrider_inputs_settled_total{state="answered",task="colours"} 1.0' in pages[1]
    assert unlabelled(pages) == []
    assert "agent-1" in loop.play(*listing).stdout
    loop.play(*revoke)
    with Client(api) as client:
        until(lambda: client.status()["broker"] == "unreachable", lambda: agent.poll() is None, loop, "agent")


def documented() -> list[list[str]]:
    """The commands of docs/containers.md that run in a service, each behind its name: the service, then what `outrider` is told."""
    text = DOCUMENT.read_text()
    found = re.findall(r"(?m)docker compose (?:exec|run --rm) (\w+) ([^#\n]*?)\)?(?: *#.*)?$", text)
    return [[service, *shlex.split(rest.removeprefix("outrider "))] for service, rest in found]


def unlabelled(pages: list[str]) -> list[str]:
    """Legends of the dashboard that name a label which the samples drawn do not have; those that Prometheus adds aside."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/outrider.json").read_text())
    wrong = []
    for target in (each for panel in dashboard["panels"] for each in panel.get("targets", ())):
        names = re.findall(r"\boutrider_\w+", target["expr"])
        samples = [line for page in pages for name in names for line in re.findall(rf"(?m)^{name}\{{.*", page)]
        wanted = set(re.findall(r"{{(\w+)}}", target["legendFormat"])) - {"device", "job"}
        wrong += [target["expr"] for label in wanted if samples and not any(f"{label}=" in line for line in samples)]
    return wrong


def read(url: str, scrape: Path | None = None) -> str:
    """A page; of the cloud as Prometheus asks for it, with the files of its volume."""
    context = ssl.create_default_context(cafile=scrape / "ca.pem") if scrape else None
    asked = urllib.request.Request(url)  # noqa: S310  on this machine
    if scrape:
        asked.add_header("Authorization", f"Bearer {(scrape / 'token').read_text().strip()}")
    with urllib.request.urlopen(asked, context=context) as reply:  # noqa: S310  as above
        text: str = reply.read().decode()
    return text


def until(true: Callable[[], bool], alive: Callable[[], bool], loop: Composed, name: str) -> None:
    deadline = time.monotonic() + 60
    while not true():
        assert alive() and time.monotonic() < deadline, loop.log(name)
        time.sleep(0.2)
