"""``outrider certify`` and ``outrider data import-labels`` as a user runs them: figures, files, exit codes and ways out."""

import json
import subprocess
import sys

import numpy as np
import pytest
from msgspec.structs import replace
from typer.main import get_command

import factory
from outrider.certify_modes import MODES
from outrider.commands.certify import app
from outrider_cloud.config import load_cloud_config
from outrider_cloud.learning.opening import opened
from outrider_cloud.store.examples import NewExample, add_all
from outrider_engine.bundle import open_bundle
from outrider_export.certify import data_digest
from outrider_export.rows import HELD_OUT
from outrider_export.task_text import task_to_toml
from outrider_wire.manifest import encode_manifest
from outrider_wire.roles import role_of

TASK = factory.make_task("colours")
ROLES = ("tuning", "certification")
KEYS = {"method", "risk", "delta", "n", "errors", "threshold", "coverage", "label_source", "valid", "reason"}


def write_rows(file, n=900, seed=0, **columns):
    """A CSV file: the row at rank u is wrong with probability 0.3 · u³; ``columns`` are functions of the row's number."""
    rng = np.random.default_rng(seed)
    ranks = rng.random(n)
    right = rng.random(n) >= 0.3 * ranks**3
    lines = [",".join(["score", "correct", *columns])]
    for row in range(n):
        rest = [str(make(row)) for make in columns.values()]
        lines.append(",".join([f"{1 - ranks[row] / 2:.5f}", str(int(right[row])), *rest]))
    file.write_text("\n".join(lines) + "\n")
    return file


def write_bundle_rows(folder, n=400, *, key=True):
    """JSON lines of one-colour pictures, a twentieth of them between two colours and labelled either way."""
    (folder / "pictures").mkdir()
    for label in range(3):
        for shade in range(20):
            (folder / "pictures" / f"{label}-{shade}.png").write_bytes(factory.sure(label, shade=shade))
    for shade in range(20):
        (folder / "pictures" / f"unsure-{shade}.png").write_bytes(factory.unsure(shade=shade))
    lines = []
    for row in range(n):
        label = row % 3
        name = f"unsure-{row % 20}" if row % 20 == 7 else f"{label}-{row % 20}"
        parts = {"image": f"pictures/{name}.png", "question": f"question number {row}?"}
        lines.append(json.dumps({"parts": parts, "label": TASK.labels[label], "group": f"clip-{row}"}))
    (folder / "rows.jsonl").write_text("\n".join(lines))
    return folder / "rows.jsonl"


def test_rows_give_a_table_a_verdict_and_stable_keys(outrider, tmp_path):
    write_rows(tmp_path / "rows.csv")
    ran = outrider("certify", "rows.csv")
    assert ran.code == 0, ran.err
    assert "tuning coverage" in ran.out
    assert "certified: what it answers itself" in ran.out
    found = outrider("certify", "rows.csv", "--json").json
    assert set(found) >= KEYS
    assert (found["valid"], found["reason"], found["method"]) == (True, "certified", "fixed-sequence")
    assert found["tested"][0]["passed"]
    assert found["errors"] == next(step["errors"] for step in reversed(found["tested"]) if step["passed"])


def test_explain_says_what_is_promised_what_is_not_and_what_more_labels_buy(outrider, tmp_path):
    write_rows(tmp_path / "rows.csv", 3000, label=lambda row: "ab"[row % 2], group=lambda row: f"clip-{row // 4}")
    out = outrider("certify", "rows.csv", "--explain").out
    for said in ("What is promised", "not for each class", "What voids it", "What more labels would buy", "class a: "):
        assert said in out
    found = outrider("certify", "rows.csv", "--explain", "--plot", "r.png", "--json").json
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
    assert found["method"] == "fixed-sequence-groups"
    assert len(found["explain"]["more_labels"]) == 5
    assert 0 < found["calibration_error"] < 0.5


