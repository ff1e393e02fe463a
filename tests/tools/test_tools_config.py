"""``outrider config``: what is wrong is named with its line, what is in force with where it came from."""

from pathlib import Path

import pytest

from outrider.environment import overrides_from
from outrider_cloud.config import CloudConfig
from outrider_edge.config import EdgeConfig
from outrider_wire.errors import OperatorConfigError

EDGE = """\
device = "cam-7"

[[tasks]]
file = "task.toml"
bundle = "bundle"

[api]
port = 9001
"""
CLOUD = """\
[[tasks]]
file = "task.toml"
large = "onnx:expert"
"""


@pytest.fixture
def edge_toml(tmp_path):
    (tmp_path / "edge.toml").write_text(EDGE)
    return tmp_path / "edge.toml"


@pytest.mark.parametrize(("name", "text"), [("edge.toml", EDGE), ("cloud.toml", CLOUD)])
def test_a_right_file_passes(outrider, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    ran = outrider("config", "check", name, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["kind"] == name.removesuffix(".toml")


@pytest.mark.parametrize(("text", "kind"), [(EDGE, "edge"), (CLOUD + "[batch]\nmax_size = 4\n", "cloud")])
def test_the_kind_of_a_file_is_told_by_its_keys(outrider, tmp_path, text, kind):
    (tmp_path / "site-4.toml").write_text(text)
    assert outrider("config", "check", "site-4.toml", "--json").json["kind"] == kind


def test_a_file_of_no_known_kind_asks_for_the_kind(outrider, tmp_path):
    (tmp_path / "other.toml").write_text('colour = "red"\n')
    ran = outrider("config", "check", "other.toml")
    assert ran.code == 2
    assert "--kind edge|cloud|task" in ran.err


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest(outrider, edge_toml):
    edge_toml.write_text(EDGE.replace("port", "prot"))
    ran = outrider("config", "check", "edge.toml")
    assert ran.code == 2
    assert ran.err == "error: edge.toml:8: unknown key 'prot'; did you mean 'port'?\n"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("9001", "99999"), "edge.toml:8"),
        (("9001", '"many"'), "edge.toml:8"),
        (("[api]", "[api"), "not valid TOML"),
        (('"cam-7"', '"Cam 7"'), "cannot stand in a topic"),
    ],
)
def test_a_wrong_value_is_said_in_one_sentence(outrider, edge_toml, change, said):
    edge_toml.write_text(EDGE.replace(*change))
    ran = outrider("config", "check", "edge.toml")
    assert ran.code == 2
    assert said in ran.err
    assert ran.err.count("\n") == 1


def test_the_environment_wins_over_the_file_and_the_origin_is_told(outrider, edge_toml):
    shown = outrider("config", "show", edge_toml, "--json", OUTRIDER_EDGE_BROKER_URL="mqtt://b:1").json
    assert shown["device"] == {"value": "cam-7", "from": "file"}
    assert shown["broker.url"] == {"value": "mqtt://b:1", "from": "environment"}
    assert shown["api.host"] == {"value": "127.0.0.1", "from": "default"}
    assert shown["api.port"]["from"] == "file"
    assert shown["tasks"]["from"] == "file"
    assert outrider("config", "show", edge_toml, "--json", OUTRIDER_EDGE_API_PORT="9002").json["api.port"] == {
        "value": 9002,
        "from": "environment",
    }


def test_an_unknown_variable_is_refused_with_the_nearest(outrider, edge_toml):
    ran = outrider("config", "check", edge_toml, OUTRIDER_EDGE_API_PROT="9002")
    assert ran.code == 2
    assert "did you mean OUTRIDER_EDGE_API_PORT?" in ran.err


def test_variables_of_the_other_kind_are_not_ours(outrider, edge_toml):
    assert outrider("config", "check", edge_toml, OUTRIDER_CLOUD_API_PORT="nonsense").code == 0


def test_every_kind_has_a_schema(outrider):
    for kind, key in (("edge", "outbox"), ("cloud", "batch"), ("task", "policy")):
        schema = outrider("config", "schema", kind).json
        assert schema["$ref"]
        assert any(key in each.get("properties", {}) for each in schema["$defs"].values())


def test_the_published_document_of_the_wire_is_what_the_command_prints(outrider):
    published = Path(__file__).parents[2] / "docs/asyncapi.json"
    assert outrider("config", "schema", "asyncapi").out == published.read_text()


@pytest.mark.parametrize("kind", [EdgeConfig, CloudConfig])
def test_no_two_settings_share_a_variable(kind):
    from outrider.environment import settings_of

    names = ["_".join(path) for path, _ in settings_of(kind)]
    assert len(names) == len(set(names))


def test_lists_are_split_at_commas_and_numbers_are_numbers():
    found = overrides_from(
        EdgeConfig,
        "OUTRIDER_EDGE",
        {
            "OUTRIDER_EDGE_RUNTIME_PROVIDERS": "CUDAExecutionProvider, CPUExecutionProvider",
            "OUTRIDER_EDGE_RUNTIME_THREADS": "4",
            "OUTRIDER_EDGE_CONFIG": "edge.toml",
            "PATH": "/bin",
        },
    )
    assert found == {"runtime": {"providers": ["CUDAExecutionProvider", "CPUExecutionProvider"], "threads": 4}}


def test_a_variable_that_holds_no_such_value_is_refused():
    with pytest.raises(OperatorConfigError, match="OUTRIDER_EDGE_API_PORT='x'"):
        overrides_from(EdgeConfig, "OUTRIDER_EDGE", {"OUTRIDER_EDGE_API_PORT": "x"})
