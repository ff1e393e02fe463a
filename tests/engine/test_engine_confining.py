"""What a child gives up: its network, in every thread, and a life of its own. Each is tried for real, in a process that may lose it."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from outrider_engine.confining import PARENT
from outrider_engine.selftest import child_environment

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or os.uname().machine not in ("x86_64", "aarch64"), reason="Linux on x86-64 or aarch64"
)
OPENS = """
import json, socket, threading
from outrider_engine.confining import without_network

def opened(family):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
    except OSError as error:
        return error.errno
    return 0

families = {"inet": socket.AF_INET, "inet6": socket.AF_INET6, "unix": socket.AF_UNIX}
before = {name: opened(family) for name, family in families.items()}
go, other = threading.Event(), {}
thread = threading.Thread(target=lambda: (go.wait(), other.update({n: opened(f) for n, f in families.items()})))
thread.start()
holds = without_network()
go.set()
thread.join()
print(json.dumps([holds, before, {n: opened(f) for n, f in families.items()}, other]))
"""
A_PARENT = """
import subprocess, sys, time
child = subprocess.Popen(sys.argv[1:], stdin=0, stdout=subprocess.DEVNULL)
print(child.pid, flush=True)
time.sleep(600)
"""
CONFINED = "import sys; from outrider_engine.confining import end_with_parent; end_with_parent(); sys.stdin.read()"
FREE = "import sys; sys.stdin.read()"


def test_no_thread_opens_a_socket_but_those_of_this_machine() -> None:
    done = subprocess.run([sys.executable, "-c", OPENS], stdout=subprocess.PIPE, check=True)
    holds, before, after, in_another_thread = json.loads(done.stdout)
    assert holds and set(before.values()) <= {0, 97}  # 97: a machine without IPv6
    assert after == in_another_thread == {"inet": 13, "inet6": 13, "unix": 0}


def gone(pid: int, within_s: float) -> bool:
    """Whether it has ended by then; one that nobody waits for is a zombie."""
    ends = time.monotonic() + within_s
    while time.monotonic() < ends:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def reads_its_input(pid: int) -> bool:
    """Once it waits in read(2), on its standard input."""
    ends = time.monotonic() + 60.0
    while time.monotonic() < ends:
        call = Path(f"/proc/{pid}/syscall").read_text().split()
        if call[:2] in (["0", "0x0"], ["63", "0x0"]):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (["-m", "outrider_engine.native.build_child"], True),
        (["-c", CONFINED], True),
        (["-c", FREE], False),
    ],
    ids=["the build of an engine", "confined", "a child that is not"],
)
def test_a_child_ends_with_a_parent_that_is_killed(command: list[str], ends: bool) -> None:
    reads, writes = os.pipe()  # its standard input stays open: it does not end for want of words
    parent = subprocess.Popen(
        [sys.executable, "-c", A_PARENT, sys.executable, *command], stdin=reads, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    child = psutil.Process(pid)
    try:
        assert reads_its_input(pid), "so it has given up what it gives up"
        parent.kill()
        parent.wait()
        assert gone(pid, 30.0 if ends else 1.0) is ends
    finally:
        parent.stdout.close()
        if child.is_running():
            child.kill()
        os.close(reads)
        os.close(writes)


@pytest.mark.parametrize(("parent", "lives"), [(os.getpid, True), (lambda: 1 << 22, False)], ids=["here", "gone"])
def test_a_child_whose_parent_ended_before_it_could_ask_ends_at_once(parent: Callable[[], int], lives: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CONFINED],
        stdin=subprocess.DEVNULL,
        env={**os.environ, PARENT: str(parent())},
        check=False,
    )
    assert done.returncode == (0 if lives else -signal.SIGKILL)


def test_what_our_children_are_told_of_their_parent_is_true() -> None:
    says = "import os; from outrider_engine.confining import PARENT; print(os.environ[PARENT] == str(os.getppid()))"
    done = subprocess.run(
        [sys.executable, "-c", says], stdout=subprocess.PIPE, env=child_environment(), text=True, check=True
    )
    assert done.stdout == "True\n"
