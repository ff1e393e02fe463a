"""What the cloud counts of itself, for Prometheus. Knows names and labels; decides nothing."""

import time
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from outrider_cloud.large.base import Cost

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Queue(Protocol):
    """What waits, by task."""

    def depth(self, task: str) -> int:
        """How many."""
        ...

    def bytes(self, task: str) -> int:
        """How many bytes."""
        ...

    def oldest_s(self, task: str, now: float) -> float:
        """For how long the first has waited; ``now`` is the event loop's time."""
        ...


class Metrics:
    """One registry a process part, so that two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.offers = Counter(
            "outrider_offers",
            "Escalations as they arrived, repeats included",
            ["task", "outcome"],
            registry=self.registry,
        )
        self.settled = Counter(
            "outrider_inputs_settled", "Inputs by terminal state", ["task", "state"], registry=self.registry
        )
        self.dead_letters = Counter(
            "outrider_dead_letters", "Messages that could not be taken", ["reason"], registry=self.registry
        )
        self.joins = Counter(
            "outrider_joins",
            "Devices that asked for a certificate: accepted, waiting, renewed, or why not",
            ["outcome"],
            registry=self.registry,
        )
        self.revoked_messages = Counter(
            "outrider_revoked_messages", "Messages of revoked devices, which nobody reads", registry=self.registry
        )
        self.errors = Counter(
            "outrider_errors",
            "Failures of our own, caught where the work is supervised",
            ["where"],
            registry=self.registry,
        )
        self.replies_unsent = Counter(
            "outrider_replies_unsent", "Replies the broker did not take; the device asks again", registry=self.registry
        )
        self.handler_failures = Gauge(
            "outrider_handler_failures", "Messages whose handling raised; they are not retried", registry=self.registry
        )
        self.shed = Counter(
            "outrider_shed",
            "What was put off or left out because there was too much; by policy, and never silently",
            ["task", "reason"],
            registry=self.registry,
        )
        self.dead_letters_dropped = Counter(
            "outrider_dead_letters_dropped",
            "Messages that could not be taken and are not kept: too many at once, or the oldest of a full table",
            ["reason"],
            registry=self.registry,
        )
        self.waiting_bytes = Gauge(
            "outrider_waiting_bytes", "Bytes of the parts of what waits", ["task"], registry=self.registry
        )
        self.waiting_oldest = Gauge(
            "outrider_waiting_oldest_seconds", "Age of the oldest that waits", ["task"], registry=self.registry
        )
        self.loop_lag = Histogram(
            "outrider_event_loop_lag_seconds",
            "How much later than asked for the event loop comes round",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.store_works = Gauge(
            "outrider_store_works", "1 while the store can be read and written", registry=self.registry
        )
        self.deleted = Counter(
            "outrider_deleted", "Rows and files that housekeeping deleted, by kind", ["what"], registry=self.registry
        )
        self.waiting = Gauge("outrider_waiting", "Inputs admitted and unanswered", ["task"], registry=self.registry)
        self.batch_size = Histogram(
            "outrider_batch_size", "Inputs a call of the large model", ["task"], buckets=_SIZES, registry=self.registry
        )
        self.model_seconds = Histogram(
            "outrider_model_seconds",
            "Time of a call of the large model",
            ["task"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.answer_seconds = Histogram(
            "outrider_answer_seconds", "Arrival to committed answer", ["task"], buckets=_SECONDS, registry=self.registry
        )
        self.tokens = Counter("outrider_tokens", "Tokens the large model billed", ["task"], registry=self.registry)
        self.money = Counter("outrider_money", "What the large model billed", ["task"], registry=self.registry)
        self.device_alarms = Gauge(
            "outrider_device_alarms",
            "Devices whose audits have broken their certificate's promise",
            ["task"],
            registry=self.registry,
        )
        self.label_scores = Counter(
            "outrider_label_scores", "Labels that the large model scored", ["task"], registry=self.registry
        )
        self.put_off = Counter(
            "outrider_put_off",
            "Inputs that wait because the large model did not answer; each time counts",
            ["task", "reason"],
            registry=self.registry,
        )
        self.large_changes = Counter(
            "outrider_large_model_changes",
            "Times the large model became another one",
            ["task"],
            registry=self.registry,
        )
        self.forms = Counter(
            "outrider_forms",
            "Answers to inputs of which a first form came, by what they were decided on",
            ["task", "form"],
            registry=self.registry,
        )
        self.ready = Gauge("outrider_ready", "1 when escalations are being taken", registry=self.registry)

    def watch_queue(self, queue: Queue, tasks: Iterable[str]) -> None:
        """Shows depth, bytes and age of what waits, as they are when somebody looks."""
        for task in tasks:
            self.waiting.labels(task).set_function(partial(queue.depth, task))
            self.waiting_bytes.labels(task).set_function(partial(queue.bytes, task))
            self.waiting_oldest.labels(task).set_function(partial(_oldest_s, queue, task))

    def error(self, where: str) -> None:
        """One more failure of our own; one for whose count there is no memory is left out."""
        with suppress(MemoryError):
            self.errors.labels(where).inc()

    def paid(self, task: str, cost: Cost) -> None:
        """What one reply took."""
        self.tokens.labels(task).inc(cost.tokens)
        self.money.labels(task).inc(cost.money)
        self.label_scores.labels(task).inc(cost.scores)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


def _oldest_s(queue: Queue, task: str) -> float:
    return queue.oldest_s(task, time.monotonic())
