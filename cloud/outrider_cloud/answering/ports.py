"""What a worker needs of the rest of the cloud, as small protocols. Does nothing."""

from typing import Protocol

from outrider_cloud.intake.jobs import Job


class PartReader(Protocol):
    """Where a worker finds the parts that are not inside their escalation."""

    async def load(self, sha256: str) -> bytes | None:
        """The bytes; None when they are not here."""
        ...


class Completer(Protocol):
    """Who gets the full forms of an input whose first ones did not suffice."""

    async def complete(self, job: Job) -> bool:
        """Puts them into the job, as durably as its task asks. False: they cannot be had."""
        ...
