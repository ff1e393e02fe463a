"""`serve`: the cloud as a process, from its configuration to the signal that ends it. Wires nothing itself."""

import asyncio
import logging
import os
import signal

from outrider_cloud.config import CloudConfig
from outrider_cloud.large.table import load_large
from outrider_cloud.service import CloudService, LoadLarge
from outrider_cloud.starved import ended_when_starved
from outrider_link.service_notice import ServiceNotice

log = logging.getLogger(__name__)


async def serve(config: CloudConfig, *, load: LoadLarge = load_large) -> None:
    """Runs the cloud until SIGTERM or SIGINT, then finishes what is in hand. Without memory the process ends at once.

    Raises:
        OutriderError: the configuration, the machine or a bundle does not hold what it must; nothing is left running.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    signals = (signal.SIGTERM, signal.SIGINT)
    for number in signals:
        loop.add_signal_handler(number, stop.set)
    notice = ServiceNotice.of_environment(os.environ)
    try:
        async with notice.alive(), CloudService(config, load=load) as service:
            log.info("cloud.serving", extra={"api": service.url, "broker": config.broker.url, "worker": service.name})
            notice.say("READY=1", f"STATUS=serves at {service.url}")
            with ended_when_starved():
                await stop.wait()
            notice.say("STOPPING=1")
            log.info("cloud.stopping")
    finally:
        for number in signals:
            loop.remove_signal_handler(number)
