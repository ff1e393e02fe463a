"""Renews this device's certificate before it runs out, for as long as the agent runs. Failing, it says so and tries again."""

import asyncio
import logging
import secrets
from datetime import UTC, datetime, timedelta
from pathlib import Path

from outrider_edge.joining.identity import Lifetime, lifetime
from outrider_edge.joining.join import renew
from outrider_wire.errors import OutriderError

log = logging.getLogger(__name__)

_LEAST_S, _MOST_S = 60.0, 3600.0
_RANDOM = secrets.SystemRandom()


def due(life: Lifetime, roll: float) -> datetime:
    """When to renew: with a third of its life left, a little earlier by ``roll`` in [0, 1), so that a fleet does not come at once."""
    return life.begins + (life.ends - life.begins) * (2 / 3 - roll * 0.1)


def pause_s(now: datetime, when: datetime) -> float:
    """How long to sleep before looking again: a clock may be set meanwhile, so never for long."""
    return min(max((when - now) / timedelta(seconds=1), _LEAST_S), _MOST_S)


class Renewing:
    """``run()`` until it is cancelled.

    Args:
        url: of the cloud's API.
        device: whose certificate.
        ca_file: whom to trust.
        cert_file: certificate and key; replaced in place, and read again by the next connection.
    """

    def __init__(self, *, url: str, device: str, ca_file: Path, cert_file: Path) -> None:
        self._url = url
        self._device = device
        self._ca_file = ca_file
        self._cert_file = cert_file
        self._roll = _RANDOM.random()

    async def run(self) -> None:
        """Looks now and then, renews when it is time."""
        while True:
            try:
                await self.turn()
                pause = pause_s(datetime.now(UTC), due(lifetime(self._cert_file), self._roll))
            except OutriderError as error:
                log.error("identity.not_renewed", extra={"reason": error.reason, "what": str(error)})
                pause = _MOST_S / 4
            except Exception:  # supervised: a device must not lose its certificate to one bad hour
                log.exception("identity.not_renewed")
                pause = _MOST_S / 4
            await asyncio.sleep(pause)

    async def turn(self) -> bool:
        """Renews if it is time; whether it did.

        Raises:
            OutriderError: it was time, and the cloud does not answer or refuses.
        """
        life = lifetime(self._cert_file)
        if datetime.now(UTC) < due(life, self._roll):
            return False
        await asyncio.to_thread(renew, self._url, device=self._device, ca_file=self._ca_file, cert_file=self._cert_file)
        log.info("identity.renewed", extra={"device": self._device, "until": str(lifetime(self._cert_file).ends)})
        return True