@pytest.mark.parametrize(
    ("columns", "flags", "reason"),
    [
        ({"role": lambda row: "certification" if row < 40 else "tuning"}, (), "too_few_rows"),
        ({"time": lambda row: row * 0.5}, (), "frames_ungrouped"),
        ({"group": str, "id": lambda row: row // 2, "role": lambda row: ROLES[row >= 300]}, (), "copies_counted"),
        (
            {"clip": lambda row: row // 9, "role": lambda row: "tuning" if row % 2 else "gate"},
            ("--group", "clip"),
            "roles_overlap",
        ),
    ],
    ids=["too few", "frames without a group", "a copy in two groups of one role", "a group in two roles"],
)
def test_what_may_not_certify_is_refused_with_code_3_and_the_same_keys(outrider, tmp_path, columns, flags, reason):
    write_rows(tmp_path / "rows.csv", **columns)
    ran = outrider("certify", "rows.csv", *flags, "--json")
    assert ran.code == 3
    assert set(ran.json) >= KEYS
    assert (ran.json["valid"], ran.json["reason"], ran.json["threshold"]) == (False, reason, None)


@pytest.mark.parametrize(
    ("text", "flags", "said"),
    [
        ("score,correct\n0.9,1\n0.8,maybe\n", (), "rows.csv:3"),
        ("score,correct\n0.9,1\nhigh,1\n", (), "rows.csv:3"),
        ("score,correct\n0.9\n", (), "rows.csv:2"),
        ("score,right\n0.9,1\n", (), "--correct-col"),
        ("score,correct\n0.9,1\n", ("--group", "clip"), "--group"),
        ("score,correct,id\n0.9,1,a\n0.8,1,\n0.7,1,a\n", (), "rows.csv:3"),
        ("score,correct,time\n0.9,1,1\n0.8,1,nan\n", (), "rows.csv:3"),
    ],
)
def test_a_file_that_is_wrong_is_a_usage_error_that_names_the_line_or_flag(outrider, tmp_path, text, flags, said):
    (tmp_path / "rows.csv").write_text(text)
    ran = outrider("certify", "rows.csv", *flags)
    assert ran.code == 2
    assert said in ran.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("small", "--data", "rows.jsonl", "--group", "clip"), 'the key "group"'),
        (("small", "--data", "rows.jsonl", "--threshold", "0.9"), "add --from-audits"),
        (("small", "--data", "rows.jsonl", "--n", "40"), "use --plan"),
        (("small", "--data", "rows.jsonl", "--task", "colours"), "add --config"),
        (("rows.csv", "-o", "copy"), "a table of rows does not read --out"),
        (("rows.csv", "--config", "cloud.toml", "--data", "rows.jsonl"), "does not read --data, --config"),
        (("small", "--from-audits", "--label-source", "ground_truth"), "the large model's labels"),
        (("--plan", "--n", "400", "--explain"), "a plan does not read --explain"),
        (("rows.csv", "--plan", "--n", "400"), "a plan does not read BUNDLE|ROWS.csv"),
    ],
)
def test_an_option_that_would_change_nothing_is_a_usage_error_with_the_way_out(outrider, tmp_path, flags, said):
    (tmp_path / "small").mkdir()
    write_rows(tmp_path / "rows.csv", 20)
    ran = outrider("certify", *flags)
    assert ran.code == 2
    assert said in ran.err


def test_every_option_of_certify_is_read_in_some_way_of_certifying():
    names = {parameter.name for parameter in get_command(app).params} - {"help"}
    assert names == frozenset().union(*(mode.reads for mode in MODES.values()))


def test_a_configuration_named_by_the_environment_does_not_stop_a_table_of_rows(outrider, tmp_path):
    write_rows(tmp_path / "rows.csv")
    assert outrider("certify", "rows.csv", OUTRIDER_CLOUD_CONFIG="cloud.toml").code == 0


def test_a_plan_needs_no_data_and_says_what_labels_buy(outrider):
    ran = outrider("certify", "--plan", "--n", "400", "--delta", "0.1", "--json")
    assert ran.code == 0, ran.err
    assert [each["n"] for each in ran.json["expected"]] == [200, 400, 800, 1600]
    assert 0.4 < ran.json["expected"][1]["coverage"] < 0.65
    assert "certification rows" in outrider("certify", "--plan", "--n", "100", "--groups-of", "4").out
    assert outrider("certify", "--plan").code == 2
    assert outrider("certify").code == 2


