"""Runs the client library's blocking connect away from the loop. Knows threads and sockets, no packets."""

import asyncio
import threading
from collections.abc import Callable

from paho.mqtt.client import Client


def connect_in_thread(client: Client, dial: Callable[[], None]) -> asyncio.Future[None]:
    """Runs ``dial``, which connects ``client``, in a thread that nothing ever waits for; whatever it raises is raised here.

    Name resolution, TCP and TLS all block in the client library. A daemon thread, not an executor: an executor is joined
    when the loop ends, and a resolver may take half a minute. When the result is no longer wanted, the socket is closed.
    """
    loop = asyncio.get_running_loop()
    connected: asyncio.Future[None] = loop.create_future()

    def settle(failure: BaseException | None) -> None:
        if connected.done():
            drop_socket(client)
        elif failure is None:
            connected.set_result(None)
        else:
            connected.set_exception(failure)

    def work() -> None:
        failure: BaseException | None = None
        try:
            dial()
        except BaseException as error:  # noqa: BLE001  it is raised where the future is awaited
            failure = error
        try:
            loop.call_soon_threadsafe(settle, failure)
        except RuntimeError:  # the loop has ended meanwhile
            drop_socket(client)

    threading.Thread(target=work, name="mqtt-connect", daemon=True).start()
    return connected


def drop_socket(client: Client) -> None:
    """Closes the client's socket, if it has one, without a word to the broker."""
    if (sock := client.socket()) is not None:
        sock.close()
