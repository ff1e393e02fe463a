"""Optimised graphs kept between starts: the same answers, only for whom they were made, and never a reason not to start."""

import os
from pathlib import Path

import numpy as np
import pytest

from factory import LABELS, onnx_bytes
from outrider_engine.cache_folder import CacheFolder
from outrider_engine.graph_cache import GraphCache
from outrider_engine.providers import CPU
from outrider_engine.session import OrtSession, RunOptions, graph_cache
from outrider_wire.errors import OperatorSetupError

MODEL = onnx_bytes(LABELS)
FEEDS = {"pixels": np.full((2, 3, 32, 32), 0.3, np.float32), "words": np.ones((2, 96), np.float32)}


def test_a_kept_graph_gives_the_same_answers_to_the_last_bit(tmp_path: Path) -> None:
    options = RunOptions(graphs=graph_cache(CacheFolder(tmp_path / "cache")))
    plain = OrtSession(MODEL).run(FEEDS)
    first = OrtSession(MODEL, options=options)
    [kept] = (tmp_path / "cache").iterdir()
    before = kept.stat().st_ino
    second = OrtSession(MODEL, options=options)
    for session in (first, second):
        for name, array in session.run(FEEDS).items():
            np.testing.assert_array_equal(array, plain[name])
    assert [path.stat().st_ino for path in (tmp_path / "cache").iterdir()] == [before]  # used, not made again


def test_a_graph_of_another_version_or_processor_or_a_damaged_one_is_not_used(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    GraphCache(folder, runtime="1.0", processor="a").store(MODEL, b"graph")
    assert GraphCache(folder, runtime="1.0", processor="a").load(MODEL) == b"graph"
    assert GraphCache(folder, runtime="1.1", processor="a").load(MODEL) is None
    assert GraphCache(folder, runtime="1.0", processor="b").load(MODEL) is None
    [kept] = (tmp_path / "cache").iterdir()
    kept.write_bytes(kept.read_bytes()[:-1] + b"!")
    assert GraphCache(folder, runtime="1.0", processor="a").load(MODEL) is None


def test_a_kept_graph_that_the_runtime_refuses_is_made_again(tmp_path: Path) -> None:
    graphs = graph_cache(CacheFolder(tmp_path / "cache"))
    graphs.store(MODEL, b"no graph")
    assert OrtSession(MODEL, options=RunOptions(graphs=graphs)).run(FEEDS)["logits"].shape == (2, 3)
    assert graphs.load(MODEL) not in (None, b"no graph")


def test_a_graph_that_cannot_be_written_costs_no_start(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    options = RunOptions(graphs=graph_cache(folder))
    folder.folder.rmdir()
    assert OrtSession(MODEL, options=options).run(FEEDS)["logits"].shape == (2, 3)


def test_a_folder_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cache").mkdir(mode=0o755)
    (tmp_path / "cache").chmod(0o755)
    with pytest.raises(OperatorSetupError) as refusal:
        CacheFolder(tmp_path / "cache")
    assert refusal.value.reason == "cache_untrusted"


def test_a_wanted_provider_that_is_not_here_is_named_and_the_next_one_runs() -> None:
    session = OrtSession(MODEL, providers=("CUDAExecutionProvider", CPU))
    assert (session.provider, [each.provider for each in session.passed_over]) == (CPU, ["CUDAExecutionProvider"])


def test_outputs_bound_to_the_device_are_the_same() -> None:
    bound = OrtSession(MODEL, options=RunOptions(io_binding="always", arena=True)).run(FEEDS)
    for name, array in OrtSession(MODEL).run(FEEDS).items():
        np.testing.assert_array_equal(bound[name], array)


def test_a_bound_of_the_disk_is_kept_and_the_longest_unused_goes_first(tmp_path: Path) -> None:
    folder = CacheFolder(tmp_path / "cache", max_bytes=2500)
    for name in ("first", "second"):
        folder.store(name, {}, b"x" * 1000)
    os.utime(tmp_path / "cache" / "first", (1, 1))
    os.utime(tmp_path / "cache" / "second", (2, 2))
    assert folder.load("first", {})[0], "used: it is the newest now"
    folder.store("third", {}, b"x" * 1000)
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["first", "third"]
    folder.store("third", {}, b"x" * 3000)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["first"], "what does not fit is not kept"
    CacheFolder(tmp_path / "cache", max_bytes=0).store("fourth", {}, b"")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["first"]


def test_a_folder_that_others_may_replace_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    above.mkdir()
    above.chmod(0o777)
    with pytest.raises(OperatorSetupError, match="others may replace it"):
        CacheFolder(above / "cache")
    above.chmod(0o1777)
    CacheFolder(above / "cache")