def test_rows_and_plans_load_no_torch():
    heavy = ("torch", "onnxruntime", "sqlalchemy", "matplotlib")
    code = (
        f"import sys, outrider.commands.certify, outrider.certifying; print([m for m in {heavy} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def site(tmp_path):
    """A bundle, its task, labelled rows, and a cloud's configuration."""
    factory.make_bundle(tmp_path / "small", TASK)
    (tmp_path / "colours.toml").write_text(task_to_toml(TASK))
    (tmp_path / "roles.key").write_text("a key")
    (tmp_path / "cloud.toml").write_text(
        'data_dir = "cloud"\n[roles]\nkey_file = "roles.key"\n[[tasks]]\nfile = "colours.toml"\nlarge = "zero:uniform"\n'
    )
    write_bundle_rows(tmp_path)
    return tmp_path


ROWS = ("--data", "rows.jsonl", "--task-file", "colours.toml")


def test_a_bundle_is_certified_into_a_copy_and_never_in_place_unasked(outrider, site):
    before = (site / "small" / "manifest.json").read_bytes()
    ran = outrider("certify", "small", *ROWS)
    assert (ran.code, "nothing was written" in ran.out, "cannot be seen here" in ran.out) == (0, True, True), ran.err
    copied = outrider("certify", "small", *ROWS, "-o", "again", "--json").json
    assert (site / "small" / "manifest.json").read_bytes() == before
    shown = outrider("bundle", "inspect", "again", "--json").json
    assert (shown["digest"], shown["claim"][:9]) == (copied["bundle"], "certified")
    assert outrider("certify", "small", *ROWS, "--yes").code == 0
    assert (site / "small" / "manifest.json").read_bytes() != before
    again = outrider("certify", "small", *ROWS, "--json").json
    assert again["delta"] < 0.05 / 4  # the same rows made the certificate that it carries now


def test_with_a_cloud_s_configuration_the_ledger_counts_and_a_second_use_pays(outrider, site):
    flags = ("--data", "rows.jsonl", "--config", "cloud.toml", "--risk", "0.1")
    refused = outrider("certify", "small", *flags)
    assert (refused.code, "the ledger would be charged" in refused.err) == (2, True)
    first = outrider("certify", "small", *flags, "-o", "one", "--json")
    assert first.code == 0, first.out + first.err
    second = outrider("certify", "small", *flags, "-o", "two", "--json")
    assert (first.json["delta"], second.json["n"]) == (0.05, first.json["n"])
    assert second.json["delta"] == pytest.approx(0.05 * 6 / (np.pi * 2) ** 2)
    assert "use 2" in second.json["warnings"][0]


def test_a_bundle_without_rows_or_task_is_a_usage_error(outrider, site):
    assert "--data" in outrider("certify", "small").err
    assert "--task-file" in outrider("certify", "small", "--data", "rows.jsonl").err


def test_frames_of_a_json_lines_file_without_groups_are_refused(outrider, site):
    rows = [json.loads(line) for line in (site / "rows.jsonl").read_text().splitlines()]
    frames = [{"parts": row["parts"], "label": row["label"], "time": place} for place, row in enumerate(rows)]
    (site / "frames.jsonl").write_text("\n".join(json.dumps(row) for row in frames))
    ran = outrider("certify", "small", "--data", "frames.jsonl", "--task-file", "colours.toml", "--json")
    assert (ran.code, ran.json["reason"]) == (3, "frames_ungrouped")


def changed(site, change):
    """The rows of ``site`` in a file of their own, each as ``change(row, place)`` leaves it."""
    rows = [json.loads(line) for line in (site / "rows.jsonl").read_text().splitlines()]
    (site / "changed.jsonl").write_text(
        "\n".join(json.dumps({**row, **change(place)}) for place, row in enumerate(rows))
    )
    return ("--data", "changed.jsonl", "--task-file", "colours.toml")


def role_at(place):
    return ("train", *ROLES)[place % 3]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda place: {"role": role_at(place)} if place else {}, "1 of 400 rows have no role"),
        (lambda place: {"role": role_at(place) if place else "certifcation"}, "'certifcation' is no role"),
        (lambda place: {"time": place if place < 10 else float("nan")}, "nan is no time"),
        (lambda place: {"group": ""} | ({"time": 60 * place} if place else {}), "1 of 400 rows without a group"),
    ],
    ids=["a row without a role", "a misspelt role", "a time that is none", "a row without time and group"],
)
def test_json_lines_that_say_half_of_it_are_usage_errors(outrider, site, change, said):
    ran = outrider("certify", "small", *changed(site, change))
    assert ran.code == 2
    assert said in ran.err


