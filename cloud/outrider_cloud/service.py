"""Wires the cloud together, and takes it apart in the reverse order. The only module that makes the real things.

What a stop leaves unanswered stands claimed in the store with its lease given up: the next start, or another worker, takes it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Self

from sqlalchemy.exc import SQLAlchemyError

from outrider_cloud.access.gatekeeper import read_roster
from outrider_cloud.access.opening import open_access
from outrider_cloud.access.roster import Roster
from outrider_cloud.answering.deliveries import Deliveries
from outrider_cloud.answering.first import load_first
from outrider_cloud.answering.settler import Settler
from outrider_cloud.answering.worker import Worker
from outrider_cloud.background import Background
from outrider_cloud.broker_session import Unsaid, make_session
from outrider_cloud.config import CloudConfig, TaskSettings, check, read_tasks
from outrider_cloud.fleet import Fleet
from outrider_cloud.forgetting import Forgetting
from outrider_cloud.housekeeping import Chore, Housekeeping
from outrider_cloud.hub import Hub
from outrider_cloud.intake.admission import Admission
from outrider_cloud.intake.completing import Completing
from outrider_cloud.intake.intake import Intake
from outrider_cloud.intake.parking import Parking
from outrider_cloud.intake.pulls import Pulls
from outrider_cloud.intake.replies import Replies
from outrider_cloud.intake.requeue import Requeue
from outrider_cloud.intake.uploads import Uploads
from outrider_cloud.large.base import LargeModel
from outrider_cloud.large.table import load_large
from outrider_cloud.metrics import Metrics
from outrider_cloud.releases import Releases
from outrider_cloud.roles_key import roles_key
from outrider_cloud.rollout.opening import open_rollouts
from outrider_cloud.store import inputs
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store.retention import Keeper
from outrider_cloud.store.store import Store
from outrider_cloud.store_opening import store_of
from outrider_cloud.trust.opening import open_trust
from outrider_cloud.trust.service import Trust
from outrider_cloud.web.api import Api
from outrider_cloud.web.device_blobs import DeviceBlobs
from outrider_cloud.web.escalating import Escalating
from outrider_cloud.web.joining import Joining
from outrider_cloud.web.listening import listening
from outrider_cloud.web.parked import Parked
from outrider_cloud.web.releasing import Releasing
from outrider_cloud.web.rollouts import RolloutRoutes
from outrider_cloud.web.route import Route
from outrider_cloud.web.trusting import Trusting
from outrider_cloud.web.watching import Watching
from outrider_cloud.worker_name import default_name, held
from outrider_link.envelope import Outgoing
from outrider_link.files import make_folder
from outrider_link.session import MqttSession
from outrider_link.settings import read_secret
from outrider_wire.errors import OperatorSetupError, UnreachableError
from outrider_wire.task import Task
from outrider_wire.topics import Topics

log = logging.getLogger(__name__)

_DRAIN_S = 10.0
_DRAIN_IN_TROUBLE_S = 1.0
"""What cannot be written now will not be soon; it stands claimed, or is offered again."""

LoadLarge = Callable[[TaskSettings, Task], LargeModel]
"""Makes the large model of a task, as `outrider_cloud.large.table.load_large` does."""


class CloudService:
    """``async with CloudService(config) as service``: everything runs inside the block."""

    def __init__(self, config: CloudConfig, *, load: LoadLarge = load_large) -> None:
        self.name = config.worker or default_name()
        self.url = ""
        """Address of the HTTP API, once it runs."""
        self._config = config
        self._load = load
        self._stack = AsyncExitStack()
        self._topics = Topics(config.broker.root)
        self._metrics = Metrics()
        self._background = Background(on_error=self._metrics.error)
        self._roster = Roster()
        self._session: MqttSession | None = None
        self._intake: Intake | None = None
        self._store: Store | None = None
        self._requeue: Requeue | None = None
        self._forgetting: Forgetting | None = None
        self.chores: tuple[Chore, ...] = ()
        """What is done now and again, once it runs."""

    async def __aenter__(self) -> Self:
        """Starts; returns when the models are loaded, whether or not the broker answers yet.

        Raises:
            OutriderError: something is not as it must be; what was started is stopped again.
        """
        try:
            await self._start()
        except BaseException:  # cancelled too: __aexit__ is not called for what never entered
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        """Finishes the batches in hand, commits, and lets everything go."""
        await self._stack.aclose()

    def waiting_for(self) -> list[str]:
        """What must still come before escalations are taken; empty when ready."""
        waiting = [] if self._intake else ["large model"]
        if self._store is not None and self._store.trouble:
            waiting.append(f"store ({self._store.trouble})")
        if self._session is None or not self._session.connected:
            refused = self._session.refused if self._session else ""
            waiting.append(f"broker (it refuses {refused})" if refused else "broker")
        return waiting

    def offers(self) -> dict[str, int]:
        """Offers since the start: ``received``, and how many had each outcome."""
        return {"received": self._intake.received, **self._intake.outcomes} if self._intake else {"received": 0}

    # --- starting, from the ground up; the stack takes apart in reverse

    async def _start(self) -> None:
        config = self._config
        check(config)
        tasks = read_tasks(config)
        folder = _made(config.folder)
        self._stack.enter_context(held(self.name, folder))
        store = await self._open_store()
        blobs = BlobStore(root=_made(folder / "blobs"))
        served = {name: task for name, (_, task) in tasks.items()}
        self.trust = trust = await asyncio.to_thread(
            open_trust,
            config.trust,
            folder=folder,
            find_blob=blobs.find,
            publish=self._publish,
            topics=self._topics,
            background=self._background,
        )
        deltas = _made(folder / "deltas")
        releases = Releases(
            store=store,
            blobs=blobs,
            deltas=deltas,
            tasks=served,
            publish=self._publish,
            topics=self._topics,
            background=self._background,
            bytes_per_s=config.broker.blob_cap,
            device_bytes_per_s=config.devices.serve_bytes_per_s,
            signed=trust.blob,
        )
        uploads = Uploads(
            folder=_made(folder / "uploads"),
            quota_bytes=config.devices.upload_bytes,
            most_bytes=max(part.max_bytes for task in served.values() for part in task.inputs),
        )
        fleet = Fleet(store=store, devices_max=config.limits.devices_max, metrics=self._metrics, signed=trust.on)
        deliveries = Deliveries(
            name=self.name,
            store=store,
            replies=Replies(publish=self._publish, topics=self._topics, metrics=self._metrics),
            metrics=self._metrics,
        )
        rollouts, desk, collector, more = open_rollouts(
            config,
            store=store,
            blobs=blobs,
            deltas=deltas,
            releases=releases,
            trust=trust,
            publish=self._publish,
            topics=self._topics,
            connected=lambda: self._session is not None and self._session.connected,
        )
        escalating = Escalating(deliveries=deliveries)
        watching = Watching(health=self, store=store, fleet=fleet, tasks=list(served), metrics=self._metrics)
        await self._serve_api(
            [
                *watching.routes(),
                *Releasing(blobs=blobs, releases=releases, signed_only=trust.on).routes(),
                *DeviceBlobs(releases=releases, uploads=uploads).routes(),
                *escalating.routes(),
                *Parked(store=store, requeue=lambda: self._requeue, forgetting=lambda: self._forgetting).routes(),
                *Trusting(trust=trust).routes(),
                *RolloutRoutes(desk=desk, collector=collector).routes(),
                *await self._access_routes(store, trust),
            ]
        )
        pulls = Pulls(
            publish=self._publish,
            topics=self._topics,
            worker=self.name,
            blobs=blobs,
            folder=_made(folder / "incoming" / self.name),
            packet_limit=lambda: self._session.packet_limit if self._session else 0,
            uploads=uploads,
            bytes_per_s=config.broker.blob_cap,
        )
        settler = Settler(
            name=self.name, store=store, deliveries=deliveries, lease_s=config.lease_s, metrics=self._metrics
        )
        parking = Parking(
            store=store,
            deliveries=deliveries,
            background=self._background,
            limits=config.limits,
            metrics=self._metrics,
        )
        intake = await self._make_intake(
            tasks, store=store, blobs=blobs, settler=settler, deliveries=deliveries, pulls=pulls, parking=parking
        )
        hub = Hub(
            name=self.name,
            topics=self._topics,
            intake=intake,
            parking=parking,
            fleet=fleet,
            releases=releases,
            pulls=pulls,
            roster=self._roster,
            trust=trust,
            metrics=self._metrics,
        )
        self._requeue = Requeue(store=store, topics=self._topics, hub=hub, intake=intake)
        self._forgetting = Forgetting(
            store=store,
            blobs=blobs,
            workers=intake.workers,
            settler=settler,
            deliveries=deliveries,
            pulls=pulls,
            publish=self._publish,
            topics=self._topics,
            looked=rollouts.last.clear,
        )
        await self._forgetting.heed()
        await intake.taking.take_over(own=True)
        unsaid = [deliveries.resend, trust.announce, rollouts.connected]
        await self._connect(hub, intake, store, deliveries, unsaid)
        escalating.open(intake)
        housekeeping = Housekeeping(
            store=store,
            intake=intake,
            settler=settler,
            deliveries=deliveries,
            keeper=Keeper(store=store, blobs=blobs, tidy=pulls.tidy, retention=config.retention, metrics=self._metrics),
            lease_s=config.lease_s,
            roster=self._roster,
            metrics=self._metrics,
            more=[*more, Chore("heed", config.lease_s / 3, self._forgetting.heed)],
        )
        self.chores = housekeeping.chores
        for loop in (housekeeping.run(), housekeeping.watch_loop(), rollouts.run()):
            self._stack.callback(asyncio.create_task(loop).cancel)

    async def _make_intake(
        self,
        tasks: dict[str, tuple[TaskSettings, Task]],
        *,
        store: Store,
        blobs: BlobStore,
        settler: Settler,
        deliveries: Deliveries,
        pulls: Pulls,
        parking: Parking,
    ) -> Intake:
        config = self._config
        admission = Admission(
            limits=config.limits,
            tasks=frozenset(tasks),
            queue_max=config.batch.queue_max,
            queue_max_bytes=config.batch.queue_max_bytes,
            retry_after_s=config.batch.retry_after_s,
        )
        self._metrics.watch_queue(admission, list(tasks))
        workers = await self._load_workers(
            tasks,
            blobs=blobs,
            completer=Completing(pulls=pulls, settler=settler),
            settler=settler,
            admission=admission,
            roles_key=roles_key(config),
        )
        return Intake(
            name=self.name,
            workers=workers,
            store=store,
            pulls=pulls,
            settler=settler,
            deliveries=deliveries,
            admission=admission,
            parking=parking,
            lease_s=config.lease_s,
            background=self._background,
            metrics=self._metrics,
        )

    async def _connect(self, hub: Hub, intake: Intake, store: Store, deliveries: Deliveries, unsaid: Unsaid) -> None:
        """The last step: from here on escalations come in."""
        self._session = session = make_session(self._config.broker, self.name, hub, unsaid)
        await self._stack.enter_async_context(session)
        self._metrics.handler_failures.set_function(lambda: session.handler_failures)
        self._stack.push_async_callback(self._drain, store, intake, deliveries)
        self._intake = intake
        for worker in intake.workers:
            self._background.spawn(worker.run(), "worker")

    async def _open_store(self) -> Store:
        store = store_of(self._config)
        self._stack.callback(store.close)
        await asyncio.to_thread(store.open)
        self._store = store
        self._metrics.store_works.set_function(lambda: not store.trouble)
        return store

    async def _serve_api(self, routes: Sequence[Route]) -> None:
        settings = self._config.api
        api = Api(
            routes=routes,
            metrics=self._metrics,
            roster=self._roster,
            token=read_secret(Path(settings.token_file), "bearer token") if settings.token_file else "",
        )
        self.url = await self._stack.enter_async_context(listening(api, settings))

    async def _access_routes(self, store: Store, trust: Trust) -> list[Route]:
        """The routes by which devices are let in, where they are; who is refused is known before anything is served."""
        await read_roster(store, self._roster)
        if not self._config.access.on:
            return []
        desk, gatekeeper = open_access(
            self._config,
            store=store,
            roster=self._roster,
            topics=self._topics,
            metrics=self._metrics,
            root_of_trust=trust.root,
        )
        self._stack.callback(asyncio.create_task(gatekeeper.run()).cancel)
        return Joining(desk=desk).routes()

    async def _load_workers(
        self,
        tasks: dict[str, tuple[TaskSettings, Task]],
        *,
        blobs: BlobStore,
        completer: Completing,
        settler: Settler,
        admission: Admission,
        roles_key: str,
    ) -> dict[str, Worker]:
        workers: dict[str, Worker] = {}
        for name, (settings, task) in tasks.items():
            large = await asyncio.to_thread(self._load, settings, task)
            self._stack.push_async_callback(large.close)
            first = await asyncio.to_thread(load_first, settings.fuse_with, task, threads=settings.threads)
            if first is not None:
                self._stack.push_async_callback(first.close)
            workers[name] = Worker(
                task=task,
                settings=settings,
                batch=self._config.batch,
                large=large,
                first=first,
                parts=blobs,
                completer=completer,
                settler=settler,
                admission=admission,
                roles_key=roles_key,
                shares=self._config.roles.shares,
                background=self._background,
                metrics=self._metrics,
            )
        return workers

    # --- running

    async def _publish(self, message: Outgoing) -> bool:
        if self._session is None:
            raise UnreachableError("not connected to the broker yet", reason="broker_unreachable", fix="wait a moment")
        return await self._session.publish(message)

    async def _drain(self, store: Store, intake: Intake, deliveries: Deliveries) -> None:
        """Takes nothing more, finishes the batches in hand, and gives up the leases on the rest."""
        intake.drain()
        for worker in intake.workers:
            worker.stop()
        await self._background.drain(_DRAIN_S if not store.trouble else _DRAIN_IN_TROUBLE_S)
        try:
            await deliveries.flush()
            await store.write(partial(inputs.give_up, worker=self.name))
        except SQLAlchemyError:  # then leases run out by themselves, and some replies are sent twice
            log.exception("store.failed")


def _made(folder: Path) -> Path:
    try:
        make_folder(folder)
    except OSError as error:
        raise OperatorSetupError(
            f"the data folder {folder} cannot be made: {error.strerror}",
            reason="folder_unusable",
            fix="set data_dir to a folder that this user may write",
        ) from error
    return folder
