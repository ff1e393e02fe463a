"""The outbox's own benchmark, small: its figures are there, and memory does not grow with what is queued."""

from pathlib import Path

import pytest

import outrider_edge
from outrider.bench.outbox import OutboxPlan, measure_outbox
from outrider_link.settings import read_text
from outrider_wire.task import parse_task

DEMO = Path(outrider_edge.__file__).parent / "demo"


@pytest.mark.slow
def test_an_agent_with_much_queued_needs_hardly_more_memory_than_one_with_little(tmp_path):
    task = parse_task(read_text(DEMO / "task.toml"), "task.toml")
    said = []
    found = measure_outbox(
        OutboxPlan(
            task=task,
            bundle=DEMO / "bundle",
            folder=tmp_path,
            enqueues=64,
            drained=300,
            queued=(100, 30_000),
        ),
        lambda what, share: said.append(share),
    )
    assert min(found.enqueue_per_s, found.enqueue_32_per_s, found.drain_stub_per_s) > 0
    assert 0 < found.rss_mb_100k - 10 < found.rss_mb_1k  # 30,000 questions in a book took 30 MB and more
    assert max(said) <= 1