def test_one_row_with_a_group_does_not_excuse_the_frames_without_one(outrider, site):
    flags = changed(site, lambda place: {"time": place} | ({"group": ""} if place else {}))
    ran = outrider("certify", "small", *flags, "--json")
    assert (ran.code, ran.json["reason"]) == (3, "frames_ungrouped")


def test_roles_of_a_file_that_the_store_gives_otherwise_are_refused(outrider, site):
    changed(site, lambda place: {"role": role_at(place)})
    flags = ("--data", "changed.jsonl", "--config", "cloud.toml", "-o", "copy")
    ran = outrider("certify", "small", *flags, "--json")
    assert (ran.code, ran.json["reason"]) == (3, "roles_differ")


def made_with(folder, **fields):
    """The bundle in ``folder`` with other fields in its manifest."""
    manifest = replace(open_bundle(folder).manifest, **fields)
    (folder / "manifest.json").write_bytes(encode_manifest(manifest))


def certified_groups(outrider, *flags):
    """The digest of the groups that certified a copy of the bundle ``small``."""
    ran = outrider("certify", "small", *ROWS, "-o", "copy", *flags)
    assert ran.code == 0, ran.err
    return outrider("bundle", "inspect", "copy", "--json").json["manifest"]["certificate"]["data_digest"]


def test_rows_are_split_by_the_seed_that_the_bundle_was_made_with_unless_another_is_given(outrider, site):
    groups = [f"clip-{row}" for row in range(400)]
    own, other = (
        data_digest([group for group in groups if role_of(group, key=key, shares=HELD_OUT) == "certification"])
        for key in ("export-7", "export-0")
    )
    made_with(site / "small", provenance={"seed": "7"})
    assert (certified_groups(outrider), certified_groups(outrider, "--seed", "0")) == (own, other)


def test_a_model_that_may_have_learned_from_the_rows_is_said_to(outrider, site):
    assert "may have been trained on these very rows" not in outrider("certify", "small", *ROWS).out
    made_with(site / "small", parent="0" * 64)
    assert "may have been trained on these very rows" in outrider("certify", "small", *ROWS).out


def test_audits_and_labels_that_the_store_does_not_have_are_said(outrider, site):
    ran = outrider("certify", "small", "--from-audits", "--task", "colours", "--config", "cloud.toml", "--json")
    assert (ran.code, ran.json["method"], ran.json["reason"]) == (3, "audits", "no_audits")
    assert ran.json["label_source"] == "large_model"
    (site / "labels.csv").write_text("id,label\nnobody,red\n")
    ran = outrider("data", "import-labels", "labels.csv", "--task", "colours", "--config", "cloud.toml")
    assert ran.code == 1
    assert "line 2: 'nobody' names no escalation" in ran.err


def test_audits_that_agree_certify_a_copy_and_a_person_s_label_is_taken(outrider, site):
    digest = outrider("bundle", "inspect", "small", "--json").json["digest"]
    with opened(load_cloud_config(site / "cloud.toml"), "colours") as work:
        audits = [
            NewExample(
                task="colours",
                group=f"clip-{number}",
                role="train",
                source="audit",
                parts={"image": f"{number:064x}"},
                created_ms=number,
                device="cam",
                input=f"input-{number}",
                why="audit",
                audit=0.02,
                small_label="red",
                small_probabilities=[0.98, 0.01, 0.01],
                small_model=digest,
                teacher_label="green" if number % 60 == 59 else "red",
                teacher_model="large",
            )
            for number in range(300)
        ]
        work.library.store.submit(lambda connection: add_all(connection, audits)).result()
    ran = outrider("certify", "small", "--from-audits", "--config", "cloud.toml", "-o", "audited", "--json")
    assert ran.code == 0, ran.out + ran.err
    assert (ran.json["accepted"], ran.json["errors"], ran.json["reason"]) == (300, 5, "certified")
    shown = outrider("bundle", "inspect", "audited", "--json").json
    assert "labels: large model" in shown["claim"]
    assert shown["manifest"]["certificate"]["method"] == "audits"
    (site / "labels.csv").write_text(f"sha256,label\n{7:064x},blue\n")
    done = outrider("data", "import-labels", "labels.csv", "--task", "colours", "--config", "cloud.toml", "--json")
    assert (done.code, done.json["new"]["train"]) == (0, 1)
