"""Pictures in the limited child: the same pixels as here, and whatever a picture does to the child costs that picture alone."""

import contextlib
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from hostile_pictures import HOSTILE, NOISE, jpeg_of_scans, saved

from outrider_engine.decoder import PictureDecoder, _environment, decoder_of
from outrider_wire.errors import CallerInputError, OperatorSetupError
from outrider_wire.images import Mode, decode_picture
from outrider_wire.limits import IMAGE_PIXELS
from outrider_wire.task import InputPart

GOOD = saved(NOISE, "PNG")


@pytest.fixture(scope="module")
def decoder() -> Iterator[PictureDecoder]:
    with PictureDecoder() as running:
        yield running


def asked(decoder: PictureDecoder, data: bytes | str, mode: Mode = "RGB", max_pixels: int = IMAGE_PIXELS) -> np.ndarray:
    return np.asarray(decoder(data, part="image", mode=mode, max_pixels=max_pixels))


def reason(decoder: PictureDecoder, data: bytes) -> str:
    with pytest.raises(CallerInputError) as caught:
        asked(decoder, data)
    assert caught.value.part == "image" and "'image'" in str(caught.value)
    return caught.value.reason


def child_of(decoder: PictureDecoder) -> psutil.Process:
    """The process behind it, ready."""
    asked(decoder, GOOD)
    child = decoder._child
    assert child is not None
    return psutil.Process(child._process.pid)


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_the_pixels_are_those_of_decoding_here(decoder: PictureDecoder, kind: str, mode: Mode) -> None:
    data = saved(NOISE, kind)
    here = decode_picture(data, part="image", mode=mode, max_pixels=IMAGE_PIXELS)
    assert np.array_equal(asked(decoder, data, mode), np.asarray(here))


def test_a_picture_is_a_copy_that_later_ones_do_not_touch(decoder: PictureDecoder) -> None:
    first = decoder(GOOD, part="image", mode="L", max_pixels=IMAGE_PIXELS)
    kept = np.asarray(first).copy()
    asked(decoder, saved(NOISE.point(lambda value: 255 - value), "PNG"), "L")
    assert np.array_equal(np.asarray(first), kept)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_picture_gets_the_same_reason_as_here(decoder: PictureDecoder, name: str) -> None:
    data, expected = HOSTILE[name]
    assert reason(decoder, data) == expected
    assert asked(decoder, GOOD).shape == (64, 64, 3)
    assert decoder.counts["restarts"] == 0, "a refusal costs no process"


def test_text_is_refused_here(decoder: PictureDecoder) -> None:
    with pytest.raises(CallerInputError, match="is text"):
        asked(decoder, "not a picture")


def test_the_tasks_own_bound_holds_below_the_decoders(decoder: PictureDecoder) -> None:
    with pytest.raises(CallerInputError, match="more than the 4095"):
        asked(decoder, GOOD, max_pixels=64 * 64 - 1)


def test_the_decoders_bound_holds_above_the_tasks() -> None:
    with PictureDecoder(max_pixels=1_000) as small, pytest.raises(CallerInputError, match="more than the 1000"):
        asked(small, GOOD)


def dies_over(decoder: PictureDecoder, data: bytes, how: signal.Signals = signal.SIGSEGV) -> str:
    """The reason that a picture is refused for when the child ends while it decodes it."""
    child = child_of(decoder)
    child.suspend()

    def end() -> None:
        child.send_signal(how)
        with contextlib.suppress(psutil.NoSuchProcess):
            child.resume()  # only SIGKILL ends what is stopped

    ending = threading.Timer(0.1, end)
    ending.start()
    try:
        return reason(decoder, data)
    finally:
        ending.join()


