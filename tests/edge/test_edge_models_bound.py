"""Several tasks in one agent under the profile's bound of memory, and what it says where one model alone is above it."""

import asyncio
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from edge_agents import write_config
from items_factory import certified_bundle
from onnx import numpy_helper

from factory import file_entry, make_bundle, make_task, parts_of, sure
from outrider_edge.app import serving
from outrider_edge.config import load_edge_config
from outrider_edge.journey.pipeline import TaskRuntime
from outrider_edge.running import load_terms, loader, self_test
from outrider_engine.bundle import open_bundle
from outrider_engine.cache_folder import CacheFolder
from outrider_wire.errors import BundleError
from outrider_wire.images import decode_picture
from outrider_wire.manifest import MANIFEST_FILE, encode_manifest

MB = 1 << 20


def weighed(bundle: Path, size: int) -> None:
    """Makes the bundle's model larger, by weights that nothing reads."""
    opened = open_bundle(bundle)
    model = onnx.load_from_string(opened.read("model.onnx"))
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(size, np.uint8), "ballast"))
    data = model.SerializeToString(deterministic=True)
    (bundle / "model.onnx").write_bytes(data)
    others = [entry for entry in opened.manifest.files if entry.path != "model.onnx"]
    manifest = msgspec.structs.replace(opened.manifest, files=[file_entry("model.onnx", data, "model"), *others])
    (bundle / MANIFEST_FILE).write_bytes(encode_manifest(manifest))


def two_tasks(folder: Path, models_mb: int) -> Path:
    """Two tasks whose models take 7 MB each."""
    path = write_config(folder, extra=f"[runtime]\nmodels_mb = {models_mb}\n")
    other = write_config(folder / "other")
    task = (other.parent / "task.toml").read_text().replace('"colours"', '"paints"')
    (other.parent / "task.toml").write_text(task)
    manifest = open_bundle(other.parent / "bundle").manifest
    renamed = encode_manifest(msgspec.structs.replace(manifest, task="paints"))
    (other.parent / "bundle" / MANIFEST_FILE).write_bytes(renamed)
    for bundle in (folder / "bundle", other.parent / "bundle"):
        weighed(bundle, 3 * MB)
    path.write_text(path.read_text() + '[[tasks]]\nfile = "other/task.toml"\nbundle = "other/bundle"\n')
    return path


async def test_two_tasks_share_what_holds_one_model_and_both_answer(tmp_path: Path) -> None:
    async with serving(load_edge_config(two_tasks(tmp_path, 8))) as served:
        colours, paints = (served.agent.runtimes[name] for name in ("colours", "paints"))
        for _ in range(2):
            for name in ("colours", "paints"):
                assert (await served.agent.submit(name, parts_of(sure(2)))).label == "blue"
            assert (colours.model.resident, paints.model.resident) == (False, True)
        found = await asyncio.gather(
            *(served.agent.submit(name, parts_of(sure(n % 3))) for n in range(6) for name in ("colours", "paints"))
        )
        assert [report.label for report in found[::2]] == ["red", "green", "blue"] * 2
        assert served.agent.account().pending == 0


async def test_a_model_that_is_above_the_bound_alone_is_said_before_anything_is_answered(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"runtime\.models_mb is 4") as caught:
        async with serving(load_edge_config(two_tasks(tmp_path, 4))):
            raise AssertionError("it should not start")
    assert caught.value.reason == "model_over_budget"


def test_a_model_that_is_not_in_memory_is_not_answered_on_the_event_loop(tmp_path: Path) -> None:
    config = load_edge_config(two_tasks(tmp_path, 8))
    terms = load_terms(config.runtime, CacheFolder(tmp_path / "cache"), decode_picture)
    runtimes = []
    for name, folder in (("colours", tmp_path), ("paints", tmp_path / "other")):
        task = make_task(name)
        runtimes.append(TaskRuntime(task=task, model=loader(task, terms)(open_bundle(folder / "bundle"))))
        runtimes[-1].warm()
    first, second = runtimes
    assert (first.answers_in_loop(10), second.answers_in_loop(10)) == (False, True)
    for runtime in runtimes:
        runtime.close()


def test_the_variant_that_the_profile_prefers_runs_and_says_that_it_is_uncertified(tmp_path: Path) -> None:
    task = make_task()
    bundle = certified_bundle(tmp_path / "bundle", task)
    manifest = open_bundle(bundle).manifest
    other = msgspec.structs.replace(manifest.variants[0], name="half", precision="fp16")
    changed = msgspec.structs.replace(manifest, variants=[*manifest.variants, other])
    (bundle / MANIFEST_FILE).write_bytes(encode_manifest(changed))
    for precisions, name, certified in (
        ("", "fp32", True),
        ('"fp16"', "half", False),
        ('"fp16", "fp32"', "fp32", True),
    ):
        config = load_edge_config(write_config(tmp_path, extra=f"[runtime]\nprecisions = [{precisions}]\n"))
        terms = load_terms(config.runtime, CacheFolder(tmp_path / "cache"), decode_picture)
        model = loader(task, terms)(open_bundle(bundle))
        assert (model.variant.name, not model.certified) == (name, certified)


def test_an_updates_self_test_is_of_the_variant_that_will_run(tmp_path: Path) -> None:
    task = make_task()
    bundle = make_bundle(tmp_path / "bundle", task)
    opened = open_bundle(bundle)
    broken = msgspec.structs.replace(opened.manifest.variants[0], name="half", precision="fp16", file="half.onnx")
    (bundle / "half.onnx").write_bytes(b"no model")
    files = [*opened.manifest.files, file_entry("half.onnx", b"no model", "model")]
    manifest = msgspec.structs.replace(opened.manifest, files=files, variants=[*opened.manifest.variants, broken])
    (bundle / MANIFEST_FILE).write_bytes(encode_manifest(manifest))
    for precisions, passes in (("", True), ('"fp16"', False)):
        config = load_edge_config(write_config(tmp_path, extra=f"[runtime]\nprecisions = [{precisions}]\n"))
        terms = load_terms(config.runtime, CacheFolder(tmp_path / "cache"), decode_picture)
        assert self_test(terms)(bundle).ok == passes
