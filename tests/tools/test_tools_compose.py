"""firmware_configs/compose: files that fit each other and the programs. Nothing is built: there is no registry and no daemon here."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from composed import FOLDER, Composed, services
from running import task_toml

from factory import make_bundle, make_task
from outrider.processes import any_port
from outrider_cloud.metrics import Metrics
from outrider_edge.exposition import AgentCollector, page
from outrider_edge.metrics import Metrics as AgentMetrics
from outrider_edge.outbox.view import OutboxView
from outrider_wire.messages import MonitorFigures

SERVICES = services()
CONTAINERFILE = (FOLDER / "Containerfile").read_text()
FIGURES = MonitorFigures(certificate="c", risk=0.05, alarm=False, statistic=0.0, limit=1.0, audits=0, errors=0)
_YOURS = ("./models", "./secrets")
"""Beside the file, and never committed."""


def targets() -> dict[str, str]:
    """Stage → its text."""
    stages = re.split(r"(?m)^FROM ", CONTAINERFILE)[1:]
    return {re.split(r"\s", stage)[2]: stage for stage in stages}


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_runs_without_rights(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service and "cap_add" not in service
    if "build" in service:
        assert "USER 10001:10001" in targets()[service["build"]["target"]]


def test_every_image_is_of_a_stated_version() -> None:
    stages = targets()
    images = [service["image"] for service in SERVICES.values()]
    images += [found for found in re.findall(r"(?m)^FROM (\S+)", CONTAINERFILE) if found not in stages]
    assert len(images) > len(SERVICES)
    for image in images:
        name, _, tag = image.partition(":")
        assert name and re.fullmatch(r"v?\d+\.\d+[\w.-]*", tag), image


def test_only_wheels_are_installed_and_passwords_stay_out_of_the_images() -> None:
    installs = re.findall(r"pip install ([^\n]*)", CONTAINERFILE)
    assert installs and all(line.startswith("--only-binary :all: ") for line in installs)
    ignored = (FOLDER / "Containerfile.dockerignore").read_text().splitlines()
    assert ignored[1] == "*" and "firmware_configs/compose/secrets" in ignored


def test_what_is_mounted_is_there() -> None:
    whole = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.partition(":")[0]
            if source.startswith("./"):
                assert source.startswith(_YOURS) or (FOLDER / source).exists(), source
            else:
                assert source in whole["volumes"]
        assert set(service.get("secrets", ())) <= set(whole["secrets"])
        for other in (*service.get("depends_on", ()), *(str(service.get("network_mode", "")).split(":")[1:])):
            assert other in SERVICES


def test_prometheus_asks_the_agent_where_it_listens_and_the_cloud_with_its_token() -> None:
    asked = {job["job_name"]: job for job in read("prometheus/prometheus.yml")["scrape_configs"]}
    assert asked["agent"]["static_configs"][0]["targets"] == ["127.0.0.1:8713"]
    assert SERVICES["agent"]["network_mode"] == SERVICES["prometheus"]["network_mode"] == "service:device"
    assert asked["cloud"]["authorization"]["credentials_file"] == "/scrape/token"
    script = SERVICES["site"]["command"][0]
    assert f"--host {asked['cloud']['tls_config']['server_name']} " in script
    source = read("grafana/provisioning/datasources/prometheus.yml")["datasources"][0]
    assert source["url"] == "http://device:9090"
    assert {panel["datasource"]["uid"] for panel in panels()} == {source["uid"]}


def test_every_metric_that_is_drawn_or_watched_exists() -> None:
    known = exposed(Metrics().text().decode()) | exposed(agent_page())
    asked = [target["expr"] for panel in panels() for target in panel["targets"]]
    asked += [rule["expr"] for group in read("prometheus/rules.yml")["groups"] for rule in group["rules"]]
    named = {name for expression in asked for name in re.findall(r"\boutrider_\w+", expression)}
    assert len(named) >= 20
    assert named <= known


def test_the_site_is_made_once_and_its_files_are_valid(tmp_path: Path) -> None:
    made = Composed(tmp_path, {port: any_port() for port in (8883, 8780, 8713)})
    (tmp_path / "secrets/store-password").write_text("p")
    task = make_task()
    (tmp_path / "models/task.toml").write_text(task_toml(task))
    make_bundle(tmp_path / "models/small", task)
    make_bundle(tmp_path / "models/large", task, seed=1, certified=False)
    made.play("site")
    first = (tmp_path / "site/authority/ca.pem").read_bytes()
    made.play("site")
    assert (tmp_path / "site/authority/ca.pem").read_bytes() == first, "a second start leaves the site as it is"
    assert (tmp_path / "scrape/token").stat().st_mode & 0o777 == 0o444
    config = tmp_path / "site/cloud.toml"
    config.write_text(made.here(config.read_text()))
    assert "valid" in made.play("cloud", "config", "check", str(config)).stdout
    shown = json.loads(made.play("cloud", "config", "show", str(config), "--json").stdout)
    assert shown["store.url"]["value"] == "postgresql://outrider@localhost:5432/outrider"
    assert shown["broker.url"]["value"].startswith("mqtts://localhost:")
    edge = tmp_path / "edge.toml"
    edge.write_text(made.here((FOLDER / "edge.toml").read_text()))
    assert "valid" in made.play("agent", "config", "check", str(edge)).stdout


def read(file: str) -> Any:
    return yaml.safe_load((FOLDER / file).read_text())


def panels() -> list[dict[str, Any]]:
    """Those of the dashboard that draw something."""
    dashboard = json.loads((FOLDER / "grafana/dashboards/outrider.json").read_text())
    ids = [panel["id"] for panel in dashboard["panels"]]
    assert len(ids) == len(set(ids))
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def agent_page() -> str:
    """An agent's metrics page, with the families of a fresh one."""
    outbox = OutboxView(
        count=0, bytes=0, max_count=1, max_bytes=1, max_age_s=1, free_bytes=1, min_free_bytes=1, fault="", mended=0,
        damaged=[], evictions={},
    )  # fmt: skip
    metrics = AgentMetrics(tasks=["t"])
    metrics.attach(lambda _task: FIGURES)
    collector = AgentCollector(metrics=metrics, accounts=dict, connected=lambda: False, outbox=lambda: outbox)
    return page(collector).decode()


def exposed(text: str) -> set[str]:
    """The names of samples that a page has, or would have."""
    names: set[str] = set()
    for name, kind in re.findall(r"(?m)^# TYPE (\S+) (\S+)$", text):
        names |= {f"{name}_bucket", f"{name}_sum", f"{name}_count"} if kind == "histogram" else {name}
    return names
