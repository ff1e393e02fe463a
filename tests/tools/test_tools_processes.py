"""What a child of a benchmark has started ends with the block that started the child."""

import os
import select
from pathlib import Path

import pytest

from outrider.processes import Processes

MOST_S = 60
"""Until the end of a process is seen; on a machine that has time it takes none."""


@pytest.mark.parametrize("then", ["exec sleep 600", "exit 0"], ids=["lives", "has ended"])
@pytest.mark.parametrize("ends_by", [None, KeyboardInterrupt], ids=["the end", "Ctrl-C"])
def test_what_a_child_started_ends_with_the_block(
    tmp_path: Path, then: str, ends_by: type[BaseException] | None
) -> None:
    os.mkfifo(held := tmp_path / "held")
    try:
        with Processes(logs=tmp_path / "logs") as processes:
            processes.run("server", ["sh", "-c", f"(echo here; exec sleep 600) >{held} & {then}"])
            kept = held.open("rb", buffering=0)
            assert kept.read(5) == b"here\n"
            if ends_by is not None:
                raise ends_by
    except KeyboardInterrupt:
        assert ends_by is KeyboardInterrupt
    with kept:
        readable, _, _ = select.select([kept], [], [], MOST_S)
        assert readable, "the grandchild still holds its end"
        assert kept.read() == b""
