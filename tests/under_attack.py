"""A whole system to be attacked: real processes, a real broker; and how to see whether it is still well. Throws nothing itself."""

import asyncio
import itertools
import re
from collections import Counter
from contextlib import suppress
from typing import Any

import aiohttp
import psutil
from running import System

from factory import parts_of, sure, unsure
from outrider.client import Client
from outrider_wire.task import Task

AGENT = "cam-1"
BURST = 500
"""Offers that the cloud takes of one device at once; no attack but a flood makes so many."""
GROWTH_BYTES = 64 << 20
"""What a process may have grown by, at most, since it answered its first good inputs: SQLite's and the allocator's caches, and the
child that decodes."""
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? ([0-9.e+-]+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="([^"]*)"')


class UnderAttack:
    """The system, what it looked like before, and how to see whether it is well."""

    def __init__(self, system: System, client: Client) -> None:
        self.system = system
        self.client = client
        self.shades = itertools.cycle(range(20))
        self.cloud_url = f"http://127.0.0.1:{system.cloud_port}"
        self.agent_url = f"http://127.0.0.1:{system._agents[AGENT]}"
        self.good_inputs()
        self.began_with = {name: self.resident(name) for name in ("cloud", AGENT)}

    @property
    def task(self) -> Task:
        """The task of the whole system."""
        return self.system.task

    def good_inputs(self) -> None:
        """The agent answers one input itself, and another with the cloud's help."""
        here = self.client.ask("colours", parts_of(sure(2, shade=next(self.shades))))
        there = self.client.ask("colours", parts_of(unsure(shade=next(self.shades))), answer_within_ms=60_000)
        assert (here.label, here.state) == ("blue", "edge")
        assert (there.label, there.state) == ("red", "cloud"), there

    def resident(self, name: str) -> int:
        """Bytes that a process and its children have resident."""
        process = psutil.Process(self.system.processes.pid(name))
        total = process.memory_info().rss
        for child in process.children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has ended since they were listed
                total += child.memory_info().rss
        return total

    def decoders(self, name: str) -> list[psutil.Process]:
        """The processes in which another decodes its pictures."""
        children = psutil.Process(self.system.processes.pid(name)).children(recursive=True)
        return [child for child in children if any("decoder_child" in word for word in _words_of(child))]

    def is_well(self) -> None:
        """Asserts that nothing is the worse for it."""
        self.good_inputs()
        assert self.client.account().adds_up
        assert asyncio.run(self.get("/v1/account"))["adds_up"]
        for name, before in self.began_with.items():
            assert self.resident(name) - before < GROWTH_BYTES, name

    async def get(self, path: str) -> Any:
        """A JSON page of the cloud."""
        async with aiohttp.ClientSession() as client, client.get(self.cloud_url + path) as reply:
            return await reply.json()

    async def count(self, url: str, family: str, label: str, **where: str) -> Counter[str]:
        """A counter's values by one of its labels, where its other labels are as given."""
        async with aiohttp.ClientSession() as client, client.get(f"{url}/metrics") as reply:
            page = await reply.text()
        found: Counter[str] = Counter()
        for name, labels, value in _SAMPLE.findall(page):
            said = dict(_LABEL.findall(labels))
            if name == family and all(said.get(key) == wanted for key, wanted in where.items()):
                found[said.get(label, "")] += int(float(value))
        return found

    async def dead_letters(self) -> Counter[str]:
        """What the cloud could not take, by reason."""
        return await self.count(self.cloud_url, "outrider_dead_letters_total", "reason")

    async def ignored(self) -> Counter[str]:
        """What the agent was told in vain, by reason."""
        return await self.count(self.agent_url, "outrider_downlink_ignored_total", "reason")


def _words_of(process: psutil.Process) -> list[str]:
    """Its command line; none of one that has ended."""
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []
