"""One task's examples, opened as a cloud configuration names them; the cloud may run meanwhile. Decides nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from outrider_cloud.config import CloudConfig, TaskSettings, read_task
from outrider_cloud.learning.library import Library
from outrider_cloud.roles_key import roles_key
from outrider_cloud.store.blobstore import BlobStore
from outrider_cloud.store_opening import store_of
from outrider_wire.errors import CallerUnknownError
from outrider_wire.roles import Shares
from outrider_wire.task import Task


@dataclass(frozen=True, kw_only=True)
class OpenTask:
    """A task with its settings, its examples and what decides their roles."""

    task: Task
    settings: TaskSettings
    library: Library
    key: str
    shares: Shares
    hands_over: bool
    """Whether what a round promotes becomes a release of the cloud, which begins its canary rollout (``[trust.automatic]``)."""


@contextmanager
def opened(config: CloudConfig, name: str) -> Iterator[OpenTask]:
    """Opens the store behind task ``name``, and lets it go again.

    Raises:
        CallerUnknownError: the configuration names no such task.
        OperatorError: a file or the store cannot be used.
    """
    settings, task = _find(config, name)
    store = store_of(config)
    try:
        store.open()
        library = Library(task=task, store=store, blobs=BlobStore(root=config.folder / "blobs"))
        yield OpenTask(
            task=task,
            settings=settings,
            library=library,
            key=roles_key(config),
            shares=config.roles.shares,
            hands_over=name in config.trust.automatic,
        )
    finally:
        store.close()


def _find(config: CloudConfig, name: str) -> tuple[TaskSettings, Task]:
    tasks = {task.name: (settings, task) for settings in config.tasks for task in [read_task(settings.file)]}
    if name not in tasks:
        raise CallerUnknownError(
            f"the configuration names no task {name!r}", reason="unknown_task", fix=f"choose {', '.join(tasks)}"
        )
    return tasks[name]