@pytest.mark.parametrize("how", [signal.SIGSEGV, signal.SIGKILL, signal.SIGABRT])
def test_a_child_that_dies_costs_that_picture_and_the_next_is_answered(how: signal.Signals) -> None:
    with PictureDecoder() as decoder:
        assert dies_over(decoder, GOOD, how) == "decoder_crashed"
        assert asked(decoder, GOOD).shape == (64, 64, 3)
        assert (decoder.counts["restarts"], decoder.counts["decoder_crashed"]) == (1, 1)


def test_a_child_that_ends_between_two_pictures_costs_none() -> None:
    with PictureDecoder() as decoder:
        child = child_of(decoder)
        child.kill()
        gone, _ = psutil.wait_procs([child], timeout=5)
        assert gone or child.status() == psutil.STATUS_ZOMBIE
        assert asked(decoder, GOOD).shape == (64, 64, 3)
        assert decoder.counts == {"pictures": 2, "restarts": 1}


def test_a_child_that_hangs_is_ended_in_time() -> None:
    with PictureDecoder(timeout_s=0.3) as decoder:
        child = child_of(decoder)
        child.suspend()
        began = time.monotonic()
        assert reason(decoder, GOOD) == "decoder_timeout"
        assert time.monotonic() - began < 20
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE
        assert asked(decoder, GOOD).shape == (64, 64, 3)


def test_a_picture_that_needs_more_memory_than_there_is_costs_the_child_and_not_the_agent() -> None:
    large = saved(NOISE.resize((5600, 5600)), "JPEG")
    with PictureDecoder(max_pixels=32_000_000, memory_mb=256) as decoder:
        assert asked(decoder, GOOD).shape == (64, 64, 3)
        with pytest.raises(CallerInputError, match="more memory"):
            asked(decoder, large, max_pixels=32_000_000)
        assert asked(decoder, GOOD).shape == (64, 64, 3)
        assert decoder.counts["picture_memory"] == decoder.counts["restarts"] == 1


SPINS = """
import socket, sys
from outrider_engine.decoder import READY
from outrider_engine.decoder_child import grant
parent = socket.socket(fileno=0)
parent.sendall(READY)
parent.recv(9)
grant(0)
while True: pass
"""


@pytest.mark.slow  # the kernel counts processor time in whole seconds
def test_the_kernel_ends_a_child_that_spends_its_processor_time() -> None:
    with PictureDecoder(timeout_s=60, command=[sys.executable, "-c", SPINS]) as decoder:
        assert reason(decoder, GOOD) == "decoder_timeout"


LIES = """
import socket, struct
from outrider_engine.decoder import READY, REPLY
parent = socket.socket(fileno=0)
parent.sendall(READY)
parent.recv(1 << 20)
parent.sendall({answer})
parent.recv(1)
"""


@pytest.mark.parametrize(
    "answer",
    [
        "REPLY.pack(0, 2**32 - 1, 2**32 - 1, 2**32 - 1)",
        "REPLY.pack(0, 4, 4, 2**32 - 1)",
        "REPLY.pack(0, 0, 0, 0)",
        "REPLY.pack(1, 0, 0, 2**32 - 1)",
        "REPLY.pack(1, 0, 0, 3) + b'{}}'",
        'REPLY.pack(1, 0, 0, 2000) + b\'{"what":"\' + b"x" * 1990 + b\'"}\'',
        'b""',
    ],
    ids=[
        "terabytes",
        "more bytes than pixels",
        "no pixels",
        "a long sentence",
        "no JSON",
        "a sentence too long",
        "nothing",
    ],
)
def test_a_child_that_was_taken_over_is_not_believed(answer: str) -> None:
    command = [sys.executable, "-c", LIES.format(answer=answer)]
    with PictureDecoder(command=command, timeout_s=0.5) as decoder:
        assert reason(decoder, GOOD) in {"decoder_crashed", "decoder_timeout"}


