"""One answer a file: from the files of a command line, or from a folder as they appear in it. Knows not who answers."""

import signal
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from outrider.client import Client
from outrider.exchange import read_part
from outrider_edge.sources.attempts import Attempts, is_of_the_file
from outrider_edge.sources.folder import listing, put_away
from outrider_edge.sources.settling import Settling
from outrider_wire.errors import CallerError, CallerInputError, OutriderError
from outrider_wire.messages import Modality
from outrider_wire.report import AnswerReport

POLL_S = 0.5
"""Between two looks at a folder: a file that has not changed from one to the next is whole."""

AGAIN_S = 5.0
"""After an error that is not the file's fault, as when no agent answers; the file is then asked about again."""

Parts = Mapping[str, bytes | str]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What one input came to."""

    file: str
    """'' for an input that is all in ``--part``."""
    report: AnswerReport | None
    error: OutriderError | None = None


class Asker(Protocol):
    """Who answers. In this process: `outrider.infer.OneShot`; a running agent: `AgentAsker`."""

    @property
    def task(self) -> str:
        """The task's name."""
        ...

    @property
    def modalities(self) -> Mapping[str, Modality]:
        """Of the task's parts, by name."""
        ...

    def ask(self, parts: Parts) -> AnswerReport:
        """The report of one input; raises `OutriderError`."""
        ...


class AgentAsker:
    """Asks a running agent.

    Args:
        client: of it.
        task: the task's name; '': the only one that it has.
        wait_s: how long to wait for the large model; None: not at all.

    Raises:
        CallerInputError: it answers several tasks, and none is named.
        CallerUnknownError: it does not answer that one.
        UnreachableError: no agent answers.
    """

    def __init__(self, *, client: Client, task: str, wait_s: float | None) -> None:
        found = {each["name"]: each for each in client.tasks()}
        if not task and len(found) != 1:
            raise CallerInputError(
                f"the agent answers {', '.join(sorted(found))}", reason="ambiguous_task", fix="name one with --task"
            )
        self.task = task or next(iter(found))
        parts = found[self.task]["parts"] if self.task in found else []  # what it does not know, it says itself
        self.modalities: dict[str, Modality] = {part["name"]: part["modality"] for part in parts}
        self._client = client
        self._wait_s = wait_s

    def ask(self, parts: Parts) -> AnswerReport:
        """The final report within the time, or the device's own at once."""
        within_ms = None if self._wait_s is None else round(1000 * self._wait_s)
        return self._client.ask(self.task, parts, wait=self._wait_s is not None, answer_within_ms=within_ms)


def answers(asker: Asker, files: Sequence[Path], parts: Parts) -> Iterator[Outcome]:
    """One outcome a file; a bad one does not stop the others. Without files, one of ``parts`` alone.

    Raises:
        CallerInputError: it is not clear which part the files are.
        OutriderError: nobody answers at all: the bundle cannot be used, the agent cannot be reached.
    """
    if not files:
        yield _outcome(asker, "", parts)
        return
    name = part_of_files(asker, parts)
    for file in files:
        yield _asked(asker, name, file, parts)


def answers_from_folder(
    asker: Asker, folder: Path, parts: Parts, *, done: Path | None, stop: threading.Event
) -> Iterator[Outcome]:
    """One outcome a file that appears in ``folder``, until ``stop``; with ``done``, files go there once they are answered.

    A file that was answered and not yet moved when the process ends is asked about again. Errors as `answers`.
    """
    name, settling, attempts = part_of_files(asker, parts), Settling(), Attempts()
    while not stop.is_set():
        found = listing(folder)
        for file in attempts.due(found, time.monotonic()):
            settling.again(file)
        for file in settling.whole(found):
            outcome = _asked(asker, name, folder / file, parts)
            yield outcome
            error = outcome.error
            if error is not None and is_of_the_file(error):
                if not attempts.failed(file, found[file], time.monotonic()) and done is not None:
                    put_away(folder / file, done, trouble=error)
            elif error is not None and not isinstance(error, CallerError):
                settling.again(file)
                stop.wait(AGAIN_S)
            elif done is not None:
                put_away(folder / file, done, trouble=error)
            if stop.is_set():
                return
        stop.wait(POLL_S)


def until_signal() -> threading.Event:
    """Set by the first SIGINT or SIGTERM, so that what is under way is finished."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    return stop


def part_of_files(asker: Asker, given: Iterable[str]) -> str:
    """Which part the files are: the only one that is not given, or the only one of these that is not text.

    Raises:
        CallerInputError: none, or several could be.
    """
    left = [name for name in asker.modalities if name not in set(given)]
    found = left if len(left) == 1 else [name for name in left if asker.modalities[name] != "text"]
    if len(found) == 1:
        return found[0]
    raise CallerInputError(
        f"it is not clear which part of task {asker.task} the files are ({', '.join(asker.modalities)})",
        reason="ambiguous_file",
        fix="give every other part as --part NAME=VALUE, or NAME=@FILE",
    )


def _asked(asker: Asker, name: str, file: Path, parts: Parts) -> Outcome:
    try:
        return _outcome(asker, str(file), {**parts, name: read_part(name, file)})
    except OutriderError as error:
        return Outcome(file=str(file), report=None, error=error)


def _outcome(asker: Asker, file: str, parts: Parts) -> Outcome:
    try:
        return Outcome(file=file, report=asker.ask(parts))
    except OutriderError as error:
        return Outcome(file=file, report=None, error=error)
