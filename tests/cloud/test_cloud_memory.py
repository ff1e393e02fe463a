"""A process that the system gives no more memory ends at once, and says why; one that has memory goes on."""

import resource
import subprocess
import sys
import threading
from pathlib import Path

from outrider_cloud.starved import EXIT_CODE, ended_when_starved

STARVED = """
import resource, time
from outrider_cloud.starved import ended_when_starved
with ended_when_starved():
    print("goes on", flush=True)
    input()
    time.sleep(60)
"""


def test_a_starved_process_ends_at_once_and_says_why() -> None:
    command = [sys.executable, "-c", STARVED]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"goes on\n"
            pages = int(Path(f"/proc/{child.pid}/statm").read_text().split()[0])
            resource.prlimit(child.pid, resource.RLIMIT_AS, (pages * resource.getpagesize() + 65_536, -1))
            _, said = child.communicate(b"\n", timeout=50)
        finally:
            child.kill()
    assert child.returncode == EXIT_CODE
    assert b"Cannot allocate memory" in said


def test_one_that_has_memory_is_left_alone_and_nothing_stays_behind() -> None:
    ended: list[str] = []
    with ended_when_starved(lambda: ended.append("ended")):
        (watcher,) = [thread for thread in threading.enumerate() if thread.name == "memory"]
        watcher.join(0.6)
        assert watcher.is_alive()
    watcher.join(30)
    assert not watcher.is_alive() and ended == []