SHRINKS = """
import contextlib, os, socket
from outrider_engine.decoder import READY, REPLY
parent = socket.socket(fileno=0)
parent.sendall(READY)
parent.recv(1 << 20)
for size in (1 << 30, 0):
    with contextlib.suppress(OSError):
        os.ftruncate(1, size)
parent.sendall(REPLY.pack(0, 64, 64, 64 * 64 * 3))
parent.recv(1)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can seal what is shared")
def test_a_child_that_was_taken_over_cannot_take_the_shared_memory_away() -> None:
    """Else its parent would be ended by SIGBUS as it reads the pixels: run where that can be seen."""
    ask = (
        "import sys; from outrider_engine.decoder import PictureDecoder\n"
        f"with PictureDecoder(command=[sys.executable, '-c', {SHRINKS!r}]) as decoder:\n"
        "    print(decoder(b'x', part='image', mode='RGB', max_pixels=4096).size)\n"
    )
    done = subprocess.run([sys.executable, "-c", ask], env=_environment(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(64, 64)\n"), done.stderr


def test_a_child_that_cannot_start_is_the_operators_matter() -> None:
    with pytest.raises(OperatorSetupError) as caught:
        PictureDecoder(command=["/nowhere/python"]).start()
    assert caught.value.reason == "no_decoder"


@pytest.mark.skipif(sys.platform != "linux", reason="limits are read from Linux's /proc")
def test_the_child_can_open_nothing_and_gain_nothing(decoder: PictureDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    child = child_of(decoder)
    assert child.rlimit(psutil.RLIMIT_NOFILE) == (3, 3)
    assert child.rlimit(psutil.RLIMIT_NPROC) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
    assert child.rlimit(psutil.RLIMIT_AS)[0] < 1 << 30
    assert 0 < child.rlimit(psutil.RLIMIT_CPU)[0] < 100
    assert "NoNewPrivs:\t1" in Path(f"/proc/{child.pid}/status").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="the environment is read from Linux's /proc")
def test_the_child_knows_no_secret_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LARGE_MODEL_KEY", "sesame")
    with PictureDecoder() as decoder:
        assert "LARGE_MODEL_KEY" not in child_of(decoder).environ()


def test_a_signal_to_the_whole_group_leaves_it_to_its_parent() -> None:
    """An agent that is asked to stop still answers what is under way."""
    with PictureDecoder() as decoder:
        child = child_of(decoder)
        for number in (signal.SIGINT, signal.SIGTERM):
            child.send_signal(number)
        assert asked(decoder, GOOD).shape == (64, 64, 3)
        assert decoder.counts["restarts"] == 0


def test_it_ends_with_the_decoder() -> None:
    decoder = PictureDecoder()
    child = child_of(decoder)
    decoder.close()
    assert not psutil.pid_exists(child.pid)


def test_threads_take_turns() -> None:
    with PictureDecoder() as decoder:
        failures: list[BaseException] = []

        def work(shade: int) -> None:
            picture = NOISE.point(lambda value: value // shade)
            data, expected = saved(picture, "PNG"), np.asarray(picture)
            try:
                for _ in range(20):
                    assert np.array_equal(asked(decoder, data), expected)
            except AssertionError as error:
                failures.append(error)

        threads = [threading.Thread(target=work, args=(shade,)) for shade in (1, 2, 3, 4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert decoder.counts == {"pictures": 80}


def test_a_progressive_bomb_is_refused_before_it_is_decoded(decoder: PictureDecoder) -> None:
    assert reason(decoder, jpeg_of_scans(5_000)) == "too_many_scans"


def test_a_task_without_pictures_needs_no_child() -> None:
    assert decoder_of([InputPart(name="question", modality="text")]) is None
    assert decoder_of([InputPart(name="image", modality="image")]) is not None


def test_the_file_descriptors_do_not_add_up() -> None:
    before = len(list(Path("/proc/self/fd").iterdir())) if sys.platform == "linux" else 0
    for _ in range(2):
        with PictureDecoder() as decoder:
            child_of(decoder).kill()
            time.sleep(0.1)
            asked(decoder, GOOD)
    assert sys.platform != "linux" or len(list(Path("/proc/self/fd").iterdir())) == before
