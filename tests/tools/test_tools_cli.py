"""The command line as a whole: every command is found, help is quick, and what goes wrong is one sentence and a code."""

import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import outrider as client_package
from outrider.cli import COMMANDS, app, load
from outrider.extras import EXTRAS, extra_of
from outrider.output import fail
from outrider_wire.errors import (
    BundleDamagedError,
    CallerInputError,
    OperatorConfigError,
    OutriderError,
    RuleRefusalError,
    UndecidedError,
    UnreachableError,
)

HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "numpy",
    "rich",
    "aiohttp",
    "sqlalchemy",
    "matplotlib",
    "msgspec",
    "asyncio",
    "PIL",
)
DEVICE_NEVER = ("torch", "transformers", "onnx", "onnxscript", "sqlalchemy", "matplotlib", "rich")


def loaded_by(code: str, *modules: str) -> list[str]:
    """Which of these modules are loaded in a fresh interpreter after ``code``."""
    script = f"import sys\n{code}\nprint([name for name in {modules!r} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60).stdout
    return list(eval(out.splitlines()[-1]))  # noqa: S307 - the list that the line above printed


def spent_by_children() -> float:
    """Seconds of processor time of all that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system


def test_help_lists_every_command_quickly(outrider):
    """The bound is generous, and of processor time: it is there to catch a heavy import, the aim is 0.3 s."""
    outrider("--help")  # the byte code is compiled
    began_s = spent_by_children()
    ran = outrider("--help")
    took_s = spent_by_children() - began_s
    assert ran.code == 0
    assert all(f"\n  {name} " in ran.out and entry.summary in ran.out for name, entry in COMMANDS.items())
    assert took_s < 1.5


def test_help_loads_nothing_heavy():
    code = "sys.argv = ['outrider', '--help']\nfrom outrider.cli import main\ntry: main()\nexcept SystemExit: pass"
    assert loaded_by(code, *HEAVY) == []


def test_importing_the_client_loads_nothing():
    assert loaded_by("import outrider", *HEAVY, "typer", "http.client") == []


def test_the_blocking_client_needs_no_numpy_and_no_aiohttp():
    assert loaded_by("import outrider; outrider.Client()", "numpy", "aiohttp", "asyncio", "typer") == []


def test_the_daemon_of_the_device_loads_nothing_that_it_does_not_use():
    code = "import outrider.commands.edge, outrider.logs, outrider.start, outrider_edge.config"
    assert loaded_by(code, *DEVICE_NEVER) == []


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_gives_its_help(name):
    result = CliRunner().invoke(app, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert f"Usage: outrider {name}" in result.output or f"Usage: root {name}" in result.output


GROUPS = [name for name in COMMANDS if hasattr(load(name), "commands")]


@pytest.mark.parametrize("name", GROUPS)
def test_the_summary_in_the_list_is_the_one_that_the_command_gives(name):
    assert load(name).help.startswith(COMMANDS[name].summary.rstrip("."))


@pytest.mark.parametrize("name", GROUPS)
def test_every_leaf_says_what_it_does_in_a_line_that_the_list_shows_whole(name):
    for leaf in load(name).commands.values():
        assert leaf.help, leaf.name
        assert not leaf.get_short_help_str(68).endswith("..."), leaf.help


def test_the_version_is_the_installed_one(outrider):
    from importlib.metadata import version

    assert outrider("--version").out == f"outrider {version('outrider')}\n"
    assert client_package.__version__ == version("outrider")


def test_a_mistyped_command_is_a_usage_error_that_names_the_nearest(outrider):
    ran = outrider("bundl")
    assert ran.code == 2
    assert "bundle" in ran.err


def test_an_error_is_one_sentence_with_the_way_out(outrider):
    ran = outrider("bundle", "inspect", "nowhere")
    assert ran.code == BundleDamagedError.exit_code == 3
    assert ran.err == "error: nowhere is not a bundle directory; fetch or build the bundle again\n"
    assert ran.out == ""


def test_with_json_an_error_is_a_document_too(outrider):
    ran = outrider("bundle", "inspect", "nowhere", "--json")
    assert ran.json["error"]["reason"] == "bundle_missing"
    assert ran.err.startswith("error: ")
    assert outrider("bundle", "inspect", "nowhere", OUTRIDER_JSON="1").json == ran.json


def test_an_unexpected_error_is_one_line_that_says_how_to_see_more(capsys, monkeypatch):
    monkeypatch.delenv("OUTRIDER_TRACEBACK", raising=False)
    assert fail(KeyError("line\nbreak"), json=False) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "OUTRIDER_TRACEBACK=1" in err


def test_the_traceback_is_shown_when_it_is_asked_for(capsys, monkeypatch):
    monkeypatch.setenv("OUTRIDER_TRACEBACK", "1")
    fail(KeyError("x"), json=False)
    assert "KeyError: 'x'\n" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (OutriderError, 1),
        (CallerInputError, 1),
        (OperatorConfigError, 2),
        (BundleDamagedError, 3),
        (RuleRefusalError, 3),
        (UnreachableError, 4),
        (UndecidedError, 5),
    ],
)
def test_the_exit_code_is_that_of_the_error(kind, code, capsys):
    assert fail(kind("it is so", reason="so", fix="do this"), json=False) == code
    assert capsys.readouterr().err == "error: it is so; do this\n"


def test_a_library_that_is_not_installed_names_the_extra_that_brings_it(capsys):
    error = ModuleNotFoundError("No module named 'sqlalchemy.orm'", name="sqlalchemy.orm")
    assert fail(error, json=False) == 2
    assert "pip install 'outrider[cloud]'" in capsys.readouterr().err


def test_the_extras_are_those_of_the_package():
    from importlib.metadata import metadata

    assert set(EXTRAS) == set(metadata("outrider").get_all("Provides-Extra") or []) - {"dev", "fuzz", "all"}
    assert extra_of("json") == ""


def test_every_public_name_of_the_package_is_there():
    assert all(getattr(client_package, name) for name in client_package.__all__)
    assert set(client_package.__all__) <= set(dir(client_package))
    with pytest.raises(AttributeError):
        client_package.nothing_of_the_kind  # noqa: B018 - the access is the test
