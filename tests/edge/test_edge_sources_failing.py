"""Files of a watched folder on which the model fails: the others are answered meanwhile, and none is asked about for ever."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from edge_agents import Bench, running_agent
from edge_entries import until
from edge_releases import load

from factory import make_bundle, make_task, sure
from outrider_edge.sources.events import EventLog
from outrider_edge.sources.figures import Figures
from outrider_edge.sources.fitting import fit
from outrider_edge.sources.folder_source import FolderSource
from outrider_edge.sources.happening import Teller
from outrider_edge.sources.settings import SourceSettings
from outrider_engine.bundle import open_bundle

ASKS = {"question": "what colour is it?"}


@asynccontextmanager
async def watching(bench: Bench, settings: SourceSettings, pause_s: float = 0.1) -> AsyncIterator[Figures]:
    """The folder beside an agent, looked at often; an attempt follows another soon."""
    figures = Figures(kind="dir", task="colours")
    teller = Teller(
        device="cam-7",
        source=settings.name,
        fitted=fit(settings, {"colours": make_task()}),
        agent=bench.agent,
        events=EventLog(),
        figures=figures,
    )
    running = asyncio.create_task(FolderSource(settings, teller, look_s=0.02, pauses_s=(pause_s, pause_s)).run())
    try:
        yield figures
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running
        await teller.close()


def moved(done: Path) -> Callable[[], bool]:
    return (done / "failed" / "a.png").exists


async def test_a_file_on_which_the_model_fails_is_put_away_with_its_reason_after_three_attempts(tmp_path: Path) -> None:
    inbox, done = tmp_path / "in", tmp_path / "done"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(sure(2))
    settings = SourceSettings(name="gate", url=f"dir:{inbox}", done=str(done), parts=ASKS)
    async with running_agent(tmp_path, bias=math.nan) as bench, watching(bench, settings) as figures:
        await until(moved(done))
        assert (done / "failed" / "a.png.error").read_text().startswith("not_finite: ")
        assert (figures.asked, figures.refused, list(inbox.iterdir())) == (3, 3, [])


@pytest.mark.parametrize("kept", [True, False], ids=["done", "left where it is"])
async def test_a_model_that_has_mended_meanwhile_answers_the_file(tmp_path: Path, kept: bool) -> None:
    inbox, done = tmp_path / "in", tmp_path / "done"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(sure(2))
    settings = SourceSettings(name="gate", url=f"dir:{inbox}", done=str(done) if kept else "", parts=ASKS)
    good = load(open_bundle(make_bundle(tmp_path / "good", make_task())))
    async with running_agent(tmp_path, bias=math.nan) as bench, watching(bench, settings, pause_s=1.0) as figures:
        await until(lambda: figures.refused >= 1)
        bench.agent.runtimes["colours"].swap(good)
        await until(lambda: figures.asked > figures.refused)
        asked = figures.asked
        await asyncio.sleep(0.5)
        assert (figures.asked, (inbox / "a.png").exists()) == (asked, not kept)


async def test_a_file_that_failed_is_asked_about_again_once_it_has_changed(tmp_path: Path) -> None:
    inbox = tmp_path / "in"
    inbox.mkdir()
    (inbox / "a.png").write_bytes(sure(2))
    settings = SourceSettings(name="gate", url=f"dir:{inbox}", parts=ASKS)
    async with running_agent(tmp_path, bias=math.nan) as bench, watching(bench, settings) as figures:
        await until(lambda: figures.refused == 3)
        await asyncio.sleep(0.5)
        assert figures.asked == 3
        (inbox / "a.png").write_bytes(sure(1) + b" ")
        await until(lambda: figures.refused == 6)
