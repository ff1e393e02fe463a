"""One system for all attacks of a module: it must bear them one after another."""

from collections.abc import Iterator

import pytest
from running import System
from under_attack import AGENT, BURST, UnderAttack

from outrider_wire.task import Policy


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[UnderAttack]:
    policy = Policy(answer_within_ms=10_000, keep_for_s=600, audit_rate=0.0)
    folder, limits = tmp_path_factory.mktemp("system"), f"[limits]\ndevice_per_s = 20.0\ndevice_burst = {BURST}.0\n"
    with System(folder, policy=policy, cloud_extra=limits) as system:
        yield UnderAttack(system, system.start_agent(AGENT))


@pytest.fixture
def target(whole: UnderAttack) -> Iterator[UnderAttack]:
    yield whole
    whole.is_well()
